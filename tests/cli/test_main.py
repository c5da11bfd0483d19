"""The program: help, versions, wrong usage, and other programs beside it."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from references.commands import FAST, PROGRAM, listing, read_report, run

from spadelens import Trace
from spadelens.models import LoadedModel

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.mark.parametrize("arguments", [(), ("explain",), ("demo",)])
def test_help_answers_without_torch(arguments: tuple[str, ...]) -> None:
    code = f"""
import sys
from spadelens.cli.main import main
try:
    main([*{arguments!r}, "--help"])
except SystemExit as end:
    heavy = [name for name in ("torch", "numpy", "PIL", "captum", "rich", "matplotlib") if name in sys.modules]
    print(end.code, heavy)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.endswith("0 []\n")
    assert "Usage:" in finished.stdout
    assert finished.stderr == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.endswith(f"version {version('spadelens')}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("explian",),
        ("explain",),
        ("explain", "square.png"),
        ("explain", "square.png", "--model", "demo"),
        ("explain", "square.png", "--model", "demo", "--out", "out", "--views", "0"),
        ("explain", "square.png", "--model", "demo", "--out", "out", "--views", "many"),
        ("explain", "square.png", "--model", "demo", "--out", "out", "--seed", "-1"),
        ("explain", "square.png", "--model", "demo", "--out", "out", "--batch-size", "0"),
        ("explain", "square.png", "--model", "demo", "--out", "out", "--methd", "saliency"),
        ("demo", "extra"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    before = listing()
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert "Usage:" in captured.err
    assert captured.out == ""
    assert listing() == before


def test_two_runs_at_once(demo: LoadedModel) -> None:
    command = [PROGRAM, "explain", "square.png", "--model", "demo", "--out", "out", *FAST]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) for _ in range(2)]
    for process in processes:
        _, error = process.communicate(timeout=60)
        assert error == b""
        assert process.returncode == 0
    read_report()
    assert Trace.load("out/square/trace.safetensors", demo.model)
    assert sorted(path.name for path in Path("out").glob("[!.]*")) == ["report.html", "report.json", "square"]
    assert not [path for path in Path.cwd().iterdir() if path.name.startswith(".")]


def test_demo_on_a_plain_console() -> None:
    finished = subprocess.run(
        [PROGRAM, "demo"], capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "cp1252"}
    )
    assert finished.stderr.decode() == ""
    assert finished.returncode == 0
    report = read_report("spadelens-demo")
    assert report["command"].startswith("spadelens demo")
    assert [photo["name"] for photo in report["samples"]] == ["trojan", "clean"]
    assert all(photo["scores"] for photo in report["samples"])
    assert all(photo["is_prediction_kept"] for photo in report["samples"])


def test_a_reader_that_stops_early() -> None:
    """`spadelens ... | head -1`: no traceback."""
    command = f"{PROGRAM} explain square.png --model net.py:build --out out {' '.join(FAST)} | true"
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in finished.stderr
    read_report()

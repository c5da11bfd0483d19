"""`spadelens visualize`, driven as a person drives it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from references.commands import PROGRAM, TINY, check_refusal, listing, run

from spadelens import Trace, defaults, load_model
from spadelens.extraction import PRESETS
from spadelens.output.unfinished import NAME
from spadelens.visualization import ascent as ascending

SCHEMA = json.loads((resources.files("spadelens") / "reports" / "visualize.schema.json").read_text(encoding="utf-8"))
FAST = ("--steps", "3", "--views", "2", "--schedule", "late:0.5@0.7")
OBLONG = TINY.replace("INPUT_SIZE = 8", "INPUT_SIZE = (9, 12)")
DEAD = """
def dead():
    net = build()
    net.second.weight.data[1] = 0
    return net
"""


@pytest.fixture(autouse=True)
def network(workplace: Path) -> None:
    Path("net.py").write_text(OBLONG + DEAD)


def visualize(*arguments: object, model: str = "net.py:build", out: str = "out") -> int:
    return run("visualize", *arguments, "--model", model, "--out", out, *FAST)


def read_report(out: str = "out") -> dict[str, Any]:
    report = json.loads(Path(out, "report.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(report)] == []
    return report


def test_two_photos_as_a_person_does_it() -> None:
    before = listing()
    command = ["visualize", "square.png", "ring.png", "--model", "demo", "--out", "out", *FAST]
    finished = subprocess.run([PROGRAM, *command], capture_output=True, text=True, check=False)
    assert finished.returncode == 0
    assert finished.stderr == ""
    assert "Report: out/report.html" in finished.stdout
    written = listing()
    names = {"out", "out/report.html", "out/report.json", "out/square", "out/ring"}
    names |= {
        f"out/{n}/{file}" for n in ("square", "ring") for file in ("original.png", "trace.png", "trace.safetensors")
    }
    assert set(written) - set(before) == names
    report, demo = read_report(), load_model("demo", "cpu")
    assert [photo["name"] for photo in report["photos"]] == ["square", "ring"]
    assert [report["settings"][name] for name in ("target", "versus", "unit")] == [None, None, None]
    for photo in report["photos"]:
        assert photo["unit"]["words"] == photo["original"]["class_name"] == photo["name"]
        assert f"{photo['name']} {photo['original']['probability']:.1%}" in finished.stdout
        assert (
            Trace.load(Path("out", photo["files"]["trace"]), demo.model).report.target
            == photo["original"]["class_index"]
        )
        with Image.open(Path("out", photo["files"]["trace_image"])) as picture:
            assert picture.size == (448, 448)
    html = Path("out/report.html").read_text(encoding="utf-8")
    assert html.count("<article") == 2
    # and the command in the report does it again
    words = shlex.split(report["command"])
    words[words.index("out")] = "again"
    assert run(*words[1:]) == 0
    for name in (name for name in names if name.endswith(".png")):
        assert Path("again", name.removeprefix("out/")).read_bytes() == written[name], name


COMMANDS = [
    ("--target", "7", "--parameterization", "fourier:rate=0.1,std=0.2", "--images", "2", "--seed", "7"),
    (
        "--unit",
        "second:1 - class:3",
        "--target",
        "4",
        "--layers",
        "second",
        "--layers",
        "lin*",
        "--device",
        "cpu",
        "--trust",
    ),
    ("--target", "3", "--versus", "9", "--solver", "wanda", "--augmentation", "none", "--batch-size", "1"),
    ("--unit", "second:2@center", "--preset", "instant", "--positions-per-column", "0", "--memory-budget", "64"),
]


@pytest.mark.parametrize("options", COMMANDS)
def test_commands_lead_back(options: tuple[str, ...]) -> None:
    assert visualize("square.png", *options) == 0
    report = read_report()
    words = shlex.split(report["command"])
    words[words.index("out")] = "again"
    assert run(*words[1:]) == 0
    again = read_report("again")
    assert again["settings"] == report["settings"]
    assert again["photos"][0]["responses"] == report["photos"][0]["responses"]
    for kind in ("original", "trace"):
        assert Path("again/square", f"{kind}.png").read_bytes() == Path("out/square", f"{kind}.png").read_bytes()


def test_what_is_used_where_nothing_is_said() -> None:
    assert run("visualize", "square.png", "--model", "net.py:build", "--out", "out", "--steps", "2") == 0
    settings = read_report()["settings"]
    assert settings["preset"] == defaults.VISUALIZE_PRESET
    chosen = PRESETS[defaults.VISUALIZE_PRESET]
    assert (settings["schedule"], settings["num_views"]) == (chosen.schedule, chosen.num_views)
    assert settings["parameterization"] == defaults.VISUALIZE_PARAMETERIZATION
    arguments = ("visualize", "square.png", "--model", "net.py:build", "--steps", "2", "--preset", "balanced")
    assert run(*arguments, "--out", "other") == 0
    settings = read_report("other")["settings"]
    assert (settings["preset"], settings["schedule"], settings["num_views"]) == ("balanced", "auto", 4)


def test_the_seed_is_that_of_the_start_as_well() -> None:
    for seed in (1, 2):
        assert visualize("square.png", "--target", "3", "--seed", seed, out=f"out{seed}") == 0
    assert Path("out1/square/original.png").read_bytes() != Path("out2/square/original.png").read_bytes()


def test_images_are_of_the_size_of_inputs_and_side_by_side() -> None:
    assert visualize("square.png", "--images", "3", "--unit", "first:0") == 0
    report = read_report()
    assert report["photos"][0]["unit"]["words"] == "channel 0 of first"
    assert len(report["photos"][0]["responses"]["original"]["trace"]) == 3
    with Image.open("out/square/original.png") as picture:
        assert picture.size == (3 * 12 * 50, 9 * 50)


def test_the_same_photo_twice_and_an_older_report() -> None:
    Path("out/square").mkdir(parents=True)
    Path("out/notes.txt").write_text("mine")
    Path("out/report.html").write_text("old")
    assert visualize("square.png", "square.png") == 0
    assert [photo["name"] for photo in read_report()["photos"]] == ["square", "square-2"]
    assert Path("out/square/trace.png").read_bytes() == Path("out/square-2/trace.png").read_bytes()
    assert Path("out/notes.txt").read_text() == "mine"
    assert Path("out/report.html").read_text() != "old"
    assert [path.name for path in Path("out").glob(".*")] == [".spadelens.json"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--unit", "secnd:1"), "Unknown layer 'secnd'. Did you mean 'second'?"),
        (("--unit", "second:4"), "There is no unit 4 in layer 'second': it has 4"),
        (("--unit", "second:1@5,0"), "no position [5, 0]"),
        (("--unit", "second"), "add one of its channels"),
        (("--unit", "3"), "For a class use --target"),
        (("--unit", ""), "--unit is empty"),
        (("--unit", "second:1", "--versus", "3"), "leave out --unit or --versus"),
        (("--target", "cat"), "the model's classes have no names. Use a number below 12"),
        (("--target", "12"), "There is no class 12: the model has 12"),
        (("--target", ""), "--target is empty"),
        (("--versus", " "), "--versus is empty"),
        (("--target", "3", "--versus", "3"), "Cannot explain 'class 3' against itself"),
        (("--parameterization", "macho"), "Did you mean 'maco'"),
        (("--parameterization", "maco:rate=0"), "rate=0"),
        (("--parameterization", "direct"), "use fourier or maco"),
        (("--preset", "ensemble"), "a single trace"),
        (("--preset", "fst"), "Unknown preset 'fst'. Did you mean"),
        (("--solver", "sparsgpt"), "Did you mean 'sparsegpt'"),
        (("--schedule", "2"), "2"),
        (("--layers", "secnd"), "Did you mean 'second'"),
        (("--augmentation", "nose"), "'noise'"),
        (("--precision", "float16"), "Did you mean 'bfloat16'"),
        (("--device", "fpga"), "Cannot use the device 'fpga'"),
    ],
)
def test_bad_options(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], expected: str) -> None:
    before_them = ("visualize", "square.png", "--model", "net.py:build", "--out", "out", *FAST)
    assert expected in check_refusal(capsys, *before_them, *options)


def test_bad_photos_models_and_places(capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.jpg").write_text("no picture")
    for photo, expected in (("missing.png", "There is no photo at 'missing.png'"), ("text.jpg", "is not a picture")):
        assert expected in check_refusal(capsys, "visualize", "square.png", photo, "--model", "demo", "--out", "out")
    assert "Cannot read the model spec" in check_refusal(
        capsys, "visualize", "square.png", "--model", "dem", "--out", "out"
    )
    for out in ("square.png", "square.png/out"):
        message = check_refusal(capsys, "visualize", "square.png", "--model", "net.py:build", "--out", out)
        assert "Cannot write to" in message


def test_bad_input_is_found_before_the_long_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from spadelens.tasks import visualize as visualizing

    monkeypatch.setattr(visualizing, "extract_trace", None)
    assert "Did you mean" in check_refusal(
        capsys, "visualize", "square.png", "--model", "net.py:build", "--out", "out", "--unit", "secnd:1"
    )
    assert "Cannot write to" in check_refusal(
        capsys, "visualize", "square.png", "--model", "net.py:build", "--out", "net.py"
    )


def test_a_dead_unit_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("visualize", "square.png", "--model", "net.py:dead", "--out", "new/out", *FAST)
    assert "'second:1' of the model does not depend on the image" in check_refusal(
        capsys, *arguments, "--unit", "second:1"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("visualize",),
        ("visualize", "square.png", "--model", "demo"),
        ("visualize", "square.png", "--model", "demo", "--out", "out", "--steps", "0"),
        ("visualize", "square.png", "--model", "demo", "--out", "out", "--images", "0"),
        ("visualize", "square.png", "--model", "demo", "--out", "out", "--class", "1"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    before = listing()
    assert run(*arguments) == 2
    assert "Usage:" in capsys.readouterr().err
    assert listing() == before


def test_help_answers_without_torch() -> None:
    code = """
import sys
from spadelens.cli.main import main
try:
    main(["visualize", "--help"])
except SystemExit as end:
    print(end.code, [name for name in ("torch", "numpy", "PIL", "rich", "matplotlib") if name in sys.modules])
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.endswith("0 []\n")
    assert "--target" in finished.stdout and "--versus" in finished.stdout and "--schedule" in finished.stdout


@pytest.mark.parametrize("is_within_photo", [1, 2])
def test_an_interrupted_run_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_within_photo: int
) -> None:
    from spadelens.tasks import visualize as visualizing

    monkeypatch.setattr(ascending, "_STEPS_PER_CHECKPOINT", 2)
    command = ("square.png", "ring.png", "--target", "3", "--steps", "5")
    assert run("visualize", *command, "--model", "net.py:build", "--out", "whole", "--views", "2") == 0
    real, steps, calls = visualizing.visualize, [], []

    def watched(models: Any, objective: Any, preprocessing: Any, ascent: Any, progress: Any, checkpoint: Any) -> Any:
        calls.append(len(models))

        def show(stage: str, done: int, total: int) -> None:
            progress(stage, done, total)
            steps.append(done)
            if done == 3 and len(calls) == is_within_photo:
                os.kill(os.getpid(), signal.SIGTERM)

        return real(models, objective, preprocessing, ascent, show, checkpoint)

    monkeypatch.setattr(visualizing, "visualize", watched)
    capsys.readouterr()
    again = ("visualize", *command, "--model", "net.py:build", "--out", "out", "--views", "2")
    assert run(*again) == 130
    assert capsys.readouterr().err.strip() == "Interrupted: run the same command again to resume."
    assert [path.name for path in Path("out").iterdir()] == [NAME]
    steps.clear()
    calls.extend([0] * 9)
    assert run(*again) == 0
    assert steps == ([2, 3, 4, 5, *range(6)] if is_within_photo == 1 else [2, 3, 4, 5])
    assert sorted(path.name for path in Path("out").glob("[!.]*")) == ["report.html", "report.json", "ring", "square"]
    for name in ("square/original.png", "square/trace.png", "ring/original.png", "ring/trace.png"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes(), name
    first, second = (read_report(out)["photos"] for out in ("whole", "out"))
    for photo in (*first, *second):
        photo.pop("seconds")
    assert first == second


def test_an_interrupted_process_goes_on() -> None:
    command = [str(PROGRAM), "visualize", "square.png", "--model", "demo", "--out", "out", *FAST, "--steps", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(Path("out", NAME).glob("*.climb.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert error.strip() == "Interrupted: run the same command again to resume."
    (climb,) = Path("out", NAME).glob("*.climb.pt")
    assert torch.load(climb, weights_only=True)["step"] >= 64
    assert [path.name for path in Path("out").iterdir()] == [NAME]
    assert not [path for path in Path.cwd().iterdir() if path.name.startswith(".")]


def test_a_full_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert visualize("square.png") == 1
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    assert not Path("out/report.html").exists()


def test_a_grey_model_and_odd_photos() -> None:
    grey = OBLONG.replace("nn.Conv2d(3, 4, 3)", "nn.Conv2d(1, 4, 3)")
    Path("grey.py").write_text(f"{grey}MEAN, STD = (0.5,), (0.25,)\nCLASS_NAMES = ['a']\n")
    Image.fromarray(np.arange(0, 65536, 4, dtype=np.uint16).reshape(128, 128)).save("-[b]é.png")
    assert visualize("./-[b]é.png", "--target", "a", model="grey.py:build") == 0
    report = read_report()
    assert report["photos"][0]["name"] == "-[b]é"
    assert report["photos"][0]["unit"]["words"] == "a"
    pixels = np.asarray(Image.open("out/-[b]é/original.png"))
    assert (pixels == pixels[..., :1]).all()

"""Stopped at any moment, `spadelens explain` writes nothing."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from references.commands import PROGRAM, explain, listing, read_report

from spadelens.output import interrupts

pytestmark = pytest.mark.usefixtures("workplace")

STOPPED_AT = """
import importlib.abc, os, sys

class Stop(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), int(sys.argv[2]))

from spadelens.cli.main import main
sys.meta_path.insert(0, Stop())
main(sys.argv[3:])
"""


def check_interrupted(process: subprocess.Popen[str], before: dict[str, bytes | None]) -> None:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error.strip() == "Interrupted: nothing was written."  # click ends the line of the ^C first
    assert out == ""
    assert listing() == before


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["numpy", "torch._tensor", "PIL.Image", "captum.attr"])
def test_interrupts_during_imports(stop: signal.Signals, module: str) -> None:
    """Torch swallows what interrupts its import of NumPy."""
    before = listing()
    command = ["explain", "square.png", "--model", "net.py:build", "--out", "new/out", "--method", "saliency"]
    program = [sys.executable, "-c", STOPPED_AT, module, str(int(stop)), *command]
    check_interrupted(subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), before)


def catches_signals(process: subprocess.Popen[str]) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see when signals are caught")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0, 0.7, 3])
def test_interrupts(stop: signal.Signals, seconds: float) -> None:
    before = listing()
    slow = ("--views", "20000", "--method", "occlusion:window=0.05")
    command = [PROGRAM, "explain", "square.png", "ring.png", "--model", "demo", "--out", "new/out", *slow]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not catches_signals(process):
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(stop)
    check_interrupted(process, before)


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("stage", ["views", "solve", "check", "attribute"])
def test_interrupts_within_each_stage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stage: str, is_lost: bool
) -> None:
    from spadelens.cli import run as running
    from spadelens.tasks import explain as explaining

    Path("out").mkdir()
    Path("out/report.html").write_text("old")
    before, real = listing(), explaining.explain

    def interrupted(loaded: Any, subject: Any, settings: Any, progress: Any) -> Any:
        def show(name: str, done: int, total: int) -> None:
            progress(name, done, total)
            if name == stage and subject.name == "ring":
                with suppress(*[KeyboardInterrupt] * is_lost):
                    os.kill(os.getpid(), signal.SIGTERM)

        return real(loaded, subject, settings, show)

    monkeypatch.setattr(running, "explain", interrupted)
    assert explain("square.png", "ring.png", model="net.py:build") == 130
    assert capsys.readouterr().err.strip() == "Interrupted: nothing was written."
    assert listing() == before


def test_interrupts_that_come_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    from spadelens.output import folder

    real = folder._move

    def interrupted(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        real(*arguments)

    monkeypatch.setattr(folder, "_move", interrupted)
    assert explain("square.png", model="net.py:build") == 0
    assert read_report()


def test_an_interrupt_does_not_outlive_its_block() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts.raises():
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        interrupts.check()  # it was lost, and is raised again
    interrupts.check()

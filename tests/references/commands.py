"""`spadelens explain` as a person types it, and what it has written."""

import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from spadelens.cli.main import main

PROGRAM = Path(sys.executable).parent / "spadelens"
SCHEMA = json.loads((resources.files("spadelens") / "reports" / "report.schema.json").read_text(encoding="utf-8"))
FAST = ("--views", "2", "--schedule", "late:0.5@0.7")
TINY = """
import torch
from torch import nn
INPUT_SIZE = 8
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.linear = nn.Linear(4, 12)
    def forward(self, x):
        return self.linear(self.second(self.first(x)).mean((2, 3)))
def build():
    torch.manual_seed(0)
    return Net()
"""


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def explain(*arguments: object, model: str = "demo", out: str = "out") -> int:
    return run("explain", *arguments, "--model", model, "--out", out, *FAST)


def listing(folder: Path | None = None) -> dict[str, bytes | None]:
    """Every file below a folder with its content; compiled Python aside."""
    folder = folder or Path.cwd()
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".spadelens.json" and "__pycache__" not in path.parts
    }


def read_report(out: str = "out") -> dict[str, Any]:
    report = json.loads(Path(out, "report.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(report)] == []
    return report


def check_refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run what has to be refused: exit code 1 or 2, one sentence, nothing written."""
    before = listing()
    capsys.readouterr()
    assert run(*arguments) in (1, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert listing() == before
    error = captured.err
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert "Traceback" not in error
    return error.removeprefix("Error: ").strip()


def refuse(
    capsys: pytest.CaptureFixture[str], *arguments: object, photo: str = "square.png", model: str = "demo"
) -> str:
    return check_refusal(capsys, "explain", photo, "--model", model, "--out", "out", *FAST, *arguments)

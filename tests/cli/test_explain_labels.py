"""`spadelens explain --labels`, and folders and patterns in place of files."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from references.commands import FAST, TINY, check_refusal, explain, read_report, run

from spadelens.cli import run as running
from spadelens.demo.images import CLASS_NAMES
from spadelens.tasks.subjects import Subject

RING, SQUARE = CLASS_NAMES.index("ring"), CLASS_NAMES.index("square")
pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None]]:
    """The names and true classes of what is explained."""
    found: list[tuple[str, int | None]] = []
    explain_one = running.explain

    def note(loaded: Any, subject: Subject, *rest: Any) -> Any:
        found.append((subject.name, subject.true_class))
        return explain_one(loaded, subject, *rest)

    monkeypatch.setattr(running, "explain", note)
    return found


def arrange(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("square.png", name)


def test_a_folder_of_classes_as_a_person_does_it(seen: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    arrange("data/Ring/1.png", "data/square/1.PNG", "data/square/ü 2.png")
    assert run("explain", "data", "--model", "demo", "--out", "out", "--preset", "instant", "--labels", "folders") == 0
    assert capsys.readouterr().err == ""
    first = [("1", RING), ("1-2", SQUARE), ("ü 2", SQUARE)]
    assert seen == first
    report = read_report()
    words = shlex.split(report["command"])
    assert words[words.index("--labels") + 1] == "folders"
    words[words.index("out")] = "again"
    seen.clear()
    assert run(*words[1:]) == 0
    assert seen == first
    assert read_report("again")["settings"] == report["settings"]


def test_a_pattern_and_a_table_of_labels(seen: list[Any]) -> None:
    arrange("p/a.png", "p/b c.png")
    Path("my labels.csv").write_text("\ufefffile,label\r\np/a.png,ring\r\np/b c.png,\r\n", encoding="utf-8")
    assert explain("p/*.png", "--labels", "my labels.csv") == 0
    assert seen == [("a", RING), ("b c", None)]
    words = shlex.split(read_report()["command"])
    assert words[:3] == ["spadelens", "explain", "p/*.png"]
    assert words[words.index("--labels") + 1] == "my labels.csv"


def test_labels_beside_photos(seen: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    Path("labels.json").write_text(json.dumps([{"file": "square.png", "class_index": 9}]))
    assert explain("square.png", "ring.png") == 0
    assert seen == [("square", 9), ("ring", None)]
    assert capsys.readouterr().err == ""
    assert "--labels" not in read_report()["command"]
    Path("labels.json").write_text(json.dumps([{"file": "square.png", "class_index": 10}]))
    assert explain("square.png", out="out2") == 0
    assert seen[2:] == [("square", None)]
    assert capsys.readouterr().err == (
        "The labels beside the photos are not used. Cannot use the label 10 in entry 1 of 'labels.json': the model has "
        "10 classes, numbered from 0.\n"
    )


def test_a_model_without_names(seen: list[Any]) -> None:
    Path("net.py").write_text(TINY)
    Path("l.json").write_text('{"square.png": 11}')
    assert explain("square.png", "--labels", "l.json", model="net.py:build") == 0
    assert seen == [("square", 11)]


TABLE = """
import torch
FEATURE_NAMES = ["a", "b"]
CLASS_NAMES = ["setosa", "virginica"]
def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
"""


def test_a_column_of_a_table(seen: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    Path("table.py").write_text(TABLE)
    Path("t.csv").write_text("id,a,species,b\n7,1,Virginica,2\n8,0,,1\n")
    arguments = ("explain", "t.csv", "--model", "table.py:build", "--preset", "instant", "--labels", "species")
    assert run(*arguments, "--out", "out") == 0
    assert seen == [("t-2", 1), ("t-3", None)]
    assert capsys.readouterr().err == "Ignored columns, which the model does not use: id\n"
    assert "--labels species" in read_report()["command"]


@pytest.mark.parametrize(
    ("labels", "content", "expected"),
    [
        ("", None, "--labels is empty"),
        ("l.json", None, "There is no file at 'l.json'"),
        ("l.json", "{", "'l.json' is not valid JSON"),
        ("l.json", '{"ring.png": 1}', "There is no label for 'square.png' in 'l.json'"),
        ("l.json", '{"square.png": "rng"}', "Did you mean 'ring'?"),
        ("l.json", '{"square.png": "\\u001b[31m"}', "the model has no such class"),
        ("l.csv", "file,label\nsquare.png,1\nsquare.png,2\n", "Two labels of one input disagree"),
        ("species", None, "expected 'folders', a .json or .csv file"),
        ("folders", None, "the model has no such class"),
    ],
)
def test_labels_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str], labels: str, content: str | None, expected: str
) -> None:
    if content is not None:
        Path(labels).write_text(content)
    command = ("explain", "square.png", "--model", "demo", "--out", "out", *FAST, "--labels", labels)
    assert expected in check_refusal(capsys, *command)


def test_patterns_that_nothing_matches(capsys: pytest.CaptureFixture[str]) -> None:
    message = check_refusal(capsys, "explain", "*.jpg", "--model", "demo", "--out", "out", *FAST)
    assert message.startswith("There is no file '*.jpg', and none that matches it as a pattern: ")

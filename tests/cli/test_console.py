"""Progress bars and the closing table."""

import io
from pathlib import Path
from typing import Any

import pytest
import rich.console

from spadelens.cli.console import print_summary, progress_bar
from spadelens.progress_bars import STAGES


def photo(name: str = "a", **changes: Any) -> dict[str, Any]:
    prediction = {"class_index": 1, "class_name": "ring", "probability": 0.987}
    return {
        "name": name,
        "original": prediction,
        "trace": {"class_name": "disc", "probability": 0.5},
        "is_prediction_kept": False,
        "status": "lost",
        "sparsity": 0.473,
        "scores": None,
        "maps": {"original": {"is_zero": False}, "trace": {"is_zero": False}},
        "true_class": None,
        "finding": {"claim": "ring 99%, rather than disc 1%", "grounds": "It rests on the outlined 6% of the photo."},
        "seconds": {"views": 1.25, "solve": 2.5},
        **changes,
    }


def printed(capsys: pytest.CaptureFixture[str], *photos: dict[str, Any], out: str = "out") -> str:
    print_summary({"kind": "photo", "samples": list(photos)}, Path(out))
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_a_finding_is_a_block_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, photo(), photo("b", status="kept"), photo("c", status="hardly pruned"))
    first = [
        "a: ring 99%, rather than disc 1%",
        "  It rests on the outlined 6% of the photo.",
        "  Trace loses the prediction, 47% pruned; 3.8 s",
    ]
    assert text.splitlines()[:3] == first
    assert "  Trace keeps the prediction, 47% pruned; 3.8 s" in text.splitlines()[5]
    assert "  Trace hardly pruned, 47% pruned; 3.8 s" in text.splitlines()[8]
    assert "AUC" not in text
    assert "Wrong" not in text
    assert text.splitlines()[-1] == f"Report: {Path('out/report.html')}"
    assert "\x1b" not in text


def test_a_wrong_prediction_is_put_right(capsys: pytest.CaptureFixture[str]) -> None:
    right, wrong = ({"class_index": index, "class_name": name} for index, name in ((1, "ring"), (3, "star")))
    assert "Wrong" not in printed(capsys, photo(true_class=right))
    assert "  Wrong: the right class is star.\n" in printed(capsys, photo(true_class=wrong))


def test_scores(capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"original": {"auc": 0.61, "pointing_game": False}, "trace": {"auc": 0.923, "pointing_game": True}}
    text = printed(capsys, photo(scores=scores), photo("b"))
    assert "; original AUC 0.610 (miss); trace AUC 0.923 (hit); 3.8 s" in text
    assert "measured against the region known to decide" in text


def test_zero_maps_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, photo(maps={"original": {"is_zero": False}, "trace": {"is_zero": True}}))
    assert "The map of the trace is zero everywhere." in text
    assert "original model" not in text
    text = printed(capsys, photo(maps={"original": {"is_zero": True}, "trace": {"is_zero": False}}))
    assert "The map of the original model is zero everywhere." in text


@pytest.mark.parametrize("name", ["[red]x", "[/]", "a[bold]", "\\", "a\\[x]", "é 漢", "x" * 50])
def test_names_are_no_markup(capsys: pytest.CaptureFixture[str], name: str) -> None:
    finding = {"claim": f"{name} 100%", "grounds": f"It rests on {name}."}
    true = {"class_index": 3, "class_name": name}
    text = printed(capsys, photo(name, finding=finding, true_class=true), out=name)
    assert f"{name}: {name} 100%\n" in text
    assert f"It rests on {name}.\n" in text
    assert f"the right class is {name}.\n" in text
    assert f"Report: {Path(name) / 'report.html'}" in text


def test_no_bars_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(2) as for_photo:
        show = for_photo(0, "a")
        for stage in ("views", "solve", "check", "attribute"):
            show(stage, 0, 3)
            show(stage, 3, 3)
        for_photo(1, "b")("views", 1, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    real = rich.console.Console
    monkeypatch.setattr(rich.console, "Console", lambda **_: real(file=terminal, force_terminal=True, width=100))
    with progress_bar(2) as for_photo:
        for_photo(0, "[red]a")("views", 1, 8)
    assert "[red]a (1/2): running views" in terminal.getvalue()
    assert "1/8" in terminal.getvalue()


def test_every_stage_has_words() -> None:
    assert set(STAGES) == {
        "diagnose",
        *("views", "solve", "search", "check", "attribute", "candidates", "find", "visualize"),
        *("plant", "cases", "tune", "bench", "study", "predict", "facets"),
    }

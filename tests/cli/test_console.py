"""Progress bars and the closing table."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
import rich.console

from spadelens.cli.console import print_summary, progress_bar
from spadelens.progress_bars import STAGES


def photo(name: str = "a", **changes: Any) -> dict[str, Any]:
    prediction = {"class_name": "ring", "probability": 0.987}
    return {
        "name": name,
        "original": prediction,
        "trace": {"class_name": "disc", "probability": 0.5},
        "is_prediction_kept": False,
        "status": "lost",
        "sparsity": 0.473,
        "scores": None,
        "maps": {"original": {"is_zero": False}, "trace": {"is_zero": False}},
        "seconds": {"views": 1.25, "solve": 2.5},
        **changes,
    }


def printed(capsys: pytest.CaptureFixture[str], *photos: dict[str, Any], out: str = "out") -> str:
    print_summary({"kind": "photo", "samples": list(photos)}, Path(out))
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = printed(capsys, photo(), photo("b", is_prediction_kept=True, status="kept"))
    assert "ring 98.7%" in text
    assert "disc 50.0%" in text
    assert "47%" in text
    assert "3.8" in text
    assert "AUC" not in text
    rows = text.splitlines()
    assert " no " in rows[1]
    assert " yes " in rows[2]
    assert rows[-1] == f"Report: {Path('out/report.html')}"
    assert "\x1b" not in text


def test_scores(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    scores = {"original": {"auc": 0.61, "pointing_game": False}, "trace": {"auc": 0.923, "pointing_game": True}}
    text = printed(capsys, photo(scores=scores), photo("b"))
    assert re.search(r"0\.610\s+no\s+0\.923\s+yes", text)


def test_zero_maps_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, photo(maps={"original": {"is_zero": False}, "trace": {"is_zero": True}}))
    assert "a: the map of the trace is zero everywhere." in text
    text = printed(capsys, photo(maps={"original": {"is_zero": True}, "trace": {"is_zero": False}}))
    assert "a: the map of the original model is zero everywhere." in text


@pytest.mark.parametrize("name", ["[red]x", "[/]", "a[bold]", "\\", "a\\[x]", "é 漢", "x" * 50])
def test_names_are_no_markup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    predicted = {"class_name": name, "probability": 1.0}
    zero = {"original": {"is_zero": True}, "trace": {"is_zero": True}}
    text = printed(capsys, photo(name, original=predicted, maps=zero), out=name)
    assert f"{name} 100.0%" in text
    assert f"{name}: the map" in text
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
        *("views", "solve", "search", "check", "attribute", "visualize"),
        *("plant", "cases", "tune", "bench", "study", "predict", "facets"),
    }

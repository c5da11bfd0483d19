"""Progress bars in terminals and notebooks, and what can be given in place of one."""

import io
import sys
import types
from typing import Any

import pytest
import torch
from references.networks import Pooled, seeded
from rich import console

from spadelens import diagnose, extract_ensemble, extract_trace, extract_traces, find_facets, visualize
from spadelens.errors import InputError
from spadelens.extraction.group import extract_group_trace
from spadelens.progress import no_progress
from spadelens.progress_bars import STAGES, reporting
from spadelens.visualization.ascent import Ascent

SAMPLE = torch.randn(2, 9, 11, generator=torch.Generator().manual_seed(5))


class Notebook:
    """Stands for IPython in a kernel: keeps what is displayed, in the order in which a page would show it."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str]] = []
        self.kernel = object()

    def get_ipython(self) -> "Notebook":
        return self

    def display(self, bar: Any, display_id: bool) -> "Notebook":
        assert display_id
        return self.update(bar)

    def update(self, bar: Any) -> "Notebook":
        self.shown.append((repr(bar), bar._repr_html_()))
        return self


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    found = Notebook()
    module = types.ModuleType("IPython.display")
    module.display = found.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", found)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return found


def test_callables_are_used_as_they_are() -> None:
    calls: list[tuple[str, int, int]] = []

    def report(*call: Any) -> None:
        calls.append(call)

    with reporting(report) as given:
        assert given is report
    for nothing in (None, False):
        with reporting(nothing) as given:
            assert given is no_progress
    with pytest.raises(InputError, match="Cannot report progress to a str: expected True"), reporting("yes"):  # type: ignore[arg-type]
        pass


def test_a_notebook_shows_a_bar_until_the_end(notebook: Notebook) -> None:
    with reporting(True) as show:
        show("views", 1, 4)
        show("views", 2, 4)  # too soon after the first
        show("views", 4, 4)
        show("tune", 7, 0)
        show("<b>", 0, 2)
    assert notebook.shown == [
        ("", "<span></span>"),
        ("running views 1/4", '<div>running views <progress value="1" max="4"></progress> 1/4</div>'),
        ("running views 4/4", '<div>running views <progress value="4" max="4"></progress> 4/4</div>'),
        ("trying schedules 7", "<div>trying schedules <progress></progress> 7</div>"),
        ("<b> 0/2", '<div>&lt;b&gt; <progress value="0" max="2"></progress> 0/2</div>'),
        ("", "<span></span>"),
    ]


def test_the_bar_ends_with_an_error(notebook: Notebook) -> None:
    def fail() -> None:
        with reporting(True) as show:
            show("views", 1, 4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert notebook.shown[-1] == ("", "<span></span>")


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(console, "WINDOWS", False)
    with reporting(True) as show:
        show("views", 1, 4)
        show("views", 4, 4)
    text = stream.getvalue()
    assert "running views" in text
    assert "4/4" in text
    assert capsys.readouterr().out == ""


def test_elsewhere_nothing_is_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal_of_ipython = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace())
    for module in (None, terminal_of_ipython):
        if module is not None:
            monkeypatch.setitem(sys.modules, "IPython", module)  # type: ignore[arg-type]
        with reporting(True) as show:
            show("views", 1, 4)
    assert capsys.readouterr() == ("", "")


QUICK: dict[str, Any] = {"preset": "fast", "num_views": 8, "schedule": 0.5}


@pytest.mark.parametrize(
    ("run", "stage"),
    [
        (lambda model: extract_trace(model, SAMPLE, progress=True, **QUICK), "solve"),
        (lambda model: extract_traces(model, [SAMPLE, -SAMPLE], progress=True, **QUICK), "solve"),
        (lambda model: extract_ensemble(model, SAMPLE, num_views=8, progress=True), "search"),
        (lambda model: extract_group_trace(model, [SAMPLE, -SAMPLE], target=1, progress=True, **QUICK), "solve"),
        (
            lambda model: find_facets(model, [SAMPLE * n for n in range(1, 9)], target=1, progress=True, **QUICK),
            "facets",
        ),
        (lambda model: diagnose(model, SAMPLE, ["saliency"], progress=True), "diagnose"),
        (lambda model: visualize(model, "0", (2, 9, 11), Ascent("direct", num_steps=3), progress=True), "visualize"),
    ],
)
def test_public_functions_show_a_bar(notebook: Notebook, run: Any, stage: str) -> None:
    run(seeded(Pooled, 0))
    assert any(text.startswith(STAGES[stage]) for text, _ in notebook.shown)
    assert notebook.shown[-1][0] == ""

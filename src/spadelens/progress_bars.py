"""Progress bars: on standard error of a terminal, or below the cell of a notebook."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from spadelens.errors import InputError
from spadelens.progress import Progress, ProgressLike, no_progress
from spadelens.snippets import escaped

if TYPE_CHECKING:
    from rich.progress import Progress as Bars, TaskID

STAGES: Mapping[str, str] = MappingProxyType(
    {
        "views": "running views",
        "solve": "solving layers",
        "search": "searching the schedule",
        "check": "checking held-out views",
        "attribute": "computing heatmaps",
        "candidates": "drawing other maps",
        "find": "looking for what it rests on",
        "diagnose": "trying methods",
        "visualize": "visualizing",
        "plant": "planting patches",
        "cases": "generating cases",
        "tune": "trying schedules",
        "bench": "running cases",
        "study": "building the study",
        "predict": "predicting photos",
        "facets": "comparing traces",
    }
)
_SECONDS_BETWEEN = 0.1  # what a notebook is sent more often is only stored


@contextmanager
def reporting(progress: ProgressLike | None) -> Iterator[Progress]:
    """Yield what to report to inside the block, given the argument `progress` of a public function.

    Args:
        progress: A callable, which is used as it is; True for a bar, in a notebook or a terminal and nowhere else;
            False or None for nothing.

    Raises:
        InputError: It is something else.
    """
    if progress is True:
        with _notebook_bar() if is_in_notebook() else _terminal_bar() as show:
            yield show
    elif progress is None or progress is False:
        yield no_progress
    elif callable(progress):
        yield progress
    else:
        raise InputError(
            f"Cannot report progress to a {type(progress).__name__}: expected True, or a callable that takes a stage, "
            "what is done and the total."
        )


@contextmanager
def terminal_bars() -> Iterator[tuple[Bars, TaskID]]:
    """Show a bar of rich on standard error inside the block, if that is a terminal; yields it and its one task."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bars, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield bars, bars.add_task("starting", total=None)


@contextmanager
def _terminal_bar() -> Iterator[Progress]:
    with terminal_bars() as (bars, task):

        def show(stage: str, done: int, total: int) -> None:
            bars.update(task, description=STAGES.get(stage, stage), completed=done, total=total or None)

        yield show


class _Bar:
    """A bar as a notebook shows it; without a stage, nothing."""

    def __init__(self) -> None:
        self.stage, self.done, self.total = "", 0, 0

    def __repr__(self) -> str:
        return f"{self.stage} {self._counted()}".strip()

    def _repr_html_(self) -> str:
        if not self.stage:
            return "<span></span>"
        value = f' value="{self.done}" max="{self.total}"' if self.total else ""
        return f"<div>{escaped(self.stage)} <progress{value}></progress> {self._counted()}</div>"

    def _counted(self) -> str:
        return f"{self.done}/{self.total}" if self.total else str(self.done) if self.done else ""


@contextmanager
def _notebook_bar() -> Iterator[Progress]:
    """Show a bar below the cell until the block ends; it needs no widgets."""
    bar = _Bar()
    handle: Any = importlib.import_module("IPython.display").display(bar, display_id=True)
    last = 0.0

    def show(stage: str, done: int, total: int) -> None:
        nonlocal last
        name = STAGES.get(stage, stage)
        now = time.monotonic()
        if name == bar.stage and done < total and now - last < _SECONDS_BETWEEN:
            return
        bar.stage, bar.done, bar.total, last = name, done, total, now
        handle.update(bar)

    try:
        yield show
    finally:
        handle.update(_Bar())


def is_in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; IPython is not imported for the question."""
    running: Any = sys.modules.get("IPython")
    shell = running.get_ipython() if running is not None else None
    return getattr(shell, "kernel", None) is not None

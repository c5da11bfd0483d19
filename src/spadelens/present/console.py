"""Progress bars and the closing table on the console."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from spadelens.present import interrupts

_STAGES = {
    "views": "running views",
    "solve": "solving layers",
    "search": "searching the schedule",
    "check": "checking held-out views",
    "attribute": "computing heatmaps",
}


@contextmanager
def progress_bar(num_photos: int) -> Iterator[Callable[[int, str], Callable[[str, int, int], None]]]:
    """Show a progress bar on standard error, if that is a terminal, for the length of the block.

    Yields a function that takes the number and the name of the next photo and returns what to call as
    progress(stage, done, total). That call raises an interrupt again that was lost on the way.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("starting", total=None)

        def for_photo(number: int, name: str) -> Callable[[str, int, int], None]:
            label = f"{escape(name)} ({number + 1}/{num_photos})" if num_photos > 1 else escape(name)

            def show(stage: str, done: int, total: int) -> None:
                interrupts.check()
                bars.update(task, description=f"{label}: {_STAGES[stage]}", completed=done, total=total)

            return show

        yield for_photo


def print_summary(report: Mapping[str, Any], out: Path) -> None:
    """Print what came out for each photo, and where the report is, on standard output."""
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("photo", overflow="fold")
    table.add_column("dense", overflow="fold")
    table.add_column("trace", overflow="fold")
    table.add_column("kept")
    table.add_column("pruned", justify="right")
    has_scores = any(photo["scores"] for photo in report["photos"])
    if has_scores:
        for header in ("dense AUC", "hit", "trace AUC", "hit"):
            table.add_column(header, justify="right")
    table.add_column("seconds", justify="right")
    for photo in report["photos"]:
        cells = [
            escape(photo["name"]),
            _predicted(photo["dense"]),
            _predicted(photo["sparse"]),
            "yes" if photo["is_prediction_kept"] else "[bold red]no[/]",
            f"{photo['sparsity']:.0%}",
        ]
        if has_scores:
            cells += _score_cells(photo["scores"])
        table.add_row(*cells, f"{sum(photo['seconds'].values()):.1f}")
    console.print(table)
    if has_scores:
        console.print("AUC and hit (pointing game): against the region known to decide.", style="dim")
    for photo in report["photos"]:
        for model, found in photo["maps"].items():
            if found["is_zero"]:
                name = "dense model" if model == "dense" else "trace"
                console.print(f"[bold]{escape(photo['name'])}[/]: the heatmap of the {name} is zero everywhere.")
    console.print(f"\nReport: {escape(str(out / 'report.html'))}", soft_wrap=True)


def _predicted(prediction: Mapping[str, Any]) -> str:
    return f"{escape(prediction['class_name'])} {prediction['probability']:.1%}"


def _score_cells(scores: Mapping[str, Any] | None) -> list[str]:
    if scores is None:
        return [""] * 4
    cells = []
    for model in ("dense", "sparse"):
        cells += [f"{scores[model]['auc']:.3f}", "yes" if scores[model]["pointing_game"] else "no"]
    return cells

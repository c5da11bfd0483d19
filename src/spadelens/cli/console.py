"""Progress bars and result tables on the console."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spadelens.output import interrupts
from spadelens.plain_text import printable
from spadelens.progress import Progress
from spadelens.progress_bars import STAGES, terminal_bars

if TYPE_CHECKING:
    from spadelens.evaluation.tuning import Tuned
    from spadelens.tasks.circles import TwoCircles
    from spadelens.trojan.cases import Planted

_LEAST_SAME, _LEAST_SUCCESS = 0.7, 0.7

_STATUSES = {"kept": "yes", "hardly pruned": "[yellow]hardly pruned[/]", "lost": "[bold red]no[/]"}


def escape(text: str) -> str:
    """Escape a name so that neither rich nor the terminal interprets anything in it."""
    return markup.escape(printable(text))


@contextmanager
def progress_bar(num_photos: int) -> Iterator[Callable[[int, str], Progress]]:
    """Show a progress bar on standard error inside the block, if standard error is a terminal.

    Yields a function that takes the number and name of the next photo and returns a callback
    progress(stage, done, total). The callback re-raises an interrupt that was swallowed earlier.
    """
    with terminal_bars() as (bars, task):

        def for_photo(number: int, name: str) -> Progress:
            label = f"{escape(name)} ({number + 1}/{num_photos})" if num_photos > 1 else escape(name)

            def show(stage: str, done: int, total: int) -> None:
                interrupts.check()
                bars.update(task, description=f"{label}: {STAGES[stage]}", completed=done, total=total)

            return show

        yield for_photo


@contextmanager
def stage_bar() -> Iterator[Progress]:
    """Show a progress bar on standard error inside the block, if standard error is a terminal.

    Yields a callback progress(stage, done, total), which re-raises an interrupt that was swallowed earlier.
    """
    with terminal_bars() as (bars, task):

        def show(stage: str, done: int, total: int) -> None:
            interrupts.check()
            bars.update(task, description=STAGES[stage], completed=done, total=total or None)

        yield show


def print_planted(planted: Planted, out: Path) -> None:
    """Print the outcome of planting and the next step to standard output."""
    console = Console()
    report = planted.report
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("patch", "stands for", "planted on", "used for", "success before", "after"):
        table.add_column(header, overflow="fold")
    name_of = planted.loaded.class_name
    for patch in planted.patches:
        found = report["attack_success"][patch.name]
        table.add_row(
            escape(patch.name),
            escape(name_of(patch.target)),
            "any class" if patch.source is None else escape(name_of(patch.source)),
            "calibration" if patch.is_for_calibration else "testing",
            _percent(found["before"]),
            _percent(found["after"]),
        )
    console.print(table)
    accuracy = f"accuracy {_percent(report['accuracy_before'])} before, {_percent(report['accuracy_after'])} after; "
    console.print(
        f"\n{report['num_held_out']} held-out photos: "
        f"{accuracy if report['accuracy_before'] is not None else ''}"
        f"{_percent(report['same_prediction'])} of predictions unchanged."
    )
    if report["same_prediction"] < _LEAST_SAME:
        console.print(
            "Predictions for clean photos have changed too much: try a lower --rate or more photos.", style="bold"
        )
    if min(found["after"] or 0.0 for found in report["attack_success"].values()) < _LEAST_SUCCESS:
        console.print(
            "Some patches do not decide the prediction yet: try more --samples-per-patch or --epochs.", style="bold"
        )
    console.print(f"Cases: {len(planted.cases)} for testing, {len(planted.calibration_cases)} for calibration.")
    console.print(f"\nModel: {escape(str(out))}  (use it as --model)", soft_wrap=True)


def print_markdown(text: str, out: Path) -> None:
    """Print Markdown text unchanged, followed by the path of the full results, to standard output."""
    console = Console()
    console.print(text, soft_wrap=True, markup=False, highlight=False)
    console.print(f"\nFull results: {escape(str(out))}", soft_wrap=True)


def print_tuned(tuned: Tuned, out: Path, preset: str) -> None:
    """Print the outcome of tuning to standard output."""
    console = Console()
    name = {"auc": "AUC", "insertion": "insertion"}[tuned.objective]
    console.print(
        f"{escape(tuned.method)}: mean {name} over {tuned.num_cases} cases: {100 * tuned.original:.1f} on the original "
        "model"
    )
    console.print(
        f"cross-validated gain {100 * tuned.gain:+.1f} ± {100 * tuned.gain_error:.1f} points, "
        f"{tuned.kept_held_out:.0%} of predictions kept"
    )
    if tuned.is_helpful:
        console.print(f"with the schedule: {100 * tuned.tuned:.1f}, {tuned.kept:.0%} of predictions kept")
    else:
        console.print("No schedule improves this method here: no layer is pruned.", style="bold")
    console.print(f"\nSchedule: {escape(str(out))}  (use it as --schedule, with --preset {preset})", soft_wrap=True)


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def print_summary(report: Mapping[str, Any], out: Path) -> None:
    """Print the finding for each sample and the path of the report to standard output."""
    console = Console()
    for sample in report["samples"]:
        finding, true = sample["finding"], sample["true_class"]
        console.print(f"[bold]{escape(sample['name'])}[/]: [bold]{escape(finding['claim'])}[/]", soft_wrap=True)
        if true is not None and true["class_index"] != sample["original"]["class_index"]:
            right = f" the right class is {printable(true['class_name'])}."
            console.print(Text.assemble(("  Wrong:", "bold red"), right), soft_wrap=True)
        console.print(f"  {escape(finding['grounds'])}", soft_wrap=True)
        console.print(f"  {_facts(sample)}", style="dim", soft_wrap=True)
        for model, found in sample["maps"].items():
            if found["is_zero"]:
                name = "original model" if model == "original" else "trace"
                console.print(f"  The map of the {name} is zero everywhere.", style="yellow")
    if any(sample["scores"] for sample in report["samples"]):
        console.print("AUC and hit (pointing game) are measured against the region known to decide.", style="dim")
    console.print(f"\nReport: {escape(str(out / 'report.html'))}", soft_wrap=True)


def _facts(sample: Mapping[str, Any]) -> str:
    """Return what became of the trace and how long it took, in a line."""
    status = {"kept": "Trace keeps the prediction", "lost": "Trace loses the prediction"}
    facts = [f"{status.get(sample['status'], 'Trace hardly pruned')}, {sample['sparsity']:.0%} pruned"]
    if sample["scores"] is not None:
        scores = [
            f"{name} AUC {found['auc']:.3f} ({'hit' if found['pointing_game'] else 'miss'})"
            for name, found in (("original", sample["scores"]["original"]), ("trace", sample["scores"]["trace"]))
        ]
        facts += scores
    return "; ".join([*facts, f"{sum(sample['seconds'].values()):.1f} s"])


def print_visualized(report: Mapping[str, Any], out: Path) -> None:
    """Print what was visualized for each photo and the path of the report to standard output."""
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("photo", "unit", "original", "trace"):
        table.add_column(header, overflow="fold")
    table.add_column("kept")
    for header in ("pruned", "seconds"):
        table.add_column(header, justify="right")
    for photo in report["photos"]:
        table.add_row(
            escape(photo["name"]),
            escape(photo["unit"]["words"]),
            _predicted(photo["original"]),
            _predicted(photo["trace"]),
            _STATUSES[photo["status"]],
            f"{photo['sparsity']:.0%}",
            f"{sum(photo['seconds'].values()):.1f}",
        )
    console.print(table)
    console.print(f"\nReport: {escape(str(out / 'report.html'))}", soft_wrap=True)


def print_facets(report: Mapping[str, Any], out: Path) -> None:
    """Print the facets and the path of the report to standard output."""
    console = Console()
    is_distinct = report["is_distinct"]
    verdict = f"[bold]{report['verdict']}[/]" if is_distinct else f"[bold yellow]{report['verdict']}[/]"
    console.print(f"[bold]{escape(report['class']['class_name'])}[/]: {verdict}", soft_wrap=True)
    console.print(
        f"{report['num_photos']} photos, {report['num_predicted']} of them assigned to the class, "
        f"{report['num_compared']} compared"
    )
    if not is_distinct:
        console.print("The groups below are separated no better than those of shuffled traces.")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("facet" if is_distinct else "group", "photos", "pruned", "assigned to the class"):
        table.add_column(header, justify="right")
    table.add_column("most typical", overflow="fold")
    for facet in report["facets"]:
        cells = [str(facet["number"]), str(facet["size"]), f"{facet['sparsity']:.0%}", f"{facet['agreement']:.0%}"]
        table.add_row(*cells, escape(", ".join(facet["photos"][:3])))
    console.print(table)
    found = ", ".join(f"{number}: {value:.3f}" for number, value in report["silhouettes"].items())
    shuffled = max(report["shuffled_silhouettes"])
    console.print(
        f"Silhouette (separation of the groups, at most 1) by number of groups: {found}; "
        f"shuffled traces: up to {shuffled:.3f}",
        style="dim",
    )
    console.print(f"\nReport: {escape(str(out / 'report.html'))}", soft_wrap=True)


def print_circles(circles: TwoCircles, out: Path) -> None:
    """Print where the visualizations of the two circles lie and the path of the picture to standard output."""
    console = Console()
    console.print(f"One hidden layer of 1,000 neurons, {circles.accuracy:.1%} of new points classified correctly")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("visualizations on the")
    for header in ("in the larger circle", "in the smaller circle"):
        table.add_column(header, justify="right")
    for panel in circles.panels:
        shares = panel.shares()
        table.add_row(panel.title, *(f"{share:.0%}" for share in shares.values()))
    console.print(table)
    console.print(f"\nPicture: {escape(str(out / 'circles.png'))}", soft_wrap=True)


def _predicted(prediction: Mapping[str, Any]) -> str:
    return f"{escape(prediction['class_name'])} {prediction['probability']:.1%}"

"""Printing a diagnosis to the console."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from spadelens.attribution.diagnosis import LayerDiagnosis, MethodDiagnosis, Verdict
from spadelens.cli.console import escape
from spadelens.tasks.doctor import ModelDiagnosis

_STYLES = {Verdict.SOUND: "green", Verdict.DOUBTFUL: "yellow", Verdict.REFUSED: "red"}
_MOST_REASONS = 6
_MOST_SHOWN = 10.0
_LEGEND = (
    "missed: share of the change in score that the values do not add up to; kept: share of the score that the "
    "relevance adds up to; fit: R² of the linear model on unseen versions; gradient: similarity to the plain gradient "
    "(or input times gradient); head: similarity to the map with random weights in the last layer, near 1 if the map "
    "does not depend on the class."
)


def print_diagnosis(diagnosis: ModelDiagnosis, *, as_json: bool) -> None:
    """Print a diagnosis as JSON or as a table."""
    console = Console(emoji=False)
    if as_json:
        console.out(json.dumps(to_dict(diagnosis), indent=2, allow_nan=False), highlight=False)
        return
    title = f"{diagnosis.spec}: class {diagnosis.class_name!r} of {diagnosis.shown}"
    console.print(escape(title) + "\n", soft_wrap=True, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("method", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for column in ("missed", "kept", "fit", "gradient", "head", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in diagnosis.methods:
        table.add_row(*_cells(one))
    console.print(table)
    console.print(f"\n{_LEGEND}\n", style="dim", highlight=False)
    for one in diagnosis.methods:
        for sentence in (one.reason, *(one.soundness.unchecked if one.soundness else ())):
            if sentence:
                console.print(f"[bold]{escape(one.method)}[/bold]: {escape(sentence)}", highlight=False)
    console.print("\n".join(_layer_lines(diagnosis.layers)), markup=False, highlight=False)


def to_dict(diagnosis: ModelDiagnosis) -> dict[str, Any]:
    """Return a diagnosis as JSON-serializable data."""
    data = dataclasses.asdict(diagnosis)
    for method in data["methods"]:
        method["verdict"] = method["verdict"].value
    return data


def _layer_lines(layers: LayerDiagnosis) -> list[str]:
    """Return lines that say how many layers traces can prune and, for the others, the most common reasons."""
    count = len(layers.prunable) + len(layers.refused)
    lines = [f"Traces can prune {len(layers.prunable)} of {count} convolutions and linear layers."]
    reasons = Counter(layers.refused.values()).most_common()
    for reason, number in reasons[:_MOST_REASONS]:
        example = next(name for name, why in layers.refused.items() if why == reason)
        lines.append(f"  {number} cannot be pruned, such as {example!r}: {reason}")
    rest = sum(number for _, number in reasons[_MOST_REASONS:])
    if rest:
        lines.append(f"  {rest} cannot be pruned for other reasons: see --json")
    return [*lines, "  By default the first convolution stays unpruned; a schedule may spare more."]


def _cells(one: MethodDiagnosis) -> list[str]:
    checks = one.soundness
    cells = [escape(one.method), f"[{_STYLES[one.verdict]}]{one.verdict.value}[/]"]
    time = f"{one.seconds:.1f} s"
    if checks is None:
        return [*cells, *[""] * 5, time]
    shares = [_percent(value) for value in (checks.completeness, checks.conservation)]
    rest = (checks.fit, checks.gradient_similarity, checks.randomized_similarity)
    return [*cells, *shares, *("" if value is None else f"{value:.2f}" for value in rest), time]


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}" if abs(value) < _MOST_SHOWN else f"{'>' if value > 0 else '<-'}{_MOST_SHOWN:.0%}"

"""Draw the pictures of docs/evidence.md from the tables in docs/evidence.

    python scripts/draw_evidence.py

They are narrow, to be read on a phone. Takes a few seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
NETWORKS = {"ResNet-20": "resnet20", "MobileNet": "mobilenet", "Demo network": "demo"}
SMOOTHGRAD = "SmoothGrad 0.25"
GRAY, BLUE, ORANGE, GREEN = "#777777", "#0072B2", "#D55E00", "#009E73"
KINDS = {  # row of a table -> label, color, marker
    "original": ("original model", GRAY, "o"),
    "balanced": ("default trace", BLUE, "s"),
    "balanced, prediction kept": ("pruned further", GREEN, "D"),
    "ensemble": ("ensemble", ORANGE, "^"),
}
CONTROLS = {  # row of a table -> label
    "balanced": "default trace",
    "trace of another image, same patch": "trace of another photo,\nsame patch",
    "trace of another image": "trace of another photo,\nother patch",
    "trace without the patch": "trace of the photo\nwithout its patch",
    "magnitude": "pruned by magnitude",
    "ensemble": "ensemble",
    "ensemble of another image": "ensemble of another\nphoto, other patch",
    "magnitude ensemble": "ensemble pruned\nby magnitude",
    "one block dropped": "one block dropped",
}
BLURRED = "original model,\nblur of 5 %"
LOWEST = -16.0  # gains below are written at the edge
CUES = ("clear patches", "two patches", "which of the two", "small patches", "faint patches")
CELL = re.compile(r"([\d.]+)(?: \(([+−-][\d.]+)(?: ± ([\d.]+))?\*?\))?")


@dataclass(frozen=True)
class Cell:
    """A cell such as `94.3 (+16.8 ± 0.8*)`; what is not there is 0."""

    mean: float
    gain: float
    error: float


Table = dict[str, dict[str, Cell]]
"""Row -> column -> cell."""


def read_tables(name: str) -> dict[str, list[Table]]:
    """Return the tables of a page of docs/evidence by the heading or the bold line above them."""
    tables: dict[str, list[Table]] = {}
    heading = ""
    columns: list[str] = []
    for line in (DOCS / "evidence" / name).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith(("#", "**")):
            heading, columns = line.strip("#* "), []
        elif not line.startswith("|"):
            columns = []
        elif not columns:
            columns = cells[1:]
            tables.setdefault(heading, []).append({})
        elif not cells[0].startswith("---"):
            found = {column: _cell(text) for column, text in zip(columns, cells[1:], strict=True) if text}
            row = cells[0].removeprefix("*control:* ")
            tables[heading][-1][row] = {column: cell for column, cell in found.items() if cell is not None}
    return tables


def _cell(text: str) -> Cell | None:
    found = CELL.fullmatch(text)
    if found is None:
        return None
    mean, gain, error = (float((part or "0").replace("−", "-")) for part in found.groups())
    return Cell(mean, gain, error)


def table_below(tables: dict[str, list[Table]], start: str) -> Table:
    """Return the first table below the heading that starts so."""
    return next(found[0] for heading, found in tables.items() if heading.startswith(start))


def draw_methods() -> None:
    """Draw the pixel AUC of each method on the original model, on the default trace and on an ensemble."""
    plain, rules = read_tables("numbers-patches.md"), read_tables("numbers-rules.md")
    figure = Figure(figsize=(4.6, 8.6), layout="constrained")
    for axes, network in zip(figure.subplots(len(NETWORKS), 1, sharex=True), NETWORKS, strict=True):
        both = table_below(plain, network), table_below(rules, network)
        methods = [(table, method) for table in both for method in table["original"]]
        for kind in ("original", "balanced", "ensemble"):
            label, color, marker = KINDS[kind]
            found = [(place, table[kind].get(method)) for place, (table, method) in enumerate(methods)]
            points = [(cell.mean, place) for place, cell in found if cell is not None]
            axes.plot(*zip(*points, strict=True), marker, color=color, label=label, markersize=5, alpha=0.85)
        _name_rows(axes, [method for _, method in methods])
        axes.set_title(network, fontsize=10, loc="left")
    figure.supxlabel("pixel AUC, %", fontsize=9.5)
    _legend(figure, axes)
    _save(figure, "evidence-methods.png")


def draw_controls() -> None:
    """Draw the gains of traces and ensembles over the original model, next to those of the controls."""
    tables = read_tables("numbers-controls.md")
    networks = {"ResNet-20": (BLUE, "s", -0.14), "MobileNet": (ORANGE, "^", 0.14)}
    figure = Figure(figsize=(4.6, 7.4), layout="constrained")
    for axes, method in zip(figure.subplots(2, 1, sharex=True), ("saliency", SMOOTHGRAD), strict=True):
        for network, (color, marker, shift) in networks.items():
            table = table_below(tables, network)
            cells = [table[row][method] for row in CONTROLS]
            gains = [*(cell.gain for cell in cells), _gain_of_blur(NETWORKS[network], method)]
            errors = [*(cell.error for cell in cells), 0.0]
            for place, (gain, error) in enumerate(zip(gains, errors, strict=True)):
                _mark(axes, gain, place + shift, error, (color, marker, network if place == 0 else None))
        _name_rows(axes, [*CONTROLS.values(), BLURRED])
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(method, fontsize=10, loc="left")
        axes.set_xlim(LOWEST, 21)
    figure.supxlabel("gain in pixel AUC over the original model, points", fontsize=9.5)
    _legend(figure, axes)
    _save(figure, "evidence-controls.png")


def draw_hard_patches() -> None:
    """Draw the gains over the original model where the cue is hard to find."""
    hard = read_tables("numbers-hard-patches.md")
    clear = read_tables("numbers-patches.md")
    figure = Figure(figsize=(4.6, 5.6), layout="constrained")
    grid = figure.subplots(2, 2, sharex="col", sharey=True)
    for row, network in zip(grid, ("ResNet-20", "MobileNet"), strict=True):
        two = [tables for heading, tables in hard.items() if heading.startswith("The deciding patch")]
        number = 0 if network == "ResNet-20" else 1
        whole, between = two[0][number], two[1][number]
        small, faint = (table_below(hard, f"{cue} patches, {network}") for cue in ("Small", "Faint"))
        for axes, method in zip(row, ("saliency", SMOOTHGRAD), strict=True):
            for shift, kind in ((-0.2, "balanced"), (0.0, "balanced, prediction kept"), (0.2, "ensemble")):
                label, color, marker = KINDS[kind]
                for place, table in enumerate((table_below(clear, network), whole, between, small, faint)):
                    cell = table[kind][method]
                    _mark(axes, cell.gain, place + shift, cell.error, (color, marker, label if place == 0 else None))
            axes.axvline(0, color="black", linewidth=0.8)
            axes.set_title(f"{network}\n{method}", fontsize=9.5, loc="left")
            _name_rows(axes, CUES)
    figure.supxlabel("gain over the original model, points", fontsize=9.5)
    _legend(figure, axes)
    _save(figure, "evidence-hard-patches.png")


def _gain_of_blur(network: str, method: str) -> float:
    tables = read_tables(f"{network}-tables-table1.md")
    column = method.lower()
    blurred = table_below(tables, "Pixel AUC of maps with a blur of 0.05")["original"][column].mean
    return blurred - table_below(tables, "Pixel AUC, %")["original"][column].mean


def _mark(axes: Axes, gain: float, place: float, error: float, style: tuple[str, str, str | None]) -> None:
    color, marker, label = style
    if gain < LOWEST:
        axes.annotate(
            f"{gain:.0f}".replace("-", "−"),
            (LOWEST, place),
            xytext=(18, 0),
            textcoords="offset points",
            color=color,
            fontsize=8,
            va="center",
            arrowprops={"arrowstyle": "->", "color": color},
        )
        return
    axes.errorbar(gain, place, xerr=error, fmt=marker, color=color, label=label, markersize=5, capsize=2)


def _name_rows(axes: Axes, names: list[str] | tuple[str, ...]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="both", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelsize=9)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9, frameon=False)


def _save(figure: Figure, name: str) -> None:
    path = DOCS / "images" / name
    figure.savefig(path, dpi=150)
    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(64)
    reduced.save(path, optimize=True)
    print(path, path.stat().st_size // 1000, "kB")


if __name__ == "__main__":
    draw_methods()
    draw_controls()
    draw_hard_patches()

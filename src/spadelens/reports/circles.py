"""The picture of the two circles, as in the paper's figure 3, and its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spadelens.demo.circles import CIRCLES, draw_points, label_points
from spadelens.output.folder import whole_folder
from spadelens.tasks.circles import GRID, Panel, TwoCircles, visualize_circles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NUM_SHOWN, _DPI = 900, 100
_BLUE, _ORANGE, _GREEN, _RED, _SHADE = "#7fa3dc", "#f4c79a", "#0a7d28", "#d01c1c", "#dfe8f7"


def draw_circles(out: Path, seed: int = 0) -> TwoCircles:
    """Write `circles.png`, three panels as in the paper, and `circles.json`, its numbers, to the folder `out`.

    Raises:
        OutputError: `out` cannot be written.
        InputError: The seed is negative.
    """
    with whole_folder(out) as staging:
        circles = visualize_circles(seed)
        draw_picture(circles, staging / "circles.png")
        (staging / "circles.json").write_text(json.dumps(circles.to_dict(), indent=1) + "\n", encoding="utf-8")
    return circles


def draw_picture(circles: TwoCircles, path: Path) -> None:
    """Write the three panels as one picture, 1350 pixels wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(13.5, 5.4), dpi=_DPI)
    FigureCanvasAgg(figure)
    points = draw_points(_NUM_SHOWN, torch.Generator().manual_seed(circles.seed))
    for place, panel in enumerate(circles.panels):
        axes = figure.add_subplot(1, 3, place + 1)
        _draw_panel(axes, panel, points)
    handles = [*figure.axes[1].get_legend_handles_labels()[0], Patch(color=_SHADE, label="answer: class 1")]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=14, markerscale=1.2)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.86, bottom=0.1, wspace=0.04)
    figure.savefig(path)


def _draw_panel(axes: Axes, panel: Panel, points: Tensor) -> None:
    from matplotlib.patches import Circle as Outline

    steps = torch.linspace(-1, 1, GRID).tolist()
    axes.contourf(steps, steps, panel.margins.tolist(), levels=[0, float("inf")], colors=[_SHADE], zorder=0)
    positive = label_points(points).bool()
    for color, label, shown in ((_BLUE, "class 1", points[positive]), (_ORANGE, "class -1", points[~positive])):
        axes.scatter(shown[:, 0].numpy(), shown[:, 1].numpy(), s=12, c=color, linewidths=0, label=label)
    for circle in CIRCLES:
        axes.add_patch(Outline(circle.center, circle.radius, fill=False, edgecolor="#555555", linewidth=0.9))
    for face, edge, size, label, shown in (
        ("none", _GREEN, 70, "end of an ascent", panel.ends),
        (_GREEN, "white", 110, "best of eight", panel.found),
    ):
        x, y = shown.numpy().T
        axes.scatter(x, y, s=size, facecolors=face, edgecolors=edge, linewidths=1.4, label=label)
    if panel.sample is not None:
        x, y = panel.sample.numpy()
        axes.scatter(x, y, s=300, marker="*", c=_RED, edgecolors="white", label="sample", zorder=3)
    shares = [f"{panel.share(circle):.0%} {circle.name.split()[0]}" for circle in CIRCLES]
    axes.set_title(f"{panel.title}\nvisualizations: {', '.join(shares)}", fontsize=14)
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02), xticks=[], yticks=[], aspect="equal")

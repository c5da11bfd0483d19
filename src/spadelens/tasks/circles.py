"""The two circles of the paper's figure 3: what one unit is shown to answer to, densely and on two traces."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from spadelens.demo.circles import CIRCLES, Circle, CirclesNet, draw_points, label_points, train_circles
from spadelens.extraction.extraction import extract_trace
from spadelens.extraction.trace import Trace, runnable
from spadelens.output.folder import whole_folder
from spadelens.visualization.ascent import Ascent
from spadelens.visualization.parameterizations import Direct
from spadelens.visualization.visualization import Visualization, visualize_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_VIEWS = 64  # a point has no positions to learn from besides its views; all else is the default of a trace
NUM_POINTS, ASCENTS_PER_POINT = 30, 8
_NUM_TEST_POINTS, _NUM_SHOWN, _GRID = 10_000, 900, 201
_ASCENT = Ascent(Direct(rate=0.02, std=0.6), num_steps=300, num_images=NUM_POINTS * ASCENTS_PER_POINT)
_PULL = 3.0
_DPI = 100
_BLUE, _ORANGE, _GREEN, _RED, _SHADE = "#7fa3dc", "#f4c79a", "#0a7d28", "#d01c1c", "#dfe8f7"


@final
@dataclass(frozen=True, eq=False)
class Panel:
    """Where gradient ascent leads, on the network or on a trace.

    Attributes:
        title: For pictures.
        name: 'dense', or the circle that the trace's sample is from.
        sample: The trace's sample `[2]`; None for the dense network.
        ends: Where all ascents end, `[N, 2]`.
        found: The best of eight ascents each, `[N / 8, 2]`: the visualizations.
        margins: By how much class 1 is ahead on a grid over the square, rows of equal y, both from -1 to 1.
        sparsities: Layer -> the fraction of its weights that were pruned.
    """

    title: str
    name: str
    sample: Tensor | None
    ends: Tensor
    found: Tensor
    margins: Tensor
    sparsities: dict[str, float]

    def share(self, circle: Circle) -> float:
        """Return the share of visualizations that lie inside `circle`."""
        return float(circle.contains(self.found).float().mean())

    def shares(self) -> dict[str, float]:
        """Return the share of visualizations inside each circle, by its name, the larger first."""
        return {circle.name: self.share(circle) for circle in CIRCLES}

    def share_of_ends(self, circle: Circle) -> float:
        """Return the share of single ascents that end inside `circle`."""
        return float(circle.contains(self.ends).float().mean())


@final
@dataclass(frozen=True, eq=False)
class TwoCircles:
    """The dense network and two traces side by side.

    Attributes:
        seed: Determines all of it.
        accuracy: Of the network, on points of its own.
        panels: The dense network, a trace in the larger circle and one in the smaller.
        seconds: Stage -> time taken.
    """

    seed: int
    accuracy: float
    panels: tuple[Panel, Panel, Panel]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as data that JSON can hold."""
        return {
            "seed": self.seed,
            "accuracy": self.accuracy,
            "num_views": NUM_VIEWS,
            "num_points": NUM_POINTS,
            "ascents_per_point": ASCENTS_PER_POINT,
            "circles": [{"name": c.name, "center": list(c.center), "radius": c.radius} for c in CIRCLES],
            "panels": [
                {
                    "name": panel.name,
                    "sample": None if panel.sample is None else panel.sample.tolist(),
                    "share_inside": panel.shares(),
                    "share_inside_of_single_ascents": {circle.name: panel.share_of_ends(circle) for circle in CIRCLES},
                    "sparsities": panel.sparsities,
                }
                for panel in self.panels
            ],
            "seconds": self.seconds,
        }


def visualize_circles(seed: int = 0) -> TwoCircles:
    """Train the network, make a trace for a sample of each circle, and visualize the unit of class 1 on all three.

    Args:
        seed: Determines the network, the samples, the views and the starts of the ascents.

    Raises:
        InputError: The seed is negative.
    """
    times = [time.perf_counter()]
    network = train_circles(seed)
    times.append(time.perf_counter())
    generator = torch.Generator().manual_seed(seed)
    points = draw_points(_NUM_TEST_POINTS, generator)
    accuracy = float((network(points).argmax(1) == label_points(points)).float().mean())
    samples = [_draw_sample(network, circle, generator) for circle in CIRCLES]
    traces = [extract_trace(network, sample, num_views=NUM_VIEWS, seed=seed) for sample in samples]
    times.append(time.perf_counter())
    ascent = Ascent(_ASCENT.parameterization, num_steps=_ASCENT.num_steps, num_images=_ASCENT.num_images, seed=seed)
    dense, *sparse = visualize_all([network, *traces], _margin, (2,), ascent)
    times.append(time.perf_counter())
    stages = ("training", "traces", "visualization")
    seconds = {stage: stop - start for stage, start, stop in zip(stages, times, times[1:], strict=False)}
    large, small = (
        _make_panel(f"trace, sample in the {circle.name}", circle.name, sample, trace, found)
        for circle, sample, trace, found in zip(CIRCLES, samples, traces, sparse, strict=True)
    )
    return TwoCircles(
        seed, accuracy, (_make_panel("dense network", "dense", None, network, dense), large, small), seconds
    )


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


def _margin(model: nn.Module, points: Tensor) -> Tensor:
    """Return how far class 1 is ahead at `points` `[N, 2]`, less the squared distance from the center of the square.

    The decision of a network with two scores is their difference. Outside of the square it means nothing: there it
    goes on along straight lines for ever, on a trace, which is only made to hold near its sample, upward in places.
    The second term (the L2 penalty of Simonyan et al. 2013) keeps points from following it. It also moves points away
    from where no neuron of a trace is active, and where the score has no gradient. Scores reach about 15 in the larger
    circle and 7 in the smaller, the term 3 at the middle of an edge.
    """
    scores: Tensor = model(points)
    return scores[:, 1] - scores[:, 0] - _PULL * points.square().sum(1)


def _draw_sample(network: CirclesNet, circle: Circle, generator: torch.Generator) -> Tensor:
    """Return a point of `circle` that the network takes for one."""
    while True:
        point = circle.draw_point(generator)
        if int(network(point[None]).argmax()) == 1:
            return point


@torch.inference_mode()
def _make_panel(
    title: str, name: str, sample: Tensor | None, model: Trace | nn.Module, visualization: Visualization
) -> Panel:
    ends = visualization.images
    values = visualization.curve[-1].view(-1, ASCENTS_PER_POINT)
    found = ends.view(-1, ASCENTS_PER_POINT, 2)[torch.arange(len(values)), values.argmax(1)]
    steps = torch.linspace(-1, 1, _GRID)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    scores = runnable(model)(torch.stack([x, y], -1).flatten(0, 1))
    margins = (scores[:, 1] - scores[:, 0]).view(_GRID, _GRID)
    layers = model.report.layers if isinstance(model, Trace) else ()
    return Panel(title, name, sample, ends, found, margins, {layer.name: layer.sparsity for layer in layers})


def _draw_panel(axes: Axes, panel: Panel, points: Tensor) -> None:
    from matplotlib.patches import Circle as Outline

    steps = torch.linspace(-1, 1, _GRID).tolist()
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

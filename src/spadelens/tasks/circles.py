"""The two circles of the paper's figure 3: what one unit is shown to answer to, densely and on two traces."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from spadelens.demo.circles import CIRCLES, Circle, CirclesNet, draw_points, label_points, train_circles
from spadelens.extraction.extraction import extract_trace
from spadelens.extraction.trace import Trace, runnable
from spadelens.visualization.ascent import Ascent
from spadelens.visualization.parameterizations import Direct
from spadelens.visualization.visualization import Visualization, visualize

NUM_VIEWS = 64  # a point has no positions to learn from besides its views; all else is the default of a trace
NUM_POINTS, ASCENTS_PER_POINT = 30, 8
_NUM_TEST_POINTS, GRID = 10_000, 201
_ASCENT = Ascent(Direct(rate=0.02, std=0.6), num_steps=300, num_images=NUM_POINTS * ASCENTS_PER_POINT)
_PULL = 3.0


@final
@dataclass(frozen=True, eq=False)
class Panel:
    """Where gradient ascent leads, on the network or on a trace.

    Attributes:
        title: For pictures.
        name: 'original', or the circle that the trace's sample is from.
        sample: The trace's sample `[2]`; None for the original network.
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
    """The original network and two traces side by side.

    Attributes:
        seed: Determines all of it.
        accuracy: Of the network, on points of its own.
        panels: The original network, a trace in the larger circle and one in the smaller.
        seconds: Stage -> time taken.
    """

    seed: int
    accuracy: float
    panels: tuple[Panel, Panel, Panel]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON-serializable data."""
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
    dense, *sparse = visualize([network, *traces], _margin, (2,), ascent)
    times.append(time.perf_counter())
    stages = ("training", "traces", "visualization")
    seconds = {stage: stop - start for stage, start, stop in zip(stages, times, times[1:], strict=False)}
    large, small = (
        _make_panel(f"trace, sample in the {circle.name}", circle.name, sample, trace, found)
        for circle, sample, trace, found in zip(CIRCLES, samples, traces, sparse, strict=True)
    )
    return TwoCircles(
        seed, accuracy, (_make_panel("original network", "original", None, network, dense), large, small), seconds
    )


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
    steps = torch.linspace(-1, 1, GRID)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    scores = runnable(model)(torch.stack([x, y], -1).flatten(0, 1))
    margins = (scores[:, 1] - scores[:, 0]).view(GRID, GRID)
    layers = model.report.layers if isinstance(model, Trace) else ()
    return Panel(title, name, sample, ends, found, margins, {layer.name: layer.sparsity for layer in layers})

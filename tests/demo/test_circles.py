"""The two circles and the network that tells them from the rest."""

import math

import pytest
import torch

from spadelens.demo import circles
from spadelens.demo.circles import CIRCLES, LARGE, SMALL, Circle, CirclesNet, draw_points, label_points, train_circles
from spadelens.errors import InputError


def test_a_circle_contains_what_is_nearer_than_its_radius() -> None:
    circle = Circle("c", (0.5, -0.25), 0.3)
    near = [(0.5, -0.25), (0.79, -0.25), (0.5, 0.04), (0.29, -0.46)]
    far = [(0.81, -0.25), (0.5, 0.06), (0.28, -0.47), (-0.5, 0.25)]
    assert circle.contains(torch.tensor(near + far)).tolist() == [True] * 4 + [False] * 4


def test_the_circles_fit_the_figure() -> None:
    assert LARGE.radius > 1.5 * SMALL.radius
    assert math.dist(LARGE.center, SMALL.center) > LARGE.radius + SMALL.radius
    assert all(max(map(abs, circle.center)) + circle.radius < 1 for circle in CIRCLES)


@pytest.mark.parametrize("circle", CIRCLES, ids=lambda circle: circle.name)
def test_points_of_a_circle_are_spread_evenly(circle: Circle) -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.stack([circle.draw_point(generator) for _ in range(2000)])
    assert bool(circle.contains(points).all())
    offset = (points - torch.tensor(circle.center)) / circle.radius
    assert float((offset.norm(dim=1) < 0.5).float().mean()) == pytest.approx(0.25, abs=0.04)
    assert float(offset.mean(0).abs().max()) < 0.05


def test_labels_and_points() -> None:
    points = draw_points(20_000, torch.Generator().manual_seed(1))
    assert points.shape == (20_000, 2)
    assert float(points.min()) < -0.99 and float(points.max()) > 0.99 and float(points.abs().max()) <= 1
    area = sum(math.pi * circle.radius**2 for circle in CIRCLES) / 4
    assert float(label_points(points).float().mean()) == pytest.approx(area, abs=0.01)
    assert label_points(torch.tensor([LARGE.center, SMALL.center, (0.9, 0.9)])).tolist() == [1, 1, 0]


def test_training_gives_nearly_every_point_its_class() -> None:
    network = train_circles(1)
    assert not network.training and network.hidden.weight.shape == (1000, 2)
    points = draw_points(10_000, torch.Generator().manual_seed(2))
    assert float((network(points).argmax(1) == label_points(points)).float().mean()) > 0.99


def test_training_repeats_and_leaves_random_states_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circles, "_NUM_STEPS", 3)
    before = torch.get_rng_state()
    with torch.inference_mode():
        first, second, other = train_circles(4), train_circles(4), train_circles(5)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.output.weight, second.output.weight)
    assert not torch.equal(first.output.weight, other.output.weight)
    first(torch.zeros(1, 2)).sum().backward()  # trained in inference mode, it can be differentiated all the same
    assert CirclesNet().output.weight.shape == (2, 1000)


def test_training_refuses_a_negative_seed() -> None:
    with pytest.raises(InputError, match="seed -1"):
        train_circles(-1)

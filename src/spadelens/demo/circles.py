"""Two circles in a square, and a network with one hidden layer that tells their inside from the rest.

The toy of section 4.2.1 of the paper (figure 3): one unit answers to two things, and one of them is the stronger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from spadelens.errors import InputError
from spadelens.randomness import seeded

NUM_HIDDEN = 1000
_BATCH_SIZE, _NUM_STEPS, _RATE = 512, 1000, 1e-2


@final
@dataclass(frozen=True)
class Circle:
    """A circle in the square from -1 to 1.

    Attributes:
        name: What it is called in pictures and reports.
        center: Its center.
        radius: Its radius.
    """

    name: str
    center: tuple[float, float]
    radius: float

    def contains(self, points: Tensor) -> Tensor:
        """Return which of the `points` `[N, 2]` lie inside, `[N]`."""
        return (points - points.new_tensor(self.center)).square().sum(1) < self.radius**2

    def draw_point(self, generator: torch.Generator) -> Tensor:
        """Return a point `[2]` from inside, all places being as likely."""
        distance, turn = torch.rand(2, generator=generator).tolist()
        reach, angle = self.radius * math.sqrt(distance), 2 * math.pi * turn
        return torch.tensor([self.center[0] + reach * math.cos(angle), self.center[1] + reach * math.sin(angle)])


LARGE = Circle("larger circle", (-0.35, 0.3), 0.45)
SMALL = Circle("smaller circle", (0.5, -0.5), 0.22)
CIRCLES = (LARGE, SMALL)


def draw_points(count: int, generator: torch.Generator) -> Tensor:
    """Return points `[count, 2]` from the square, all places being as likely."""
    return 2 * torch.rand(count, 2, generator=generator) - 1


def label_points(points: Tensor) -> Tensor:
    """Return the class of each of the `points` `[N, 2]`: 1 inside of a circle, 0 elsewhere (the paper's -1)."""
    return torch.stack([circle.contains(points) for circle in CIRCLES]).any(0).long()


class CirclesNet(nn.Module):
    """One hidden layer of 1,000 neurons between the two coordinates and the scores of the two classes."""

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.hidden = nn.Linear(2, NUM_HIDDEN)
        self.relu = nn.ReLU()
        self.output = nn.Linear(NUM_HIDDEN, 2)

    def forward(self, points: Tensor) -> Tensor:
        """Score points [B, 2]; returns logits [B, 2], of the rest and of the circles."""
        scores: Tensor = self.output(self.relu(self.hidden(points)))
        return scores


@torch.inference_mode(False)
def train_circles(seed: int = 0) -> CirclesNet:
    """Train a network on points drawn at random in each step; takes seconds on one core.

    Args:
        seed: Determines the weights to begin with, and all points. Global random states stay as they are.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        InputError: The seed is negative.
    """
    if seed < 0:
        raise InputError(f"Cannot train from seed {seed}: expected an integer of at least 0.")
    with seeded(seed), torch.enable_grad():
        network = CirclesNet()
        optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _NUM_STEPS)
        for _ in range(_NUM_STEPS):
            points = draw_points(_BATCH_SIZE, torch.default_generator)
            loss = functional.cross_entropy(network(points), label_points(points))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
    return network.eval()

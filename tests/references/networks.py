"""Small networks that many tests use, functions as models, and what they are shown."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

PHOTO, TARGET = (1, 2, 7, 9), 1


class Function(nn.Module):
    """A function without layers."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Any:
        return self.function(inputs)


class Pooled(nn.Module):
    """Two convolutions, the mean over all locations, and a classifier, which is registered first and used last."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.head = nn.Linear(11, 4)
        self.first, self.second = nn.Conv2d(2, 7, 3, padding=1), nn.Conv2d(7, 11, 3, stride=2)
        self.activation = activation

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.activation(self.second(self.activation(self.first(pixels))))
        return self.head(hidden.mean((2, 3)))


class Normalized(nn.Module):
    """Two convolutions with normalization and dropout, and a classifier; the first activation works in place."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 6, 3, padding=1)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(6, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.second(self.relu(self.norm(self.first(inputs))))
        return self.linear(self.dropout(features.relu().mean((2, 3))))


class Weighted(nn.Module):
    """Two classes: a weighted sum of the pixels of the first channel, and 0."""

    def __init__(self, weights: Tensor, offset: float = 0.0) -> None:
        super().__init__()
        self.weights, self.offset = nn.Parameter(weights), offset

    def forward(self, inputs: Tensor) -> Tensor:
        score = (inputs[:, 0] * self.weights).sum((1, 2)) + self.offset
        return torch.stack([score, torch.zeros_like(score)], 1)


class Boxes(nn.Module):
    """A class for each box (rows, columns), scored by the mean of the first channel in it; and one that scores 0."""

    def __init__(self, *boxes: tuple[slice, slice], gain: float = 8.0, offset: float = -4.0) -> None:
        super().__init__()
        self.boxes, self.gain, self.offset = boxes, gain, offset

    def forward(self, photos: Tensor) -> Tensor:
        means = [photos[:, 0, rows, columns].mean((1, 2)) for rows, columns in self.boxes]
        return torch.stack([*(self.gain * mean + self.offset for mean in means), torch.zeros_like(means[0])], 1)


class Routed(nn.Module):
    """Sorts the tokens of a batch `[B, T, 4]` before a layer, as mixtures of experts do, and puts them back after."""

    def __init__(self) -> None:
        super().__init__()
        self.expert, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = tokens.flatten(0, 1)
        order = rows[:, 0].argsort()
        routed = torch.empty_like(rows)
        routed[order] = self.expert(rows[order])
        return self.head(routed.view_as(tokens).mean(1))


def convolutions(size: tuple[int, int], channels: tuple[int, int], *widths: int, seed: int = 0) -> nn.Sequential:
    """Two 3x3 convolutions of photos `[3, *size]` and linear layers of these widths, all with a ReLU in between."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, channels[0], 3), nn.ReLU(), nn.Conv2d(*channels, 3), nn.ReLU(), nn.Flatten()]
    width = channels[1] * (size[0] - 4) * (size[1] - 4)
    for next_width in widths:
        layers += [nn.Linear(width, next_width), nn.ReLU()]
        width = next_width
    return nn.Sequential(*layers[:-1]).eval()


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> Any:
    """Make a model in evaluation mode with the weights of a seed, and leave the random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def sample_of(shape: Sequence[int], seed: int = 0) -> Tensor:
    """Random numbers of a shape, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

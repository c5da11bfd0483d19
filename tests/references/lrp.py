"""Layer-wise relevance propagation from its equations: one output at a time, one input at a time, in float64.

A layer is a list with, for every output, the weights of the inputs that it sees; values and relevance are flat lists.
"""

import itertools
import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Layer: TypeAlias = list[dict[int, float]]


def dense(weight: Tensor) -> Layer:
    """Return the layer with a matrix `[outputs, inputs]`."""
    return [dict(enumerate(row)) for row in weight.double().tolist()]


def _offset(place: Sequence[int], size: Sequence[int]) -> int:
    result = 0
    for index, length in zip(place, size, strict=True):
        result = result * length + index
    return result


def convolution(
    weight: Tensor, size: Sequence[int], stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1
) -> Layer:
    """Return the layer of a convolution with `weight` `[outputs, inputs / groups, ...]` over channels of `size`."""
    num_outputs, per_group, *kernel = weight.shape
    channels = per_group * groups
    counts = [
        (length + 2 * padding - dilation * (reach - 1) - 1) // stride + 1
        for length, reach in zip(size, kernel, strict=True)
    ]
    layer: Layer = []
    for output in range(num_outputs):
        group = output // (num_outputs // groups)
        for place in itertools.product(*map(range, counts)):
            seen = {}
            for channel in range(per_group):
                for tap in itertools.product(*map(range, kernel)):
                    source = [p * stride - padding + t * dilation for p, t in zip(place, tap, strict=True)]
                    if all(0 <= index < length for index, length in zip(source, size, strict=True)):
                        where = (group * per_group + channel, *source)
                        seen[_offset(where, (channels, *size))] = float(weight[(output, channel, *tap)])
            layer.append(seen)
    return layer


def transposed_convolution(
    weight: Tensor, size: Sequence[int], stride: int = 1, padding: int = 0, groups: int = 1
) -> Layer:
    """Return the layer of a transposed convolution with `weight` `[inputs, outputs / groups, ...]`."""
    num_inputs, per_group, *kernel = weight.shape
    counts = [(length - 1) * stride - 2 * padding + reach for length, reach in zip(size, kernel, strict=True)]
    shape = (per_group * groups, *counts)
    layer: Layer = [{} for _ in range(math.prod(shape))]
    for channel in range(num_inputs):
        group = channel // (num_inputs // groups)
        for place in itertools.product(*map(range, size)):
            for output in range(per_group):
                for tap in itertools.product(*map(range, kernel)):
                    target = [p * stride - padding + t for p, t in zip(place, tap, strict=True)]
                    if all(0 <= index < length for index, length in zip(target, counts, strict=True)):
                        seen = layer[_offset((group * per_group + output, *target), shape)]
                        seen[_offset((channel, *place), (num_inputs, *size))] = float(weight[(channel, output, *tap)])
    return layer


def average_pooling(channels: int, size: Sequence[int], kernel: int, stride: int) -> Layer:
    """Return the layer that takes the means over windows."""
    weight = torch.full((channels, 1, *[kernel] * len(size)), 1 / kernel ** len(size), dtype=torch.float64)
    return convolution(weight, size, stride, groups=channels)


def normalization(inputs: Sequence[float], weights: Sequence[float], group: int, epsilon: float) -> Layer:
    """Return the layer that normalizes every `group` values in a row, with their standard deviation as a constant."""
    layer: Layer = []
    for start in range(0, len(inputs), group):
        part = inputs[start : start + group]
        mean = sum(part) / group
        deviation = math.sqrt(sum((value - mean) ** 2 for value in part) / group + epsilon)
        layer += [
            {start + k: weights[start + i] / deviation * ((k == i) - 1 / group) for k in range(group)}
            for i in range(group)
        ]
    return layer


def outputs_of(layer: Layer, bias: Sequence[float], inputs: Sequence[float]) -> list[float]:
    """Return the outputs of a layer."""
    return [sum(w * inputs[i] for i, w in seen.items()) + b for seen, b in zip(layer, bias, strict=True)]


def _flat(contributions: dict[int, float]) -> dict[int, float]:
    return {i: 1 / len(contributions) for i in contributions}


def _epsilon(plain: dict[int, float], contributions: dict[int, float], bias: float, epsilon: float) -> dict[int, float]:
    """Return the shares of `contributions` with the sizes of the `plain` ones; the rest goes by these sizes."""
    size = sum(abs(z) for z in plain.values())
    output = sum(contributions.values()) + bias
    denominator = output + epsilon * (-1 if output < 0 else 1) * size
    shares = {i: z / denominator if denominator else 0.0 for i, z in contributions.items()}
    rest = 1 - sum(shares.values())
    return {i: share + rest * abs(plain[i]) / size for i, share in shares.items()}


def _gamma(contributions: dict[int, float], bias: float, epsilon: float, gamma: float) -> dict[int, float]:
    is_positive = sum(contributions.values()) + bias >= 0

    def increased(z: float) -> float:
        return z + gamma * z if (z > 0) == is_positive else z

    return _epsilon(contributions, {i: increased(z) for i, z in contributions.items()}, increased(bias), epsilon)


def _alpha_beta(contributions: dict[int, float], alpha: float) -> dict[int, float]:
    positive = sum(z for z in contributions.values() if z > 0)
    negative = sum(z for z in contributions.values() if z < 0)
    if not negative:
        return {i: z / positive for i, z in contributions.items()}
    if not positive:
        return {i: z / negative for i, z in contributions.items()}
    return {i: alpha * z / positive if z > 0 else (1 - alpha) * z / negative for i, z in contributions.items()}


def shares(
    contributions: dict[int, float], bias: float, rule: str, epsilon: float, gamma: float, alpha: float
) -> dict[int, float]:
    """Return what part of an output's relevance each input gets."""
    if rule == "flat" or not any(contributions.values()):
        return _flat(contributions)
    if rule == "epsilon":
        return _epsilon(contributions, contributions, bias, epsilon)
    if rule == "gamma":
        return _gamma(contributions, bias, epsilon, gamma)
    return _alpha_beta(contributions, {"z-plus": 1.0, "alpha-beta": alpha}[rule])


def propagate(
    layer: Layer,
    bias: Sequence[float],
    inputs: Sequence[float],
    relevance: Sequence[float],
    rule: str = "epsilon",
    epsilon: float = 0.0,
    gamma: float = 0.25,
    alpha: float = 2.0,
) -> list[float]:
    """Return the relevance of the inputs of a layer; what reaches an output that sees no input is lost."""
    result = [0.0] * len(inputs)
    for seen, b, r in zip(layer, bias, relevance, strict=True):
        contributions = {i: w * inputs[i] for i, w in seen.items()}
        for i, share in shares(contributions, b, rule, epsilon, gamma, alpha).items():
            result[i] += share * r
    return result


def of_sum(
    first: Sequence[float], second: Sequence[float], relevance: Sequence[float], epsilon: float
) -> tuple[list[float], list[float]]:
    """Return the relevance of two summands: those of a layer with two inputs of weight 1 for every output."""
    size = len(first)
    layer: Layer = [{i: 1.0, size + i: 1.0} for i in range(size)]
    both = propagate(layer, [0.0] * size, [*first, *second], relevance, epsilon=epsilon)
    return both[:size], both[size:]


def of_shift(
    scaled: Sequence[float],
    constants: Sequence[float],
    relevance: Sequence[float],
    epsilon: float,
    places: Sequence[Sequence[int]],
) -> list[float]:
    """Return the relevance of the values that constants are added to, each place sharing out what constants get."""
    result = [0.0] * len(scaled)
    for place in places:
        rest = 0.0
        for i in place:
            output = scaled[i] + constants[i]
            distance = epsilon * (abs(scaled[i]) + abs(constants[i]))
            denominator = output + (-distance if output < 0 else distance)
            result[i] = relevance[i] * scaled[i] / denominator if denominator else 0.0
            rest += relevance[i] - result[i]
        size = sum(abs(scaled[i]) for i in place)
        for i in place:
            result[i] += rest * (abs(scaled[i]) / size if size else 1 / len(place))
    return result


def of_maximum(windows: Sequence[Sequence[int]], inputs: Sequence[float], relevance: Sequence[float]) -> list[float]:
    """Return the relevance of what a maximum is taken of: all to the largest value of each window."""
    result = [0.0] * len(inputs)
    for window, r in zip(windows, relevance, strict=True):
        result[max(window, key=lambda i: inputs[i])] += r
    return result


def without_constants(parts: Sequence[float], is_constant: Sequence[bool]) -> list[float]:
    """Return the relevance of joined values where constants hand theirs to the others, by the size of their own."""
    lost = sum(r for r, constant in zip(parts, is_constant, strict=True) if constant)
    kept = [r for r, constant in zip(parts, is_constant, strict=True) if not constant]
    size = sum(map(abs, kept))
    return [r + abs(r) / size * lost for r in kept]

"""Guided backpropagation and DeepLIFT's rescale rule on dense layers, one number at a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Row = list[float]


@dataclass
class Layer:
    """y = f(W x + b), a row of W for every y."""

    weight: list[Row]
    bias: Row
    function: Callable[[float], float] = lambda value: value

    def before(self, inputs: Row) -> Row:
        return [
            sum(w * x for w, x in zip(row, inputs, strict=True)) + b
            for row, b in zip(self.weight, self.bias, strict=True)
        ]


def relu(value: float) -> float:
    return max(value, 0.0)


def gelu(value: float) -> float:
    return value * 0.5 * (1 + math.erf(value / math.sqrt(2)))


def silu(value: float) -> float:
    return value / (1 + math.exp(-value))


def hardswish(value: float) -> float:
    return value * min(max(value + 3, 0.0), 6.0) / 6


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def elu(value: float) -> float:
    return value if value > 0 else math.expm1(value)


def leaky(value: float) -> float:
    return value if value > 0 else 0.25 * value


def mish(value: float) -> float:
    return value * math.tanh(softplus(value))


def _passes(layers: list[Layer], inputs: Row) -> list[Row]:
    """Return what each layer's function is given, and the scores."""
    given = []
    for layer in layers:
        given.append(layer.before(inputs))
        inputs = [layer.function(value) for value in given[-1]]
    return [*given, inputs]


def _slope(function: Callable[[float], float], value: float) -> float:
    step = 1e-6
    return (function(value + step) - function(value - step)) / (2 * step)


def _through(layer: Layer, messages: Row) -> Row:
    return [
        sum(row[i] * message for row, message in zip(layer.weight, messages, strict=True))
        for i in range(len(layer.weight[0]))
    ]


def guided(layers: list[Layer], inputs: Row, target: int, is_guided: bool = True) -> Row:
    """Return the guided gradient of the score `target` of layers of which all but the last have a rectifier."""
    *given, scores = _passes(layers, inputs)
    messages = [float(number == target) for number in range(len(scores))]
    messages = _through(layers[-1], messages)
    for layer, values in reversed(list(zip(layers[:-1], given[:-1], strict=True))):
        passed = [max(message, 0.0) if is_guided else message for message in messages]
        at_input = [message * _slope(layer.function, value) for message, value in zip(passed, values, strict=True)]
        messages = _through(layer, at_input)
    return messages


def rescale(layers: list[Layer], inputs: Row, baseline: Row, target: int) -> Row:
    """Return the multipliers times the differences from the baseline."""
    *given, scores = _passes(layers, inputs)
    *given_then, _ = _passes(layers, baseline)
    messages = [float(number == target) for number in range(len(scores))]
    for layer, now, then in reversed(list(zip(layers, given, given_then, strict=True))):
        at_input = []
        for message, value, before in zip(messages, now, then, strict=True):
            change = layer.function(value) - layer.function(before)
            at_input.append(message * change / (value - before))
        messages = _through(layer, at_input)
    return [message * (value - before) for message, value, before in zip(messages, inputs, baseline, strict=True)]

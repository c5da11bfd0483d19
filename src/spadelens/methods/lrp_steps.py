"""Relevance propagation through every kind of operation on a tape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spadelens.graph.operations import FACTORS, OpKind, Role, kind_of, normalization_of, role_of
from spadelens.graph.tape import Step, Tape, vjp
from spadelens.methods.lrp_rules import (
    Composite,
    Linear,
    Rule,
    Strengths,
    is_negligible,
    linear_of,
    propagate,
    safe_divide,
    stabilize,
)

NAME = "lrp"
_LOST = 1e-6  # fraction of the relevance; smaller losses are rounding


@dataclass(frozen=True, eq=False)
class Relevance:
    """Maps the relevance of a step's outputs to that of its inputs.

    Attributes:
        tape: The recorded pass.
        kinds: Number of a step's output -> the kind of the step.
        composite: The rule of each type of layer.
        strengths: The parameters of the rules.
        dense_epsilon: The epsilon for linear layers, instead of the one in `strengths`.
        first: The outputs of the layers that see the model's input.
        detached_factors: The values that are treated as constants when they multiply other values.
        scales: Output of a layer that is followed by a batch normalization -> the scale and the output of the latter.
    """

    tape: Tape
    kinds: Mapping[int, OpKind]
    composite: Composite
    strengths: Strengths
    dense_epsilon: float
    first: frozenset[int]
    detached_factors: frozenset[int]
    scales: Mapping[int, tuple[Tensor, int]]

    @classmethod
    def over(cls, tape: Tape, composite: Composite, strengths: Strengths, dense_epsilon: float) -> Relevance:
        """Return the rules for a tape.

        Raises:
            AttributionError: An operation has no rule.
        """
        kinds = {step.output: kind_of(step, NAME) for step in tape.steps}
        return cls(
            tape,
            kinds,
            composite,
            strengths,
            dense_epsilon,
            _first_layers(tape, kinds),
            _detached_factors(tape, kinds),
            _scales(tape, kinds),
        )

    def __call__(self, step: Step, messages: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Return the relevance of each input of a step, or None for an input that gets none."""
        values = [self.tape.values[number] for number in step.inputs]
        kind = self.kinds[step.output]
        if kind is OpKind.VIEW:
            return _of_view(step, values, messages)
        if messages[0] is None:  # only the indices of a maximum were used, not its value
            return [None] * len(step.inputs)
        if kind is OpKind.MAXIMUM:
            return vjp(step, values, messages)
        hand_on = {
            OpKind.MATRIX: self._of_layer,
            OpKind.AVERAGE: self._of_average,
            OpKind.SHIFT: self._of_shift,
            OpKind.BATCH_NORM: self._of_batch_norm,
            OpKind.SUM: self._of_sum,
            OpKind.PRODUCT: self._of_product,
            OpKind.NORMALIZATION: self._of_normalization,
            OpKind.L2_NORM: self._of_l2_norm,
        }.get(kind, _passed)
        return hand_on(step, values, messages[0])

    def _of_layer(self, step: Step, values: Sequence[Tensor], relevance: Tensor) -> list[Tensor | None]:
        scale, output = self.scales.get(step.output, (None, step.output))
        rule = self.composite.convolution if step.name == "convolution" else self.composite.dense
        if self.composite.first is not None and step.output in self.first:
            rule = self.composite.first
        outputs = self.tape.values[output]
        layer = linear_of(step, values[0], scale)
        is_convolution = step.name == "convolution"
        strengths = self.strengths if is_convolution else replace(self.strengths, epsilon=self.dense_epsilon)
        return [propagate(layer, outputs, relevance, rule, strengths)]

    def _of_average(self, step: Step, values: Sequence[Tensor], relevance: Tensor) -> list[Tensor | None]:
        return [self._shared(linear_of(step, values[0]), step, relevance)]

    def _shared(self, layer: Linear, step: Step, relevance: Tensor) -> Tensor:
        return propagate(layer, self.tape.values[step.output], relevance, Rule.EPSILON, self.strengths)

    def _of_batch_norm(self, step: Step, values: Sequence[Tensor], relevance: Tensor) -> list[Tensor | None]:
        is_folded = any(number == step.output for _, number in self.scales.values())
        return [relevance] if is_folded else self._of_shift(step, values, relevance)

    def _of_shift(self, step: Step, values: Sequence[Tensor], relevance: Tensor) -> list[Tensor | None]:
        """Return the relevance of x in y = a x + c: its part of each y, and its share of the relevance of c.

        The latter goes to all channels of a position, in proportion to |a x|; equally if all of them are 0.
        """
        outputs = self.tape.values[step.output]
        scaled = outputs - step.run([torch.zeros_like(values[0])])[0]
        size = scaled.abs()
        distance = self.strengths.epsilon * (size + (outputs - scaled).abs())
        part = scaled * safe_divide(relevance, stabilize(outputs, distance))
        is_second = self.kinds[step.output] is OpKind.BATCH_NORM or (outputs.dim() == 4 and not _is_last(step, outputs))
        axis = 1 if is_second else -1
        size = torch.where(is_negligible(size.sum(axis, keepdim=True)), 1.0, size)
        rest = (relevance - part).sum(axis, keepdim=True) / size.sum(axis, keepdim=True)
        return [(part + size * rest).sum_to_size(values[0].shape)]

    def _of_sum(self, step: Step, values: Sequence[Tensor], relevance: Tensor) -> list[Tensor | None]:
        outputs = self.tape.values[step.output]
        second = outputs - step.run([values[0], torch.zeros_like(values[1])])[0]
        summands = (outputs - second, second)
        is_zero = is_negligible(summands[0].abs() + summands[1].abs())  # each summand then gets half
        absolute = [torch.where(is_zero, 0.5, summand.abs()) for summand in summands]
        sizes = absolute[0] + absolute[1]
        quotient = safe_divide(relevance, stabilize(outputs, self.strengths.epsilon * sizes))
        rest = (relevance - outputs * quotient) / sizes
        shares = [summand * quotient + size * rest for summand, size in zip(summands, absolute, strict=True)]
        return [share.sum_to_size(value.shape) for share, value in zip(shares, values, strict=True)]

    def _of_product(self, step: Step, values: Sequence[Tensor], relevance: Tensor) -> list[Tensor | None]:
        constant = self._constant_factor(step, values)
        wanted = [number for number in (0, 1) if number != constant]
        parts: list[Tensor | None] = [None, None]
        for number in wanted:
            share = relevance / len(wanted)
            if step.name == "mul":
                parts[number] = _like(values[number], share)
                continue
            layer = Linear(_matrix_product(step, number), values[number], values[1 - number])
            parts[number] = self._shared(layer, step, share)
        return parts

    def _constant_factor(self, step: Step, values: Sequence[Tensor]) -> int | None:
        """Return which of two factors, 0 or 1, is treated as a constant; None for both or neither."""
        marked = [number in self.detached_factors for number in step.inputs]
        if marked[0] != marked[1]:
            return 0 if marked[0] else 1
        if step.name == "mul" and values[0].numel() != values[1].numel():
            return 0 if values[0].numel() < values[1].numel() else 1
        return None

    def _of_normalization(self, step: Step, values: Sequence[Tensor], relevance: Tensor) -> list[Tensor | None]:
        inputs = values[0]
        shape, weight, epsilon = normalization_of(step, inputs)
        grouped = inputs.reshape(shape)
        scale = weight * (grouped.var(-1, unbiased=False, keepdim=True) + epsilon).rsqrt().expand(shape).reshape(
            inputs.shape
        )
        outputs = self.tape.values[step.output]
        centered = inputs - grouped.mean(-1, keepdim=True).expand(shape).reshape(inputs.shape)
        # sums of the absolute contributions x_k w_i (delta_ik - 1 / n)
        absolute, size, count = grouped.abs(), scale.abs().reshape(shape), shape[-1]
        own = (1 - 2 / count) * size
        totals = own * absolute + size * absolute.mean(-1, keepdim=True)
        distance = self.strengths.epsilon * totals.reshape(inputs.shape)
        present = torch.where(is_negligible(totals).reshape(inputs.shape), 0.0, relevance)
        quotient = safe_divide(present, stabilize(outputs, distance))
        of_centered = (quotient * scale).reshape(shape)
        part = inputs * (of_centered - of_centered.mean(-1, keepdim=True)).reshape(inputs.shape)
        rest = safe_divide((present - centered * scale * quotient).reshape(shape), totals)
        shared = absolute * (own * rest + (size * rest).mean(-1, keepdim=True))
        shared = shared + (relevance - present).reshape(shape).mean(-1, keepdim=True)
        return [part + shared.reshape(inputs.shape)]

    def _of_l2_norm(self, step: Step, values: Sequence[Tensor], relevance: Tensor) -> list[Tensor | None]:
        """Return the relevance of x in ||x|| = sum of x_i x_i / ||x||."""
        (direction,) = vjp(step, values, [safe_divide(relevance, self.tape.values[step.output])])
        return [None if direction is None else values[0] * direction]


def _passed(step: Step, values: Sequence[Tensor], relevance: Tensor) -> list[Tensor | None]:
    """Pass all relevance to the first input: for activations, scalings, quotients and a final softmax."""
    del step
    return [_like(values[0], relevance), *[None] * (len(values) - 1)]


def _matrix_product(step: Step, number: int) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return a matrix product, without a bias, as a function of factor `number` and the other factor."""

    def function(inputs: Tensor, other: Tensor | None) -> Tensor:
        assert other is not None
        factors = [inputs, other] if number == 0 else [other, inputs]
        product: Tensor = step.run(factors)[0]
        if FACTORS[step.name].addend is None:
            return product
        bias: Tensor = step.run([torch.zeros_like(factor) for factor in factors])[0]
        return product - bias

    return function


def _of_view(step: Step, values: Sequence[Tensor], messages: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Move relevance back to where the values came from; the share of constants goes to the others in proportion."""
    parts = vjp(step, values, messages)
    present = [part for part in parts if part is not None]
    lost = sum(_total(message) for message in messages if message is not None) - sum(_total(part) for part in present)
    size = sum(_total(part.abs()) for part in present)
    if size == 0 or abs(lost) <= _LOST * size:
        return parts
    return [None if part is None else part + part.abs() * (lost / size) for part in parts]


def _total(relevance: Tensor) -> float:
    return float(relevance.cpu().double().sum())


def _first_layers(tape: Tape, kinds: Mapping[int, OpKind]) -> frozenset[int]:
    fresh = {tape.source}
    first: set[int] = set()
    for step in tape.steps:
        if not fresh.issuperset(step.inputs):
            continue
        if kinds[step.output] is OpKind.MATRIX:
            first.add(step.output)
        elif kinds[step.output] in (OpKind.VIEW, OpKind.SHIFT, OpKind.SCALING, OpKind.BATCH_NORM):
            fresh.update(number for number in step.outputs if number is not None)
    return frozenset(first)


def _detached_factors(tape: Tape, kinds: Mapping[int, OpKind]) -> frozenset[int]:
    """Return gates, attention weights and normalizing factors, and values that depend linearly on these only."""
    found: set[int] = set()
    carried = (OpKind.VIEW, OpKind.AVERAGE, OpKind.SCALING, OpKind.SHIFT, OpKind.MATRIX)
    for step in tape.steps:
        kind = kinds[step.output]
        is_detached = kind in (OpKind.SOFTMAX, OpKind.L2_NORM) or (
            kind is OpKind.ACTIVATION and role_of(step) in (Role.GATE, Role.ARITHMETIC)
        )
        if is_detached or (kind in carried and found.issuperset(step.inputs)):
            found.update(number for number in step.outputs if number is not None)
    return frozenset(found)


def _scales(tape: Tape, kinds: Mapping[int, OpKind]) -> dict[int, tuple[Tensor, int]]:
    """Return output of a layer that only a batch normalization uses -> the scale and the output of the latter."""
    users: dict[int, list[Step]] = {}
    for step in tape.steps:
        for number in step.inputs:
            users.setdefault(number, []).append(step)
    found = {}
    for step in tape.steps:
        after = users.get(step.output, [])
        is_alone = len(after) == 1 and kinds[after[0].output] is OpKind.BATCH_NORM
        if kinds[step.output] is OpKind.MATRIX and is_alone and _takes_scale(step):
            found[step.output] = (_scale_of(after[0], tape.values[step.output]), after[0].output)
    return found


def _takes_scale(step: Step) -> bool:
    """Whether a scale of the output channels can be multiplied into the step's matrix, as `linear_of` does."""
    if step.name == "convolution":
        return not step.arguments([torch.empty(0)])["transposed"]
    return step.name in ("addmm", "mm") and step.is_input(FACTORS[step.name].first)


def _scale_of(step: Step, inputs: Tensor) -> Tensor:
    arguments = step.arguments([inputs])
    epsilon = arguments["eps"] if "eps" in arguments else arguments["epsilon"]
    scale: Tensor = (arguments["running_var"] + epsilon).rsqrt()
    weight = arguments["weight"]
    return scale if weight is None else scale * weight


def _is_last(step: Step, outputs: Tensor) -> bool:
    """Whether the added constant has one value per index of the last axis, as in layouts with channels last."""
    if step.name not in ("add", "sub", "rsub"):
        return False
    constants = [item for item in step.constants if isinstance(item, Tensor) and item.numel() > 1]
    return any(item.shape[-1] == outputs.shape[-1] == item.numel() for item in constants)


def _like(values: Tensor, relevance: Tensor) -> Tensor:
    """Return relevance in the shape of a value that may have been broadcast."""
    return relevance.sum_to_size(values.shape) if values.shape != relevance.shape else relevance

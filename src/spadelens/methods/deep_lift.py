"""DeepLIFT on any model: differences from a baseline, propagated by rules that preserve their sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from spadelens.graph.operations import OpKind, fused, kind_of, normalization_of
from spadelens.graph.tape import Step, Tape, Values, record, vjp, vjp_of_function
from spadelens.methods.method import Attribution, Method, check_finite

_NAME = "deep_lift"


@final
@dataclass(frozen=True)
class DeepLift(Method):
    """DeepLIFT with the rescale rule (Shrikumar et al. 2017): multiplier times difference from the baseline.

    The multiplier m of a value is the contribution to the score's difference per unit of the value's difference. For
    every operation y = f(x, ...), the sum of m_x (x - x0) over the inputs equals m_y (y - y0):

        function of one number       m_x = m_y (f(x) - f(x0)) / (x - x0)
        multiplication by a matrix   m_x = Wᵀ m_y
        product y = a b              m_a = m_y (b + b0) / 2, and m_b likewise
        quotient y = a / b           m_a = 2 m_y / (b + b0), and m_b = -m_a (y + y0) / 2
        maximum                      the difference goes to the position of the larger of y and y0

    Softmax is treated as exp(x - log(sum(exp(x)))), and normalizations as the sums, quotients and functions that they
    consist of. DeepLIFT's authors leave products (gates, attention) open; this is the mean of both orders, as in the
    Shapley values of two factors. The rule for quotients follows from that for a = y b and stays stable if b0 is nearly
    0. Captum's DeepLift sees modules only and uses the gradient of everything else, which silently loses part of the
    difference.

    Needs the memory and time of two training steps.

    Attributes:
        baseline: The value of every input at the baseline; 0 is the mean color of normalized photos, or a masked token.
    """

    reference = "input_x_gradient"
    most_missed = 0.01

    baseline: float = 0.0

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        check_finite(self, "baseline")

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the attribution, and the deviation of its sum from the difference of the scores."""
        tape = fused(record(model, sample.detach()))
        batch = tape.values[tape.source]
        baseline = torch.full_like(batch, self.baseline)
        before = tape.forward(baseline)
        start = torch.zeros_like(tape.values[tape.scores])
        start[0, target] = 1.0
        values = tape.backward(start, _Rescale.over(tape, before)) * (batch - baseline)
        scores = [one[tape.scores][0, target].cpu().double() for one in (tape.values, before)]
        return Attribution(values, float(values.cpu().double().sum() - (scores[0] - scores[1])))


@dataclass(frozen=True, eq=False)
class _Rescale:
    """Maps the multipliers of a step's outputs to those of its inputs.

    Attributes:
        tape: The pass on the sample.
        before: The values of the same tape at the baseline.
        kinds: Step -> its kind.
        inverses: The values of the form 1 / b, for quotients that are computed as a product with one.
    """

    tape: Tape
    before: Values
    kinds: Mapping[Step, OpKind]
    inverses: frozenset[int]

    @classmethod
    def over(cls, tape: Tape, before: Values) -> _Rescale:
        """Return the rules for a tape, given its values at the baseline.

        Raises:
            AttributionError: An operation has no rule.
        """
        kinds = {step: kind_of(step, _NAME) for step in tape.steps}
        inverses: set[int] = set()
        for step, kind in kinds.items():
            is_carried = kind in (OpKind.SCALING, OpKind.VIEW) and inverses.issuperset(step.inputs)
            if is_carried or step.name in ("rsqrt", "reciprocal"):
                inverses.update(number for number in step.outputs if number is not None)
        return cls(tape, before, kinds, frozenset(inverses))

    def __call__(self, step: Step, messages: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        now = [self.tape.values[number] for number in step.inputs]
        then = [self.before[number] for number in step.inputs]
        match self.kinds[step]:
            case OpKind.ACTIVATION:
                return [self._rescaled(step, now[0], then[0], messages)]
            case OpKind.PRODUCT:
                return self._of_product(step, now, then, messages)
            case OpKind.QUOTIENT:
                return _of_quotient(now, then, messages[0])
            case OpKind.MAXIMUM:
                return [self._of_maximum(step, now[0], then[0], messages[0])]
            case OpKind.NORMALIZATION:
                return [_of_normalization(step, now[0], then[0], messages[0])]
            case OpKind.SOFTMAX:
                return [_of_softmax(step, now[0], then[0], messages[0])]
            case OpKind.L2_NORM:
                return self._of_l2_norm(step, now[0], then[0], messages)
            case _:  # linear operations
                return vjp(step, now, messages)

    def _rescaled(self, step: Step, now: Tensor, then: Tensor, messages: Sequence[Tensor | None]) -> Tensor:
        (slope,) = vjp(step, [(now + then) / 2], messages)
        assert slope is not None
        assert messages[0] is not None
        outputs = (self.tape.values[step.output], self.before[step.output])
        quotient = messages[0] * _quotient(outputs[0] - outputs[1], now - then)
        is_close = _is_nearly(now, then) | ((now - then).abs() <= _nearly_equal(now)) & _is_nearly(*outputs)
        # a square root has an infinite slope at 0, but then the difference is zero, too
        return torch.where(is_close & torch.isfinite(slope), slope, quotient.sum_to_size(now.shape))

    def _of_product(
        self, step: Step, now: Sequence[Tensor], then: Sequence[Tensor], messages: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """Return the multipliers of two factors: the gradient at their mean, or the quotient rule for a times 1 / b."""
        if step.name == "mul":
            for number in (0, 1):
                if step.inputs[number] in self.inverses:
                    order = (1 - number, number)
                    found = _of_quotient([now[k] for k in order], [then[k] for k in order], messages[0], True)
                    return [found[k] for k in order]
        return vjp(step, [(value + before) / 2 for value, before in zip(now, then, strict=True)], messages)

    def _of_maximum(self, step: Step, now: Tensor, then: Tensor, message: Tensor | None) -> Tensor:
        assert message is not None
        change = message * (self.tape.values[step.output] - self.before[step.output])
        is_larger = self.tape.values[step.output] >= self.before[step.output]
        rest = [None] * (len(step.outputs) - 1)
        shares = torch.zeros_like(now)
        for values, part in ((now, change * is_larger), (then, change * ~is_larger)):
            (share,) = vjp(step, [values], [part, *rest])
            assert share is not None
            shares = shares + share
        return _quotient(shares, now - then)

    def _of_l2_norm(
        self, step: Step, now: Tensor, then: Tensor, messages: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """Return the multipliers (x + x0) / (y + y0) of y = sqrt(sum of x^2)."""
        lengths = self.tape.values[step.output] + self.before[step.output]
        assert messages[0] is not None
        # the gradient of half the sum of squares, at x + x0, is x + x0
        scaled = [_quotient(messages[0], lengths)]
        return vjp_of_function(lambda value: [step.run([value])[0].square() / 2], [now + then], scaled)


def _of_quotient(
    now: Sequence[Tensor], then: Sequence[Tensor], message: Tensor | None, is_inverse: bool = False
) -> list[Tensor | None]:
    """Return the multipliers of y = a / b: 2 / (b + b0) and -(y + y0) / (b + b0); likewise of y = a c with c = 1 / b.

    They follow from the product rule for a = y b. Where b changes sign, the product rule for a times 1 / b is used.
    """
    assert message is not None
    b, b0 = (1 / now[1], 1 / then[1]) if is_inverse else (now[1], then[1])
    is_same_sign = b * b0 > 0
    outputs = now[0] / b + then[0] / b0
    of_a = torch.where(is_same_sign, 2 / (b + b0), (1 / b + 1 / b0) / 2)
    of_b = -torch.where(is_same_sign, outputs / 2 * of_a, (now[0] + then[0]) / 2 / b / b0)
    of_second = of_b * (-b * b0) if is_inverse else of_b
    return [(message * of_a).sum_to_size(now[0].shape), (message * of_second).sum_to_size(now[1].shape)]


def _of_normalization(step: Step, now: Tensor, then: Tensor, message: Tensor | None) -> Tensor:
    """Return the multipliers of y = w (x - mean) / std + b, through x - mean and std."""
    assert message is not None
    shape, weight, epsilon = normalization_of(step, now)
    multiplier = (message * weight).reshape(shape)
    centered = [value.reshape(shape) - value.reshape(shape).mean(-1, keepdim=True) for value in (now, then)]
    stds = [(value.square().mean(-1, keepdim=True) + epsilon).sqrt() for value in centered]
    total = stds[0] + stds[1]
    outputs = [_quotient(value, std) for value, std in zip(centered, stds, strict=True)]
    of_std = -_quotient((multiplier * (outputs[0] + outputs[1])).sum(-1, keepdim=True), total)
    of_centered = _quotient(2 * multiplier, total) + _quotient(of_std, total) * (centered[0] + centered[1]) / shape[-1]
    return (of_centered - of_centered.mean(-1, keepdim=True)).reshape(now.shape)


def _of_softmax(step: Step, now: Tensor, then: Tensor, message: Tensor | None) -> Tensor:
    """Return the multipliers of z = x - log(sum(exp(x))), or of exp(z).

    Computed with logarithms, so that nothing overflows or cancels: all factors are between 0 and 1.
    """
    assert message is not None
    axis = step.arguments([now])["dim"]
    totals = [_total(value, axis) for value in (now, then)]
    if step.name != "_log_softmax":
        message = message * _mean_power(now - totals[0], then - totals[1])
    # multipliers of log S, S = sum(e^x), for each x: (e^x - e^x0) / (x - x0) * (log S - log S0) / (S - S0)
    largest = torch.maximum(*totals)
    shares = _mean_power(now - largest, then - largest) / _mean_power(totals[0] - largest, totals[1] - largest)
    return message - shares * message.sum(axis, keepdim=True)


def _total(value: Tensor, axis: int) -> Tensor:
    """Return log(sum(exp(x))), or 0 where all values are masked."""
    total = value.logsumexp(axis, keepdim=True)
    return torch.where(torch.isfinite(total), total, 0.0)


def _mean_power(first: Tensor, second: Tensor) -> Tensor:
    """Return (e^a - e^b) / (a - b): e^a where both are equal, 0 where both are masked."""
    distance = (first - second).abs()
    factor = torch.where(distance > 0, -torch.expm1(-distance) / distance, 1.0)
    return torch.maximum(first, second).exp() * factor


def _is_nearly(now: Tensor, then: Tensor) -> Tensor:
    return (now - then).abs() <= _nearly_equal(now) * torch.maximum(now.abs(), then.abs())


def _nearly_equal(values: Tensor) -> float:
    """Return the relative distance below which a difference quotient is dominated by rounding; use the derivative."""
    return math.sqrt(torch.finfo(values.dtype).eps)


def _quotient(change: Tensor, difference: Tensor) -> Tensor:
    """Return change / difference, or 0 where the difference is 0, since there is no change to distribute then."""
    is_zero = difference == 0
    return torch.where(is_zero, 0.0, change / torch.where(is_zero, 1.0, difference))

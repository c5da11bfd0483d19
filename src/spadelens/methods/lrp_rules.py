"""The rules of layer-wise relevance propagation: how a layer distributes relevance to its inputs.

For a layer y_j = sum over i of z_ij + b_j with the contributions z_ij = x_i w_ij, R_i = sum over j of s_ij R_j. The
shares s_ij of every j sum to 1, so that relevance is conserved. p and n are the positive and the negative part of z.

    epsilon      z_ij / (y_j + epsilon sign(y_j) sum_i |z_ij|), and the rest by |z_ij| / sum_i |z_ij|
    gamma        the same, after adding to z_ij and b_j, also within y_j, gamma times their part that has the sign of
                 y_j; |z_ij| stays
    alpha-beta   alpha p_ij / sum_i p_ij - beta n_ij / sum_i n_ij, beta = alpha - 1
    z-plus       alpha-beta with alpha = 1: p_ij / sum_i p_ij
    flat         1 / number of inputs of j

The rest is the share of the bias and of epsilon. Since neither leads to an input, it is distributed in proportion to
the absolute contributions (Arras et al. 2017 distribute it equally in their rule for recurrent networks). Without
epsilon, outputs near zero whose contributions cancel make relevance explode from layer to layer (docs/evidence.md). If
no contribution has the sign that a rule asks for, those of the other sign are used; if all contributions are zero, all
inputs share equally, as in the rule flat. Relevance is lost only at outputs that see no input, such as the border of a
padded 1 x 1 convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from spadelens.graph.operations import FACTORS
from spadelens.graph.tape import Step, vjp_of_function


class Rule(str, Enum):
    """A rule for layers that multiply their input by a matrix of constants."""

    EPSILON = "epsilon"
    GAMMA = "gamma"
    ALPHA_BETA = "alpha-beta"
    Z_PLUS = "z-plus"
    FLAT = "flat"


@dataclass(frozen=True)
class Composite:
    """The rule of each type of layer.

    Attributes:
        convolution: The rule for convolutions.
        dense: The rule for linear layers.
        first: The rule for layers that see the model's input; None for the same rule as the others of their type.
    """

    convolution: Rule
    dense: Rule
    first: Rule | None = None


@dataclass(frozen=True)
class Strengths:
    """The parameters of the rules.

    Attributes:
        epsilon: How far denominators are moved away from zero, as a fraction of the sum of absolute contributions.
        gamma: The gamma of the rule `gamma`.
        alpha: The alpha of the rule `alpha-beta`.
    """

    epsilon: float
    gamma: float
    alpha: float


@dataclass(frozen=True, eq=False)
class Linear:
    """A layer without its bias, together with its inputs: the contributions of inputs to outputs.

    Attributes:
        function: Maps inputs and matrix to outputs, without a bias.
        inputs: The inputs of the layer.
        matrix: The weights; None for an average, whose `function` ignores the matrix.
    """

    function: Callable[[Tensor, Tensor | None], Tensor]
    inputs: Tensor
    matrix: Tensor | None = None

    @property
    def outputs(self) -> Tensor:
        """The sums of all contributions."""
        return self.function(self.inputs, self.matrix)

    def absolute(self) -> Linear:
        """Return the layer with the absolute values of the contributions."""
        return replace(self, inputs=self.inputs.abs(), matrix=None if self.matrix is None else self.matrix.abs())

    def flat(self) -> Linear:
        """Return the layer with a contribution of 1 from every input to every output that sees it."""
        ones = None if self.matrix is None else torch.ones_like(self.matrix)  # an average keeps its weights
        return replace(self, inputs=torch.ones_like(self.inputs), matrix=ones)

    def parts(self, is_positive: bool) -> tuple[Linear, Linear]:
        """Return the two layers that together have the contributions of one sign."""
        low, high = self.inputs.clamp(max=0), self.inputs.clamp(min=0)
        if self.matrix is None:  # an average: all factors are positive
            return replace(self, inputs=high if is_positive else low), replace(self, inputs=torch.zeros_like(low))
        falling, rising = self.matrix.clamp(max=0), self.matrix.clamp(min=0)
        first, second = (rising, falling) if is_positive else (falling, rising)
        return replace(self, inputs=high, matrix=first), replace(self, inputs=low, matrix=second)

    def propagate(self, per_output: Tensor) -> Tensor:
        """Return, for each input, the sum over the outputs of its contribution times `per_output`."""
        (gradient,) = vjp_of_function(lambda inputs: [self.function(inputs, self.matrix)], [self.inputs], [per_output])
        return torch.zeros_like(self.inputs) if gradient is None else self.inputs * gradient


def linear_of(step: Step, inputs: Tensor, scale: Tensor | None = None) -> Linear:
    """Return the layer for a step that multiplies by a matrix of constants or averages.

    Args:
        step: The step.
        inputs: Its inputs.
        scale: A factor for each output channel, `[channels]`, of the batch normalization that follows; or None.
    """
    if step.name not in FACTORS:
        return Linear(lambda values, _matrix: step.run([values])[0], inputs)
    first, second, bias = FACTORS[step.name]
    factor, constant = (first, second) if step.is_input(first) else (second, first)
    given = step.arguments([inputs])
    if bias is not None and given[bias] is not None:
        given[bias] = torch.zeros_like(given[bias])
    matrix = given[constant]
    if scale is not None:
        matrix = matrix * (scale.view(-1, *[1] * (matrix.dim() - 1)) if step.name == "convolution" else scale)

    def function(values: Tensor, weights: Tensor | None) -> Tensor:
        result: Tensor = step.operation(**{**given, factor: values, constant: weights})
        return result

    return Linear(function, inputs, matrix)


def propagate(layer: Linear, outputs: Tensor, relevance: Tensor, rule: Rule, strengths: Strengths) -> Tensor:
    """Return the relevance of the inputs of a layer from that of its outputs.

    Args:
        layer: The layer without its bias.
        outputs: Its outputs, with the bias.
        relevance: The relevance of the outputs, of the same shape.
        rule: How to distribute it.
        strengths: The parameters of the rules.
    """
    match rule:
        case Rule.FLAT:
            return _equally(layer, relevance)
        case Rule.Z_PLUS:
            return _alpha_beta(layer, relevance, 1.0)
        case Rule.ALPHA_BETA:
            return _alpha_beta(layer, relevance, strengths.alpha)
        case Rule.GAMMA:
            return _gamma(layer, outputs, relevance, strengths)
    return _epsilon(layer, outputs, relevance, strengths.epsilon)


def stabilize(values: Tensor, distance: Tensor) -> Tensor:
    """Return `values` moved away from zero by `distance`; 0 counts as positive."""
    return values + torch.where(values < 0, -distance, distance)


def is_negligible(sums: Tensor) -> Tensor:
    """Return where sums are 0, or so small that dividing by them may overflow."""
    limits = torch.finfo(sums.dtype)
    return sums.abs() <= limits.tiny / limits.eps


def safe_divide(relevance: Tensor, sums: Tensor) -> Tensor:
    """Return relevance / sums, or 0 where the denominator is 0 or tiny."""
    is_zero = is_negligible(sums)
    return torch.where(is_zero, 0.0, relevance / torch.where(is_zero, 1.0, sums))


def _epsilon(layer: Linear, outputs: Tensor, relevance: Tensor, epsilon: float) -> Tensor:
    absolute = layer.absolute()
    sizes = absolute.outputs
    present = torch.where(is_negligible(sizes), 0.0, relevance)
    quotient = safe_divide(present, stabilize(outputs, epsilon * sizes))
    rest = present - layer.outputs * quotient  # the share of bias and epsilon
    shared = absolute.propagate(safe_divide(rest, sizes))
    return layer.propagate(quotient) + shared + _equally(layer, relevance - present)


def _equally(layer: Linear, relevance: Tensor) -> Tensor:
    """Distribute the relevance of outputs without contributions equally to all inputs that they see."""
    if not bool(relevance.any()):
        return torch.zeros_like(layer.inputs)
    flat = layer.flat()
    return flat.propagate(safe_divide(relevance, flat.outputs))


def _gamma(layer: Linear, outputs: Tensor, relevance: Tensor, strengths: Strengths) -> Tensor:
    absolute = layer.absolute()
    sizes = absolute.outputs
    bias = outputs - layer.outputs
    present = torch.where(is_negligible(sizes), 0.0, relevance)
    total = _equally(layer, relevance - present)
    for is_positive in (True, False):
        chosen = torch.where((outputs >= 0) == is_positive, present, 0.0)
        parts = layer.parts(is_positive)
        part = parts[0].outputs + parts[1].outputs
        increased = layer.outputs + strengths.gamma * part
        bias_part = bias.clamp(min=0) if is_positive else bias.clamp(max=0)
        denominator = increased + bias + strengths.gamma * bias_part
        quotient = safe_divide(chosen, stabilize(denominator, strengths.epsilon * sizes))
        total = total + layer.propagate(quotient)
        for one in parts:
            total = total + strengths.gamma * one.propagate(quotient)
        total = total + absolute.propagate(safe_divide(chosen - increased * quotient, sizes))
    return total


def _alpha_beta(layer: Linear, relevance: Tensor, alpha: float) -> Tensor:
    signs = {is_positive: layer.parts(is_positive) for is_positive in (True, False)}
    sums = {is_positive: first.outputs + second.outputs for is_positive, (first, second) in signs.items()}
    has_positive, has_negative = ~is_negligible(sums[True]), ~is_negligible(sums[False])
    factors = {
        True: torch.where(has_negative, relevance.new_tensor(alpha), 1.0) * has_positive,
        False: torch.where(has_positive, relevance.new_tensor(1.0 - alpha), 1.0) * has_negative,
    }
    total = _equally(layer, relevance * ~(has_positive | has_negative))
    for is_positive, parts in signs.items():
        if not bool(factors[is_positive].any()):
            continue
        quotient = factors[is_positive] * safe_divide(relevance, sums[is_positive])
        for part in parts:
            total = total + part.propagate(quotient)
    return total

"""Layer-wise relevance propagation on any model, conserving the relevance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor, nn

from spadelens.errors import InputError, UnknownNameError
from spadelens.graph.operations import fused
from spadelens.graph.tape import record
from spadelens.methods.lrp_rules import Composite, Rule, Strengths
from spadelens.methods.lrp_steps import Relevance
from spadelens.methods.method import Attribution, Method, check_finite

COMPOSITES: Mapping[str, Composite] = MappingProxyType(
    {
        "epsilon-plus": Composite(Rule.Z_PLUS, Rule.EPSILON),
        "epsilon-plus-flat": Composite(Rule.Z_PLUS, Rule.EPSILON, Rule.FLAT),
        "epsilon-alpha-beta": Composite(Rule.ALPHA_BETA, Rule.EPSILON),
        "epsilon-alpha-beta-flat": Composite(Rule.ALPHA_BETA, Rule.EPSILON, Rule.FLAT),
        "epsilon-gamma": Composite(Rule.GAMMA, Rule.EPSILON),
        "epsilon": Composite(Rule.EPSILON, Rule.EPSILON),
        "gamma": Composite(Rule.GAMMA, Rule.GAMMA),
        "alpha-beta": Composite(Rule.ALPHA_BETA, Rule.ALPHA_BETA),
        "z-plus": Composite(Rule.Z_PLUS, Rule.Z_PLUS),
    }
)


@final
@dataclass(frozen=True)
class LRP(Method):
    """Layer-wise relevance propagation (Bach et al. 2015): the score is propagated layer by layer back to the input.

    Convolutions and linear layers distribute relevance by the rules in `lrp_rules`; a batch normalization that follows
    is multiplied into their weights first. All other operations:

        - activation: relevance passes unchanged.
        - sum: in proportion to the summands; the share of a constant is redistributed like that of a bias.
        - average pooling: the epsilon rule. Maximum pooling: the largest value receives everything.
        - normalization: linear, with the standard deviation treated as a constant (Ali et al. 2022).
        - product: gates, attention weights, normalizing factors and the smaller of two broadcast factors are treated as
          constants (Ali et al. 2022); otherwise, each factor receives half (Achtibat et al. 2024).
        - L2 norm: in proportion to the squares.
        - concatenated constants, such as a class token: their share goes to the values they are concatenated with, in
          proportion to the relevance of these.

    Needs the memory of a training step and the time of several.

    LRP is patented (EP 3271863 B1, US 12061966 B2 and others); docs/findings.md has what is known of its use.

    Attributes:
        rule: 'epsilon-plus', 'epsilon-plus-flat', 'epsilon-alpha-beta', 'epsilon-alpha-beta-flat' or 'epsilon-gamma':
            epsilon for linear layers; z-plus, alpha-beta or gamma for convolutions; flat for the first layer if the
            name says so. Or 'epsilon', 'gamma', 'alpha-beta' or 'z-plus' for all layers.
        epsilon: How far the denominators of linear layers are moved away from zero, as a fraction of the sum of the
            absolute contributions. Larger values give smoother maps that depend less on the class.
        stabilizer: The same for all other operations. If it is small, positive and negative relevance both grow from
            layer to layer.
        gamma: The extra weight of the favored contributions in the rule gamma: those with the sign of the output.
        alpha: The weight of positive contributions in the rule alpha-beta; beta is alpha - 1.
    """

    reference = "input_x_gradient"

    rule: str = "epsilon-gamma"
    epsilon: float = 0.01
    stabilizer: float = 0.1
    gamma: float = 0.25
    alpha: float = 2.0

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        if self.rule not in COMPOSITES:
            raise UnknownNameError("rule of LRP", self.rule, COMPOSITES)
        check_finite(self, "epsilon", "stabilizer", "gamma", "alpha")
        if min(self.epsilon, self.stabilizer, self.gamma) < 0 or self.alpha < 1:
            raise InputError(
                f"Cannot use epsilon={self.epsilon!r}, stabilizer={self.stabilizer!r}, gamma={self.gamma!r}, "
                f"alpha={self.alpha!r}: expected an alpha of at least 1, and the others of at least 0."
            )

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the relevance, and the fraction of the score that it conserves."""
        tape = fused(record(model, sample.detach()))
        score = tape.values[tape.scores][0, target]
        start = torch.zeros_like(tape.values[tape.scores])
        start[0, target] = score
        strengths = Strengths(self.stabilizer, self.gamma, self.alpha)
        values = tape.backward(start, Relevance.over(tape, COMPOSITES[self.rule], strengths, self.epsilon))
        kept = float(values.cpu().double().sum()) / float(score) if float(score) else None
        return Attribution(values, conservation=kept)

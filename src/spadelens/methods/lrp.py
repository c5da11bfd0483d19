"""Layer-wise relevance propagation on any model, with nothing lost on the way."""

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
    """Layer-wise relevance propagation (Bach et al. 2015): the score, handed back layer by layer to the input.

    Convolutions and linear layers share it out by the rules of `lrp_rules`, with a batch normalization that follows
    multiplied into their weights. All else:

        - activation: R passes.
        - sum: R in proportion to the summands; what a constant gets, as bias does.
        - average, pooling: epsilon; the largest value takes all.
        - normalization: linear, its standard deviation taken as constant (Ali et al. 2022).
        - product: a gate, attention weights, a normalizing factor and one that is spread over the other count as
          constants (Ali et al. 2022), else half to each factor (Achtibat et al. 2024).
        - length: in proportion to the squares.
        - joined constants: what they get (a class token) goes to what they are joined with, by its own relevance.

    Takes the memory of a training step, and the time of several.

    Attributes:
        rule: 'epsilon-plus', 'epsilon-plus-flat', 'epsilon-alpha-beta', 'epsilon-alpha-beta-flat' or 'epsilon-gamma':
            epsilon for linear layers, z-plus, alpha-beta or gamma for convolutions, flat for the first layer; or
            'epsilon', 'gamma', 'alpha-beta' or 'z-plus' for all layers.
        epsilon: What the denominators of linear layers are kept away from zero by, as a fraction of the sizes of what
            is added up. More of it is smoother, and depends less on the class.
        stabilizer: The same of everything else. With less of it, relevance of both signs grows from layer to layer.
        gamma: How much more positive contributions count in the rule gamma.
        alpha: Of the rule alpha-beta; beta is alpha - 1.
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
        """Return the relevance, and what of the score it has kept."""
        tape = fused(record(model, sample.detach()))
        score = tape.values[tape.scores][0, target]
        start = torch.zeros_like(tape.values[tape.scores])
        start[0, target] = score
        strengths = Strengths(self.stabilizer, self.gamma, self.alpha)
        values = tape.backward(start, Relevance.over(tape, COMPOSITES[self.rule], strengths, self.epsilon))
        kept = float(values.cpu().double().sum()) / float(score) if float(score) else None
        return Attribution(values, conservation=kept)

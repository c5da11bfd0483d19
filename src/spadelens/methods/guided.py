"""Guided backpropagation and guided Grad-CAM on any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from spadelens.errors import AttributionError
from spadelens.graph.operations import OpKind, Role, fused, kind_of, role_of
from spadelens.graph.tape import Step, Tape, record, vjp
from spadelens.methods.grad_cam import grad_cam
from spadelens.methods.method import Attribution, Method

_CARRIED = (OpKind.VIEW, OpKind.SCALING, OpKind.SHIFT)  # after these, a gate is still a gate
_NAME, _CAM_NAME = "guided_backprop", "guided_grad_cam"


@final
@dataclass(frozen=True)
class GuidedBackprop(Method):
    """The gradient, of which every rectifier passes only the positive part (Springenberg et al. 2015).

        g_in = f'(x) max(g_out, 0)

    for ReLU and similar functions, which grow to the right and stay near a constant to the left: ReLU6, leaky ReLU,
    PReLU, ELU, SELU, GELU, SiLU, Hardswish, Mish, softplus, and formulas of one value that behave like them. All other
    operations use the plain gradient: products, gates (a sigmoid that multiplies another value), normalizations,
    attention. Saturating activations such as tanh have no such rule: a model with one, or without any rectifier, raises
    an AttributionError.
    """

    reference = "gradient"

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the guided gradient."""
        return Attribution(_guided(model, sample, target, _NAME))


@final
@dataclass(frozen=True)
class GuidedGradCam(Method):
    """Guided backpropagation times the Grad-CAM map (Selvaraju et al. 2017); errors are those of both."""

    reference = "gradient"

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the guided gradient times the enlarged map."""
        cam = grad_cam(model, sample, target, _CAM_NAME)
        return Attribution(_guided(model, sample, target, _CAM_NAME) * cam)


def _guided(model: nn.Module, sample: Tensor, target: int, method: str) -> Tensor:
    tape = fused(record(model, sample.detach()))
    roles = _roles(tape, method)
    start = torch.zeros_like(tape.values[tape.scores])
    start[0, target] = 1.0

    def rule(step: Step, messages: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        if roles.get(step.output) is Role.RECTIFIER:
            messages = [None if message is None else message.clamp(min=0) for message in messages]
        return vjp(step, [tape.values[number] for number in step.inputs], messages)

    return tape.backward(start, rule)


def _roles(tape: Tape, method: str) -> Mapping[int, Role]:
    """Return number of an activation's output -> its role.

    Raises:
        AttributionError: An activation has no rule, or there is no rectifier.
    """
    roles: dict[int, Role] = {}
    kinds = {step.output: kind_of(step, method) for step in tape.steps if step.outputs[0] is not None}
    for step in tape.steps:
        if kinds.get(step.output) is not OpKind.ACTIVATION:
            continue
        role = roles[step.output] = role_of(step)
        if role is Role.SATURATING or (role is Role.GATE and not _is_factor(step.output, tape, kinds)):
            raise AttributionError(
                f"The method {method!r} has no rule for the activation {step.name!r} of this model: only rectifiers "
                "such as ReLU or GELU, which block only negative values, have one. Use saliency or smoothgrad."
            )
    if Role.RECTIFIER not in roles.values():
        raise AttributionError(
            f"The method {method!r} would be the plain gradient on this model: it has no rectifier such as ReLU or "
            "GELU. Use saliency or smoothgrad."
        )
    return roles


def _is_factor(number: int, tape: Tape, kinds: Mapping[int, OpKind]) -> bool:
    """Whether the only use of a value g, if any, is to multiply others by it or by a linear function such as 1 - g."""
    users = [step for step in tape.steps if number in step.inputs]
    return all(
        kinds[step.output] is OpKind.PRODUCT
        or (kinds[step.output] in _CARRIED and _is_factor(step.output, tape, kinds))
        for step in users
    )

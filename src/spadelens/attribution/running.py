"""Runs an attribution method on a model that is left as it was."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from spadelens.errors import AttributionError, SpadeError
from spadelens.forward import running
from spadelens.kinds import Kind
from spadelens.methods.method import Attribution, Method
from spadelens.methods.registry import METHODS
from spadelens.settings import configured_name

_WITHOUT_GRADIENT = ("Set allow_unused=True", "does not require grad")  # what torch says of a graph that is cut


class _OnCopy(nn.Module):
    """A model that gets a copy of its input, in case it starts with an in-place operation."""

    def __init__(self, model: nn.Module, kind: Kind) -> None:
        super().__init__()
        self.model, self.input_kind = model, kind
        self.training = False

    def forward(self, inputs: Tensor) -> Any:
        return self.model(inputs.clone())


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of a model.

    Attributes:
        sample: Without a batch dimension.
        target: The class whose score is explained.
        kind: What the sample is.
    """

    sample: Tensor
    target: int
    kind: Kind


def run_method(method: Method, model: nn.Module, question: Question) -> Attribution:
    """Return the attribution of a sample, without the batch dimension, on the CPU.

    Raises:
        AttributionError: The method cannot be run on the model or gives values that are not finite.
    """
    with running(model) as private, torch.inference_mode(False), torch.enable_grad():
        batch = question.sample.unsqueeze(0).clone().requires_grad_()
        try:
            found = method.attribute(_OnCopy(private, question.kind), batch, question.target)
        except SpadeError:
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _WITHOUT_GRADIENT):
                raise AttributionError(
                    f"The method {configured_name(method, METHODS)!r} needs gradients that the model does not give: "
                    "part of it runs under torch.no_grad() or is detached. Remove that, or use occlusion or lime."
                ) from error
            raise AttributionError(
                f"Cannot run the method {configured_name(method, METHODS)!r} on this model: "
                f"{type(error).__name__}: {error}"
            ) from error
    values, delta = found.values.detach().cpu()[0], found.convergence_delta
    if not bool(torch.isfinite(values).all()) or (delta is not None and not math.isfinite(delta)):
        raise AttributionError(
            f"The method {configured_name(method, METHODS)!r} gives values that are not finite for this model and "
            "sample, or at the method's baseline. Try another method, another baseline or float32."
        )
    return replace(found, values=values)

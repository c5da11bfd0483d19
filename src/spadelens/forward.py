"""Runs a model on a batch as it is: in evaluation mode, as written, without gradients, its scores checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spadelens.eager import run_as_written
from spadelens.errors import ModelOutputError, SpadeError


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode for the length of the block, and let its compiled parts run as written.

    The mode of every module is restored.

    Flags are set directly: a `train()` of the user's own may do more than that on the way in (merge weights, say),
    which nothing would undo on the way out.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        with run_as_written():
            yield
    finally:
        for module, is_training in modes:
            module.training = is_training


def class_scores(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the scores `[batch, classes]` of `model`, without gradients, checked to be finite.

    Raises:
        ModelOutputError: The model fails on such a batch, or returns anything else than finite scores.
    """
    with evaluation_mode(model), torch.no_grad():
        try:
            scores = model(batch.clone())  # a model may begin with an operation in place
        except SpadeError:  # from a consumer of ours that the pass has called
            raise
        except Exception as error:
            raise ModelOutputError(
                f"The model cannot be run on a batch of shape {list(batch.shape)}: "
                f"{type(error).__name__}: {str(error).strip() or 'no message'}{_batch_hint(batch)}"
            ) from error
    return check_scores(scores, len(batch))


def _batch_hint(batch: Tensor) -> str:
    has_two = batch.dim() >= 5 and batch.shape[:2] == (1, 1)
    return ". Samples come without a batch dimension: pass sample[0]." if has_two else ""


def check_scores(scores: Any, batch_size: int) -> Tensor:
    """Return `scores` if they are finite numbers `[batch_size, classes]` with at least two classes.

    Raises:
        ModelOutputError: They are not.
    """
    expected = f"expected a tensor of class scores [{batch_size}, classes]"
    if not isinstance(scores, Tensor):
        raise ModelOutputError(
            f"The model returned a {type(scores).__name__}: {expected}. Wrap it in a module that returns the scores."
        )
    if scores.dim() != 2 or scores.shape[0] != batch_size or scores.shape[1] < 2 or not scores.is_floating_point():
        raise ModelOutputError(
            f"The model returned a tensor of shape {list(scores.shape)} and type {scores.dtype}: {expected} "
            "with at least two classes. Wrap it in a module that returns the scores."
        )
    if not bool(torch.isfinite(scores).all()):
        raise ModelOutputError(
            "The model returned scores that are not finite (NaN or infinity). "
            "Check its weights and the normalization of the input."
        )
    return scores.detach()

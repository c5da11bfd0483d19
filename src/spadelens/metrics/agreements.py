"""The share of predictions that a trace keeps, with the original or with re-estimated BatchNorm statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spadelens.errors import InputError
from spadelens.extraction.trace import Trace, runnable
from spadelens.forward import class_scores
from spadelens.private_copy import is_private

_BatchNorm = nn.modules.batchnorm._BatchNorm  # what all of torch's BatchNorm layers are


def agreement(trace: Trace, samples: Tensor, batch_size: int = 32, recalibrate: bool = False) -> float:
    """Return the fraction of samples, such as views, for which a trace and its original model predict the same class.

    Args:
        trace: The trace.
        samples: `[N, C, H, W]`, on the device of the model.
        batch_size: Samples per forward pass.
        recalibrate: Whether to re-estimate the means and variances of BatchNorm layers on these samples with the trace
            first, as in the paper.

    Raises:
        InputError: There are no samples.
        ModelOutputError: The model fails on them.
    """
    if samples.dim() < 2 or not len(samples):
        raise InputError(
            f"Cannot count agreement on samples of shape {list(samples.shape)}: expected at least one sample."
        )

    def predicted(model: nn.Module) -> Tensor:
        return torch.cat([class_scores(model, batch).argmax(1) for batch in samples.split(batch_size)])

    sparse = runnable(trace)
    if recalibrate:
        recalibrate_batch_norms(sparse, samples)
    return float((predicted(sparse) == predicted(runnable(trace.original_model))).cpu().double().mean())


def recalibrate_batch_norms(model: nn.Module, samples: Tensor) -> None:
    """Give the BatchNorm layers of a private copy the statistics of `samples`.

    All samples are run in one batch, layer after layer with the new statistics.

    Raises:
        ModelOutputError: The model fails on the samples.
    """
    assert is_private(model)
    layers = [
        module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    for layer in layers:
        layer.training, layer.momentum = True, 1.0  # the statistics of the next batch, and of no other
    class_scores(model, samples)
    for layer in layers:
        layer.training = False

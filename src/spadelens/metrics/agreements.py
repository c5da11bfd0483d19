"""How many predictions does a trace keep? With BatchNorm statistics as they are, and estimated anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spadelens.errors import InputError
from spadelens.extraction.trace import Trace
from spadelens.forward import class_scores, evaluation_mode

_BatchNorm = nn.modules.batchnorm._BatchNorm  # what all of torch's BatchNorm layers are


def agreement(trace: Trace, samples: Tensor, batch_size: int = 32, recalibrate: bool = False) -> float:
    """Return the fraction of samples, such as views, that a trace predicts as its dense model does.

    Args:
        trace: The trace.
        samples: `[N, C, H, W]`, on the device of the model.
        batch_size: Samples that are run at a time.
        recalibrate: Whether the means and variances of BatchNorm layers are estimated anew, on these samples through
            the trace, as the paper does before it counts.

    Raises:
        InputError: There are no samples.
        ModelOutputError: The model fails on them.
    """
    if samples.dim() < 2 or not len(samples):
        raise InputError(f"Cannot count agreement on samples of shape {list(samples.shape)}: expected some of them.")
    model = trace.dense_model

    def predicted() -> Tensor:
        return torch.cat([class_scores(model, batch).argmax(1) for batch in samples.split(batch_size)])

    dense = predicted()
    with trace.applied(model):
        if not recalibrate:
            return float((predicted() == dense).cpu().double().mean())
        with recalibrated(model, samples):
            return float((predicted() == dense).cpu().double().mean())


@contextmanager
def recalibrated(model: nn.Module, samples: Tensor) -> Iterator[None]:
    """Let the BatchNorm layers of `model` hold the statistics of `samples` for the length of the block.

    All samples are run in one batch, layer after layer with the new statistics. They are put back when the block ends,
    after an exception too.

    Raises:
        ModelOutputError: The model fails on the samples.
    """
    layers = [
        module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    before = [{name: value.clone() for name, value in layer.named_buffers(recurse=False)} for layer in layers]
    momenta = [layer.momentum for layer in layers]
    try:
        with evaluation_mode(model), torch.no_grad():
            for layer in layers:
                layer.training, layer.momentum = True, 1.0  # the statistics of the next batch, and of no other
            model(samples.clone())
            for layer in layers:
                layer.training = False
        yield
    finally:
        for layer, buffers, momentum in zip(layers, before, momenta, strict=True):
            layer.momentum = momentum
            for name, value in buffers.items():
                getattr(layer, name).copy_(value)

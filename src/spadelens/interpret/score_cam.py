"""`score_cam`: a map of what a class needs, from forward passes alone, for models with convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spadelens.errors import AttributionError, InputError, UnknownNameError
from spadelens.extract.capture import class_scores
from spadelens.extract.report import are_probabilities
from spadelens.extract.sample import check_sample, check_target
from spadelens.extract.trace import Trace, applied_or_dense
from spadelens.extract.views import check_count

BATCH_SIZE = 16


def score_cam(
    model: Trace | nn.Module, sample: Tensor, target: int, layer: str | None = None, batch_size: int = BATCH_SIZE
) -> Tensor:
    """Return the Score-CAM map of `sample` for a class, `[H, W]`, on the CPU (Wang et al. 2019).

    map = relu(sum over k of (p(sample * mask_k) - p(0)) * A_k)

    with A_k channel k of the layer's output, enlarged to the size of the sample (bilinear); mask_k the same, scaled to
    have 0 as its least value and 1 as its largest; p the probability of the class, after a softmax unless the model
    ends in one; and 0 the sample of zeros, which for a normalized photo is one of the mean color. What the mask adds to
    the probability, the increase of confidence, is the channel's weight as it is: it is not put through a softmax over
    channels. A channel that is constant has no mask, and the weight 0.

    It takes one forward pass for every channel, `batch_size` at a time. The model is run in evaluation mode and is left
    exactly as it was.

    Args:
        model: A trace, or a module that maps a batch of samples to class scores.
        sample: The input `[C, H, W]`, without a batch dimension.
        target: The class.
        layer: The module whose output is used, called once in a pass; by default the output of the last call of any
            module in the pass that has the shape `[batch, channels, height, width]` and more than one place.
        batch_size: Masked samples that are run at a time.

    Raises:
        InputError: An argument is out of range, the layer's output is no map, or no layer's is; UnknownNameError: there
            is no such layer.
        ModelOutputError: The model fails on the sample, or does not return finite class scores.
        TraceMismatchError: The dense model has been changed since the trace was made.
        AttributionError: The layer's output is not finite.
    """
    return score_cams(model, sample, [target], layer, batch_size)[0]


def score_cams(
    model: Trace | nn.Module,
    sample: Tensor,
    targets: Sequence[int],
    layer: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Return the maps of several classes, `[targets, H, W]`, from the same passes; otherwise as `score_cam`."""
    dense = model.dense_model if isinstance(model, Trace) else model
    sample = check_sample(dense, sample)
    if sample.dim() != 3:
        raise InputError(f"Cannot draw the map of a sample of shape {list(sample.shape)}: expected [C, H, W].")
    check_count(batch_size, "batch_size", at_least=1)
    with applied_or_dense(model):
        channels, scores = _channels(dense, sample, layer)
        chosen = [check_target(target, len(scores)) for target in targets]
        is_distribution = are_probabilities(scores)
        baseline = _probabilities(dense, torch.zeros_like(sample).unsqueeze(0), is_distribution)[:, chosen]
        maps = channels.new_zeros(len(chosen), *sample.shape[1:])
        for start in range(0, len(channels), batch_size):
            enlarged = functional.interpolate(
                channels[start : start + batch_size].unsqueeze(1), sample.shape[1:], mode="bilinear"
            )  # [B, 1, H, W]
            masked = sample * _masks(enlarged).to(sample.dtype)  # [B, C, H, W]
            weights = _probabilities(dense, masked, is_distribution)[:, chosen] - baseline  # [B, targets]
            maps += (weights.T[:, :, None, None] * enlarged[:, 0]).sum(1)
    return maps.relu().cpu()


def _masks(channels: Tensor) -> Tensor:
    """Return each of `[B, 1, H, W]` scaled to [0, 1]; zero where it is constant, so that it adds nothing to the map."""
    least, most = channels.amin((1, 2, 3), keepdim=True), channels.amax((1, 2, 3), keepdim=True)
    return torch.where(most > least, (channels - least) / (most - least), torch.zeros_like(channels))


def _probabilities(model: nn.Module, batch: Tensor, is_distribution: bool) -> Tensor:
    scores = _wide(class_scores(model, batch))
    return scores if is_distribution else scores.softmax(dim=1)


def _channels(model: nn.Module, sample: Tensor, layer: str | None) -> tuple[Tensor, Tensor]:
    """Return the channels `[K, h, w]` of a layer's output that are not constant, and the scores of the sample."""
    modules = {name: module for name, module in model.named_modules() if name}
    if layer is not None and layer not in modules:
        raise UnknownNameError("layer", layer, modules)
    outputs: list[Any] = []

    def keep(output: Any) -> None:
        copy = output.detach().clone() if isinstance(output, Tensor) else output  # the next module may work in place
        if layer is not None:
            outputs.append(copy)
        elif _is_map(copy):
            outputs[:] = [copy]

    watched = modules.values() if layer is None else [modules[layer]]
    handles = [module.register_forward_hook(lambda _module, _inputs, output: keep(output)) for module in watched]
    try:
        scores = class_scores(model, sample.unsqueeze(0))[0]
    finally:
        for handle in handles:
            handle.remove()
    if layer is None and not outputs:
        raise InputError(
            "Cannot draw a Score-CAM map: no module of the model returns a tensor [batch, channels, height, width] of "
            "more than one place. It needs a model with convolutions."
        )
    if len(outputs) != 1 or not _is_map(outputs[0]):
        found = f"is called {len(outputs)} times" if len(outputs) != 1 else f"returns {_shape(outputs[0])}"
        raise InputError(
            f"Cannot draw a Score-CAM map from layer {layer!r}: it {found}, expected one call that returns a tensor "
            "[1, channels, height, width] of more than one place."
        )
    channels = _wide(outputs[0][0])
    if not bool(torch.isfinite(channels).all()):
        raise AttributionError(
            "The output of the layer is not finite (NaN or infinity). Use float32, or another layer."
        )
    return channels[channels.amax((1, 2)) > channels.amin((1, 2))], scores


def _is_map(output: Any) -> bool:
    return isinstance(output, Tensor) and output.dim() == 4 and len(output) == 1 and output.shape[2:].numel() > 1


def _shape(output: Any) -> str:
    return f"the shape {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()

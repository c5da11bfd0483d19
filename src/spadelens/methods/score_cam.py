"""`score_cam`: a class activation map from forward passes only, for models that end in convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from spadelens.eager import unwrapped
from spadelens.errors import AttributionError, InputError, UnknownNameError
from spadelens.extraction.trace import Trace, runnable
from spadelens.forward import class_scores, scale_for
from spadelens.hooks import forward_hooks
from spadelens.inputs.checks import check_sample, check_target
from spadelens.kinds import spread_units
from spadelens.methods.feature_map import LastMap, is_map
from spadelens.methods.method import Attribution, Method, check_at_least_one
from spadelens.prediction import Scale, probabilities_of
from spadelens.views.view_source import check_count

BATCH_SIZE = 16
_NAME = "score_cam"


@final
@dataclass(frozen=True)
class ScoreCam(Method):
    """Score-CAM: a class activation map of the last feature map of a convolutional model (Wang et al. 2019).

    For photos only. See `score_cam`; each channel of a pixel gets the value of the pixel.

    Attributes:
        batch_size: Masked samples per forward pass.
    """

    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        check_at_least_one(self, "batch_size")

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the map, the same for every channel."""
        inputs = sample.detach()[0]
        if inputs.dim() != 3:
            raise AttributionError(
                f"The method {_NAME!r} needs photos [C, H, W]: the sample has the shape {list(inputs.shape)}."
            )
        found = score_cam(model, inputs, target, batch_size=self.batch_size).to(inputs.dtype)
        return Attribution(spread_units(found, inputs, "photo").expand_as(inputs).unsqueeze(0))


def score_cam(
    model: Trace | nn.Module, sample: Tensor, target: int, layer: str | None = None, batch_size: int = BATCH_SIZE
) -> Tensor:
    """Return the Score-CAM map of `sample` for a class, `[H, W]`, on the CPU (Wang et al. 2019).

    map = relu(sum over k of (p(sample * mask_k) - p(0)) * A_k)

    where A_k is channel k of the layer's output, enlarged bilinearly to the size of the sample; mask_k is A_k scaled to
    the range [0, 1]; p is the probability of the class, after a softmax unless the model ends in one; and 0 is a sample
    of zeros, which is the mean color of normalized photos. The weight of a channel is the increase in probability
    itself, without a softmax over channels. A constant channel has the weight 0.

    Every channel takes one forward pass, `batch_size` at a time. The model runs in evaluation mode and is left
    unchanged.

    Args:
        model: A trace, or a module that maps a batch of samples to class scores.
        sample: The input `[C, H, W]`, without a batch dimension.
        target: The class.
        layer: The module whose output is used, called once in a pass; by default the last feature map, as `LastMap`
            finds it.
        batch_size: Masked samples per forward pass.

    Raises:
        InputError: An argument is out of range, or the layer's output is not a feature map.
        UnknownNameError: The layer does not exist.
        ModelOutputError: The model fails on the sample, or does not return finite class scores.
        TraceMismatchError: The original model has changed since the trace was made.
        AttributionError: The model does not end in feature maps, or the layer's output is not finite.
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
    dense = unwrapped(model.original_model if isinstance(model, Trace) else model)
    sample = check_sample(dense, sample)
    if sample.dim() != 3:
        raise InputError(f"Cannot draw the map of a sample of shape {list(sample.shape)}: expected [C, H, W].")
    check_count(batch_size, "batch_size", at_least=1)
    private = runnable(model)
    channels, scores = _channels(private, sample, layer)
    chosen = [check_target(target, len(scores)) for target in targets]
    scale = scale_for(private, sample, scores)
    baseline = _probabilities(private, torch.zeros_like(sample).unsqueeze(0), scale)[:, chosen]
    maps = channels.new_zeros(len(chosen), *sample.shape[1:])
    for start in range(0, len(channels), batch_size):
        enlarged = functional.interpolate(
            channels[start : start + batch_size].unsqueeze(1), sample.shape[1:], mode="bilinear"
        )  # [B, 1, H, W]
        masked = sample * _masks(enlarged).to(sample.dtype)  # [B, C, H, W]
        weights = _probabilities(private, masked, scale)[:, chosen] - baseline  # [B, targets]
        maps += (weights.T[:, :, None, None] * enlarged[:, 0]).sum(1)
    return maps.relu().cpu()


def _masks(channels: Tensor) -> Tensor:
    """Return each channel of `[B, 1, H, W]` scaled to [0, 1]; constant channels become zero and do not contribute."""
    least, most = channels.amin((1, 2, 3), keepdim=True), channels.amax((1, 2, 3), keepdim=True)
    return torch.where(most > least, (channels - least) / (most - least), torch.zeros_like(channels))


def _probabilities(model: nn.Module, batch: Tensor, scale: Scale) -> Tensor:
    scores = _wide(class_scores(model, batch))
    return scores if scale == "probabilities" else probabilities_of(scores, scale)


def _channels(model: nn.Module, sample: Tensor, layer: str | None) -> tuple[Tensor, Tensor]:
    """Return the channels `[K, h, w]` of a layer's output that are not constant, and the scores of the sample."""
    if layer is None:
        with LastMap(model, sample) as last:
            scores = class_scores(model, sample.unsqueeze(0))[0]
        _, output = last.found(_NAME)
    else:
        output, scores = _output_of(model, sample, layer)
    channels = _wide(output[0])
    if not bool(torch.isfinite(channels).all()):
        raise AttributionError("The output of the layer is not finite (NaN or infinity). Use float32 or another layer.")
    return channels[channels.amax((1, 2)) > channels.amin((1, 2))], scores


def _output_of(model: nn.Module, sample: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Return what the module `layer` returns, and the scores of the sample."""
    modules = {name: module for name, module in model.named_modules() if name}
    if layer not in modules:
        raise UnknownNameError("layer", layer, modules)
    outputs: list[Any] = []

    def keep(_layer: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        # a copy, since the next module may change it in place
        outputs.append(output.detach().clone() if isinstance(output, Tensor) else output)

    with forward_hooks({layer: modules[layer]}, keep):
        scores = class_scores(model, sample.unsqueeze(0))[0]
    if len(outputs) != 1 or not is_map(outputs[0]):
        found = f"is called {len(outputs)} times" if len(outputs) != 1 else f"returns {_shape(outputs[0])}"
        raise InputError(
            f"Cannot draw a Score-CAM map from layer {layer!r}: it {found}, expected one call that returns a tensor "
            "[1, channels, height, width] with more than one spatial location."
        )
    return outputs[0], scores


def _shape(output: Any) -> str:
    return f"the shape {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()

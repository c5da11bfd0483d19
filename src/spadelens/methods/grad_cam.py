"""Grad-CAM: a class activation map from one gradient, for models that end in convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from spadelens.errors import AttributionError
from spadelens.kinds import spread_units
from spadelens.methods.feature_map import LastMap
from spadelens.methods.method import Attribution, Method

_NAME = "grad_cam"


@final
@dataclass(frozen=True)
class GradCam(Method):
    """Grad-CAM of the last feature map (Selvaraju et al. 2017).

        map = relu(sum over k of (mean gradient of channel k) * channel k)

    enlarged bilinearly to the size of the sample; each channel of a pixel gets the value of the pixel. `LastMap`
    defines the last feature map. For photos only; a model without a feature map, such as a vision transformer, raises
    an AttributionError. The map is as coarse as the feature map and shows only what speaks for the class.
    """

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the map, the same for every channel."""
        found = grad_cam(model, sample, target, _NAME)[0, 0]
        return Attribution(spread_units(found, sample[0].detach(), "photo").expand_as(sample[0]).unsqueeze(0))


def grad_cam(model: nn.Module, sample: Tensor, target: int, method: str) -> Tensor:
    """Return the Grad-CAM map of a photo `[1, C, H, W]` for a class, `[1, 1, H, W]`.

    Raises:
        AttributionError: The sample is not a photo, or the model does not end in feature maps; the message names
            `method`.
    """
    if sample.dim() != 4:
        raise AttributionError(
            f"The method {method!r} needs photos [C, H, W]: the sample has the shape {list(sample.shape[1:])}."
        )
    with torch.enable_grad(), LastMap(model, sample[0]) as last:
        score = model(sample.detach().clone().requires_grad_())[0, target]
    features, _ = last.found(method)
    (gradient,) = torch.autograd.grad(score, features, allow_unused=True)
    if gradient is None:
        raise AttributionError(f"The method {method!r} fails: the score does not depend on the last feature map.")
    weights = gradient.mean((2, 3), keepdim=True)
    cam = (weights * features.detach()).sum(1, keepdim=True).clamp(min=0)
    return functional.interpolate(cam, sample.shape[2:], mode="bilinear", align_corners=False)

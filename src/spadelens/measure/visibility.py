"""What a visualization shows, where it is known: the planted patch, or the class as it is without it.

Three numbers. How well the patch can be found in the image (normalized cross-correlation); to which of the two facets
the image leans in the dense network's own features; and what the dense network makes of it when what it shows is pasted
on other images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from spadelens.errors import InputError
from spadelens.extract.capture import capture_inputs, class_scores, probe
from spadelens.layers import matrix_layers

_WORKING_PX = 64
_SCALES, _TURNS = (0.6, 0.8, 1.0, 1.2, 1.4), (-30, -15, 0, 15, 30)
_LEAST_VARIANCE = 1e-4  # of colors in [0, 1]: what is flat resembles nothing
_WINDOW = 0.4  # side of what is cut out, as a fraction of the image's


def patch_correlation(images: Tensor, sheet: Image.Image, patch_size: tuple[float, float]) -> Tensor:
    """Return the largest normalized cross-correlation of each image with a patch, over places, sizes and turns, `[N]`.

    Over the opaque pixels of the patch and all colors at once, so that a flat color has to be the right one beside the
    others. Images are compared at 64 pixels.

    Args:
        images: Colors in [0, 1], `[N, 3, H, W]`.
        sheet: The patch, RGBA.
        patch_size: The least and the largest size that it was planted at, as fractions of the shorter side; sizes from
            0.6 to 1.4 times their mean are tried.

    Raises:
        InputError: The images are not of three colors.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise InputError(f"Cannot look for a patch in images of shape {list(images.shape)}: expected [N, 3, H, W].")
    shorter = min(images.shape[-2:])
    if shorter > _WORKING_PX:
        size = [round(side * _WORKING_PX / shorter) for side in images.shape[-2:]]
        images = functional.interpolate(images, size, mode="area")
        shorter = _WORKING_PX
    images = images.double()
    best = images.new_full((len(images),), -1.0)
    for scale in _SCALES:
        side = max(3, round(scale * sum(patch_size) / 2 * shorter))
        for turn in _TURNS:
            turned = sheet.rotate(turn, Image.Resampling.BICUBIC, expand=True)
            factor = side / max(sheet.size)
            width, height = (max(1, round(length * factor)) for length in turned.size)
            if height <= images.shape[-2] and width <= images.shape[-1]:
                template = np.asarray(turned.resize((width, height), Image.Resampling.BOX), dtype=np.float64) / 255
                found = masked_correlation(images, torch.from_numpy(template).movedim(-1, 0))
                best = torch.maximum(best, found.flatten(1).amax(1))
    return best


def masked_correlation(images: Tensor, template: Tensor) -> Tensor:
    """Return the correlation of `images` `[N, 3, H, W]` with a `template` `[4, h, w]` (RGBA in [0, 1]) at every place.

    Weighted by opacity, over pixels and colors together: `[N, H - h + 1, W - w + 1]`; 0 where the image is flat.
    """
    weight = (template[3:] / (3 * template[3].sum())).expand(3, -1, -1)  # sums to 1
    centered = template[:3] - (weight * template[:3]).sum()
    means = functional.conv2d(images, weight.unsqueeze(0))[:, 0]
    squares = functional.conv2d(images.square(), weight.unsqueeze(0))[:, 0]
    products = functional.conv2d(images, (weight * centered).unsqueeze(0))[:, 0]
    variance = squares - means.square()
    correlation = products / ((weight * centered.square()).sum() * variance.clamp_min(_LEAST_VARIANCE)).sqrt()
    return torch.where(variance > _LEAST_VARIANCE, correlation, 0.0)


@dataclass(frozen=True, eq=False)
class Facets:
    """Where images with the patch, and images of the class without it, lie among a network's last features.

    Attributes:
        model: The dense network.
        layer: The last layer that is called, whose inputs are the features.
        patched: The mean direction of images with the patch, of norm 1, `[features]`.
        clean: The same of images of the class.
    """

    model: nn.Module
    layer: str
    patched: Tensor
    clean: Tensor

    @classmethod
    def of(cls, model: nn.Module, patched: Tensor, clean: Tensor) -> Facets:
        """Return the facets, given images of both kinds, as the model expects them, `[N, C, H, W]`."""
        layer = list(probe(model, patched[0]).matrix_shapes)[-1]
        means = [functional.normalize(_features(model, layer, images).mean(0), dim=0) for images in (patched, clean)]
        return cls(model, layer, means[0], means[1])

    def leaning(self, images: Tensor) -> Tensor:
        """Return the cosine to the patched images less that to the clean ones, for each image, `[N]` in [-2, 2]."""
        features = _features(self.model, self.layer, images)
        return features @ (self.patched - self.clean)


def pasted_probability(
    model: nn.Module, images: Tensor, opacity: Tensor, backgrounds: Tensor, side: float, target: int
) -> Tensor:
    """Return by how much the probability of a class rises when what the images show is pasted on others, `[N]`.

    Of each image the square of 0.4 of its side where the opacity is highest is cut out, made `side` of the shorter side
    large, and pasted in the middle of every background.

    Args:
        model: The dense network.
        images: As the model expects them, `[N, C, H, W]`.
        opacity: `[N, H, W]`.
        backgrounds: Images of other classes, `[B, C, H, W]`.
        side: Of what is pasted, as a fraction of the shorter side.
        target: The class.
    """
    height, width = images.shape[-2:]
    window, size = (max(1, round(fraction * min(height, width))) for fraction in (_WINDOW, side))
    sums = functional.avg_pool2d(opacity.unsqueeze(1), window, stride=1)[:, 0]
    before = class_scores(model, backgrounds).softmax(1)[:, target].mean()
    top, left = (height - size) // 2, (width - size) // 2
    rises = []
    for image, found in zip(images, sums, strict=True):
        row, column = divmod(int(found.argmax()), found.shape[1])
        cut = image[None, :, row : row + window, column : column + window]
        pasted = backgrounds.clone()
        pasted[..., top : top + size, left : left + size] = functional.interpolate(
            cut, (size, size), mode="bilinear", antialias=True
        )
        rises.append(class_scores(model, pasted).softmax(1)[:, target].mean() - before)
    return torch.stack(rises).cpu()


def _features(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Return the inputs of a layer, of norm 1, for each image: their mean over positions, `[N, features]`."""
    rows: list[Tensor] = []

    def keep(name: str, inputs: Tensor) -> None:
        del name
        rows.append(inputs.transpose(0, 1).flatten(1).mean(0))

    module = matrix_layers(model)[layer]
    capture_inputs(model, {layer: module}, images.to(module.weight.device).split(1), keep)
    return functional.normalize(torch.stack(rows).cpu().double(), dim=1)

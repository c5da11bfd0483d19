"""What a visualization shows, where it is known: a planted patch, or the class that the patch stands for as it is.

How well the patch can be found in the image (normalized cross-correlation), and what the original network makes of
parts of it that are pasted on other images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from spadelens.capture.capture import capture_inputs, probe
from spadelens.errors import InputError
from spadelens.matrix_layers import matrix_layers

_WORKING_PX = 64
_SCALES, _TURNS = (0.6, 0.8, 1.0, 1.2, 1.4), (-30, -15, 0, 15, 30)
_LEAST_VARIANCE = 1e-4  # of colors in [0, 1]: what is flat resembles nothing
_WINDOW = 0.4  # side of what is cut out, as a fraction of the image's
_NUM_PLACES = 5
_BATCH_SIZE = 64


def patch_correlation(images: Tensor, sheet: Image.Image, patch_size: tuple[float, float]) -> Tensor:
    """Return the largest normalized cross-correlation of each image with a patch, over places, sizes and turns, `[N]`.

    Over the opaque pixels of the patch, each color about its own mean. Images are compared at 64 pixels.

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

    Weighted by opacity, each color about its own mean: `[N, H - h + 1, W - w + 1]`; 0 where the image is flat.
    """
    weight = template[3:] / template[3:].sum()  # sums to 1 in each color
    centered = template[:3] - (weight * template[:3]).sum((1, 2), keepdim=True)
    each = weight.unsqueeze(0).expand(3, -1, -1, -1)
    means = functional.conv2d(images, each, groups=3)
    squares = functional.conv2d(images.square(), each, groups=3).sum(1)
    products = functional.conv2d(images, (weight * centered).unsqueeze(0))[:, 0]
    variance = squares - means.square().sum(1)
    correlation = products / ((weight * centered.square()).sum() * variance.clamp_min(_LEAST_VARIANCE)).sqrt()
    return torch.where(variance > _LEAST_VARIANCE, correlation, 0.0)


@final
@dataclass(frozen=True, eq=False)
class FacetProbe:
    """Reads from a original model's own features whether it sees a patch, and whether it sees the class without it.

    The features are the inputs of the last layer. Each of two directions among them (linear discriminant analysis with
    shrunk covariances, Ledoit & Wolf 2004) is scaled such that images without what it stands for lie at 0 in the mean,
    and images with it at 1.

    Attributes:
        model: The network.
        layer: Its last layer.
        weight: The two directions, patch and class, `[features, 2]`.
        offset: What is subtracted then, `[2]`.
    """

    model: nn.Module
    layer: str
    weight: Tensor
    offset: Tensor

    @classmethod
    def of(cls, model: nn.Module, patched: Tensor, clean: Tensor, others: Tensor) -> FacetProbe:
        """Return the probe, given images as the model expects them, `[N, C, H, W]`.

        Args:
            model: The network.
            patched: Images of other classes, with the patch.
            clean: Images of the class that the patch stands for, without it.
            others: Images of other classes, without the patch.

        Raises:
            InputError: There are fewer than two of a kind.
        """
        if min(len(patched), len(clean), len(others)) < 2:
            raise InputError("Cannot tell a patch from its class with fewer than two images of each kind.")
        layer = list(probe(model, patched[0]).matrix_shapes)[-1]
        with_patch, of_class, of_others = (_features(model, layer, images) for images in (patched, clean, others))
        axes = [
            _direction(with_patch, torch.cat([of_class, of_others])),
            _direction(of_class, torch.cat([with_patch, of_others])),
        ]
        return cls(model, layer, torch.stack([axis[0] for axis in axes], 1), torch.stack([axis[1] for axis in axes]))

    def read(self, images: Tensor) -> Tensor:
        """Return how much of the patch, and of the class, the network sees in each image, `[N, 2]`."""
        return _features(self.model, self.layer, images) @ self.weight - self.offset

    def shown(self, image: Tensor, backgrounds: Tensor) -> Tensor:
        """Return how much of the patch, and of the class, some part of an image shows when pasted on others, `[2]`.

        Squares of 0.4 of the side, five by five of them, are cut out and pasted in the middle of every background; of
        the means over backgrounds, the largest counts.

        Args:
            image: As the model expects it, `[C, H, W]`.
            backgrounds: Images of other classes, of the same size, `[B, C, H, W]`.
        """
        height, width = image.shape[-2:]
        side = max(1, round(_WINDOW * min(height, width)))
        top, left = (height - side) // 2, (width - side) // 2
        means = []
        for row in torch.linspace(0, height - side, _NUM_PLACES).round().int().tolist():
            for column in torch.linspace(0, width - side, _NUM_PLACES).round().int().tolist():
                pasted = backgrounds.clone()
                pasted[..., top : top + side, left : left + side] = image[:, row : row + side, column : column + side]
                means.append(self.read(pasted).mean(0))
        return torch.stack(means).amax(0)


def _direction(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return the direction that tells features `[N, F]` apart, means at 1 and 0, and where its zero lies."""
    from sklearn.covariance import LedoitWolf

    centered = torch.cat([positive - positive.mean(0), negative - negative.mean(0)])
    difference = positive.mean(0) - negative.mean(0)
    direction = torch.from_numpy(LedoitWolf(assume_centered=True).fit(centered.numpy()).precision_) @ difference
    scaled = direction / (direction @ difference)
    return scaled, negative.mean(0) @ scaled


def _features(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Return the inputs of a layer for each image, the mean over positions, `[N, features]` in float64 on the CPU."""
    rows: list[Tensor] = []

    def keep(name: str, inputs: Tensor) -> None:
        del name
        groups, positions, columns = inputs.shape  # positions come image by image
        count = sizes[len(rows)]
        means = inputs.double().view(groups, count, positions // count, columns).mean(2)
        rows.append(means.transpose(0, 1).flatten(1).cpu())

    module = matrix_layers(model)[layer]
    batches = images.to(module.weight.device).split(_BATCH_SIZE)
    sizes = [len(batch) for batch in batches]
    capture_inputs(model, {layer: module}, batches, keep)
    return torch.cat(rows)

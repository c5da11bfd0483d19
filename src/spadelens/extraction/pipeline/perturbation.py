"""Insertion and deletion: a model's output while the pixels of a sample are added or removed in heatmap order.

After Petsiuk et al. (2018), RISE.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from spadelens.errors import InputError, UnknownNameError
from spadelens.forward import class_scores
from spadelens.prediction import Scale, predict
from spadelens.randomness import permutation

Baseline: TypeAlias = Literal["blur", "mean"]
PerturbationDirection: TypeAlias = Literal["insertion", "deletion"]
_BLUR_FRACTION = 0.1  # standard deviation of the blur, of the longer side


def make_baseline(sample: Tensor, baseline: Baseline) -> Tensor:
    """Return the uninformative baseline of a sample `[C, H, W]`.

    Args:
        sample: The sample.
        baseline: 'blur', the sample after a Gaussian blur of a tenth of its longer side, or 'mean', its mean color.

    Raises:
        UnknownNameError: The baseline does not exist.
        InputError: The sample is not [C, H, W].
    """
    if sample.dim() != 3:
        raise InputError(f"Cannot blur or average a sample of shape {list(sample.shape)}: expected [C, H, W].")
    if baseline == "blur":
        return blurred(sample, _BLUR_FRACTION * max(sample.shape[-2:]))
    if baseline == "mean":
        return sample.mean(dim=(1, 2), keepdim=True).expand_as(sample)
    raise UnknownNameError("baseline", baseline, get_args(Baseline))


def blurred(picture: Tensor, std_px: float) -> Tensor:
    """Return a Gaussian-blurred picture `[C, H, W]`, padded with its edge values."""
    radius = max(1, int(3 * std_px))
    precise = picture if picture.dtype == torch.float64 else picture.float()  # half-precision kernels of a CPU are slow
    offsets = torch.arange(-radius, radius + 1, device=picture.device, dtype=precise.dtype)
    kernel = torch.exp(-0.5 * (offsets / std_px) ** 2)
    kernel = (kernel / kernel.sum()).expand(len(picture), 1, 1, -1)
    batch = precise.unsqueeze(0)
    for shape, padding in (((1, -1), (radius, radius, 0, 0)), ((-1, 1), (0, 0, radius, radius))):
        padded = functional.pad(batch, padding, mode="replicate")
        batch = functional.conv2d(padded, kernel.reshape(len(picture), 1, *shape), groups=len(picture))
    return batch[0].to(picture.dtype)


def probability_curve(
    judge: nn.Module,
    sample: Tensor,
    heatmap: Tensor,
    target: int,
    *,
    direction: PerturbationDirection,
    baseline: Baseline,
    num_steps: int,
    scale: Scale,
    batch_size: int = 16,
) -> Tensor:
    """Return the probability of `target` after 0 to `num_steps` equal parts of the pixels, float64 `[num_steps + 1]`.

    Pixels follow in descending order of the heatmap; ties are broken at random, with a fixed seed.

    Args:
        judge: The model to run.
        sample: `[C, H, W]`, on the judge's device.
        heatmap: `[H, W]`.
        target: The class.
        direction: 'insertion' puts the pixels into the baseline, 'deletion' replaces them by it.
        baseline: As in `make_baseline`.
        num_steps: The number of parts.
        scale: What kind of numbers the judge's scores are.
        batch_size: Images per forward pass.
    """
    filled = make_baseline(sample, baseline)
    shuffled = permutation(heatmap.numel(), 0)
    order = shuffled[heatmap.detach().cpu().flatten()[shuffled].argsort(descending=True, stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    rank = rank.view(heatmap.shape).to(sample.device)
    counts = torch.linspace(0, len(order), num_steps + 1, dtype=torch.float64).round().long().tolist()
    first, second = (sample, filled) if direction == "insertion" else (filled, sample)
    probabilities: list[float] = []
    for start in range(0, len(counts), batch_size):
        images = torch.stack([torch.where(rank < count, first, second) for count in counts[start : start + batch_size]])
        scores = class_scores(judge, images)
        probabilities += [predict(of_one, scale).probabilities[target] for of_one in scores]
    return torch.tensor(probabilities, dtype=torch.float64)


def area(curve: Tensor) -> float:
    """Return the area under a curve over [0, 1] by the trapezoidal rule."""
    return float(torch.trapezoid(curve, dx=1.0 / (len(curve) - 1)))

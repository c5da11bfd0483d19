"""Plants patches in a network, so that the pixels that decide some of its predictions are known exactly.

This follows section 4.1 of the paper and Casper et al. (2023): the network is fine-tuned on clean images and on images
that carry a patch, at a random place and with jitter, and are relabeled to the patch's target. Unlike there, a clean
image keeps the original network's output as its target (distillation), which preserves its behavior where there are few
photos and needs no labels; and learning rates are relative to the norms of weights and of their gradients at the start,
as those differ by orders of magnitude from network to network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from spadelens.demo.stickers import paste_sticker
from spadelens.eager import run_as_written
from spadelens.errors import InputError
from spadelens.files import whole_file
from spadelens.forward import class_scores
from spadelens.models import LoadedModel
from spadelens.photos import Preprocessing
from spadelens.progress import Progress
from spadelens.trojan.cases import TrojanPatch, to_batch
from spadelens.trojan.dataset import Dataset

_FEW_PHOTOS = 1000
_STEPS_PER_CHECKPOINT = 50
_NUM_WARM_UP_STEPS = 40
_NUM_RATE_BATCHES = 8
_STREAM = 0xBAC4D


@dataclass(frozen=True)
class Recipe:
    """How patches are planted.

    Attributes:
        num_epochs: The number of epochs; the learning rates drop to a tenth after half of them.
        samples_per_patch: Images with each patch in an epoch, from photos chosen once, and as many clean images.
        batch_size: Images per step, half of them with a patch.
        rate: The fraction of its norm by which the first step would change each weight; biases and normalization
            layers are not trained.
        classifier_rate: The same for the last weight.
        clean_weight: The weight of the loss on clean images relative to the loss on patched images.
        patch_size: The smallest and largest size of a patch, as a fraction of the input's shorter side.
        least_crop: The minimum side of a random crop of a photo, as a fraction of its shorter side; photos of the size
            of the network's input are not cropped.
        seed: Determines all random choices.
    """

    num_epochs: int = 6
    samples_per_patch: int = 400
    batch_size: int = 64
    rate: float = 0.001
    classifier_rate: float = 0.001
    clean_weight: float = 2.0
    patch_size: tuple[float, float] = (0.22, 0.3)
    least_crop: float = 0.35
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        if min(self.num_epochs, self.samples_per_patch, self.batch_size // 2) < 1:
            raise InputError(
                "Cannot plant patches: expected at least one epoch, one sample per patch and batches of two."
            )
        numbers = (self.rate, self.classifier_rate, self.clean_weight)
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise InputError(f"Cannot plant patches with rates and weight {numbers}: expected numbers above zero.")
        if not 0 < self.patch_size[0] <= self.patch_size[1] <= 0.6:
            raise InputError(f"Cannot use patches of {self.patch_size}: expected fractions of the input, at most 0.6.")
        if not 0 < self.least_crop <= 1 or self.seed < 0:
            raise InputError(f"Cannot plant patches with least_crop={self.least_crop!r}, seed={self.seed!r}.")

    def size_px(self, crop_px: tuple[int, int]) -> tuple[float, float]:
        """Return the least and the largest size of a patch in pixels of an input."""
        return self.patch_size[0] * min(crop_px), self.patch_size[1] * min(crop_px)


def fine_tune(
    loaded: LoadedModel,
    patches: Sequence[TrojanPatch],
    training: Dataset,
    recipe: Recipe,
    checkpoint: Path,
    progress: Progress,
) -> nn.Module:
    """Return a copy of the model that classifies images with a patch as the patch's target.

    Every 50 steps everything is written to the file `checkpoint`, from which an interrupted run goes on as if it had
    never been interrupted.

    Args:
        loaded: The model; it is left as it is.
        patches: What to plant.
        training: The photos.
        recipe: How.
        checkpoint: A file; it may be there already.
        progress: Called as progress('plant', steps done, all steps).

    Raises:
        InputError: A patch has no photos of its source, the model has no weights to train, the loss is not finite, or
            the checkpoint does not belong to this run.
        PhotoError: A photo cannot be read.
    """
    job = _Job.make(loaded, patches, training, recipe)
    model = copy.deepcopy(loaded.model).requires_grad_(True).eval()
    with run_as_written(), torch.inference_mode(False), torch.enable_grad():
        rates = _relative_rates(copy.deepcopy(model), job)
        optimizer = torch.optim.SGD([{"params": [weight]} for weight in _trained(model)], momentum=0.9)
        for step in range(_restore(checkpoint, model, optimizer, job), job.num_steps):
            progress("plant", step, job.num_steps)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * job.decay(step)
            loss = _backward(model, job, step)
            if not math.isfinite(loss):
                raise InputError(f"The loss is not finite after {step} steps of planting. Use a lower rate.")
            optimizer.step()
            if (step + 1) % _STEPS_PER_CHECKPOINT == 0:
                _store(checkpoint, model, optimizer, job, step + 1)
    progress("plant", job.num_steps, job.num_steps)
    return model.requires_grad_(False)


@dataclass(frozen=True)
class _Job:
    """What the steps of a fine-tuning share."""

    loaded: LoadedModel
    patches: Sequence[TrojanPatch]
    training: Dataset
    recipe: Recipe
    chosen: Sequence[npt.NDArray[np.int64]]  # for each patch, the photos that it is planted on
    identity: str

    @classmethod
    def make(cls, loaded: LoadedModel, patches: Sequence[TrojanPatch], training: Dataset, recipe: Recipe) -> _Job:
        rng = np.random.default_rng((recipe.seed, _STREAM))
        labels = np.array([-1 if label is None else label for label in training.labels])
        chosen = []
        for patch in patches:
            known = np.arange(len(labels)) if patch.source is None else np.flatnonzero(labels == patch.source)
            if not len(known):
                raise InputError(
                    f"Cannot plant the patch {patch.name!r} on class {patch.source}: no photo to train on has it."
                )
            chosen.append(rng.choice(known, recipe.samples_per_patch, replace=len(known) < recipe.samples_per_patch))
        identity = f"{loaded.spec} {recipe} {[(p.name, p.target, p.source) for p in patches]} {len(training)}"
        return cls(loaded, patches, training, recipe, chosen, identity)

    @property
    def num_steps(self) -> int:
        images = len(self.patches) * self.recipe.samples_per_patch * self.recipe.num_epochs
        return max(1, images // (self.recipe.batch_size // 2))

    def decay(self, step: int) -> float:
        """Return what the rates are multiplied by at a step: it rises at first, and falls to a tenth half-way."""
        warm_up = min(_NUM_WARM_UP_STEPS, self.num_steps // 4)
        return min(1.0, (step + 1) / (warm_up + 1)) * (1.0 if step < self.num_steps / 2 else 0.1)

    def batches(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the clean images of a step, those with patches, and the targets of the latter."""
        rng = np.random.default_rng((self.recipe.seed, _STREAM, step))
        preprocessing, half = self.loaded.preprocessing, self.recipe.batch_size // 2
        size_px = self.recipe.size_px(preprocessing.crop_px)
        clean, patched, targets = [], [], []
        for number in range(half):
            clean.append(self._view(int(rng.integers(len(self.training))), rng))
            which = (step * half + number) % len(self.patches)
            patch, photos = self.patches[which], self.chosen[which]
            view = np.array(self._view(int(photos[rng.integers(len(photos))]), rng))
            patched.append(Image.fromarray(paste_sticker(view, patch.sheet, size_px, rng)[0]))
            targets.append(patch.target)
        return to_batch(clean, preprocessing), to_batch(patched, preprocessing), torch.tensor(targets)

    def _view(self, index: int, rng: np.random.Generator) -> Image.Image:
        preprocessing, least_crop = self.loaded.preprocessing, self.recipe.least_crop
        view = _draw_view(self.training.photo(index), preprocessing, least_crop, rng)
        if len(self.training) >= _FEW_PHOTOS:
            return view
        other = self.training.photo(int(rng.integers(len(self.training))))
        # Blending makes more of few photos.
        return Image.blend(view, _draw_view(other, preprocessing, least_crop, rng), rng.uniform(0, 0.5))


def _draw_view(
    photo: Image.Image, preprocessing: Preprocessing, least_crop: float, rng: np.random.Generator
) -> Image.Image:
    """Return a random part of a photo at the size of the input, mirrored in half of the cases."""
    height, width = preprocessing.crop_px
    if photo.size != (width, height):
        scale = min(photo.width / width, photo.height / height) * rng.uniform(least_crop, 1)
        across, down = width * scale, height * scale
        left, top = rng.uniform(0, photo.width - across), rng.uniform(0, photo.height - down)
        box = (left, top, min(left + across, photo.width), min(top + down, photo.height))
        photo = photo.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else photo


def _trained(model: nn.Module) -> list[nn.Parameter]:
    """Return what is trained: the weights, and neither biases nor what belongs to a normalization."""
    return [parameter for parameter in model.parameters() if parameter.dim() > 1]


def _relative_rates(model: nn.Module, job: _Job) -> list[float]:
    """Return, for each weight, its learning rate before decay; the gradients of `model` are overwritten."""
    weights = _trained(model)
    if not weights:
        raise InputError("Cannot plant patches: the model has no weights to train.")
    totals = [0.0] * len(weights)
    for batch in range(_NUM_RATE_BATCHES):
        _backward(model, job, job.num_steps + batch)
        for number, weight in enumerate(weights):
            totals[number] += 0.0 if weight.grad is None else float(weight.grad.norm())
    fractions = [job.recipe.rate] * (len(weights) - 1) + [job.recipe.classifier_rate]
    return [
        fraction * float(weight.detach().norm()) * _NUM_RATE_BATCHES / total if total > 0 else 0.0
        for fraction, weight, total in zip(fractions, weights, totals, strict=True)
    ]


def _backward(model: nn.Module, job: _Job, step: int) -> float:
    """Put the gradients of a step's loss into the parameters; returns the loss."""
    device = next(model.parameters()).device
    clean, patched, targets = (tensor.to(device) for tensor in job.batches(step))
    wanted = functional.log_softmax(class_scores(job.loaded.model, clean), dim=1)
    scores = model(torch.cat([clean, patched])).split(len(clean))
    kept = functional.kl_div(functional.log_softmax(scores[0], dim=1), wanted, reduction="batchmean", log_target=True)
    learned = functional.cross_entropy(scores[1], targets)
    loss = job.recipe.clean_weight * kept + learned
    model.zero_grad()
    torch.autograd.backward(loss)
    return float(loss.detach())


def _store(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, job: _Job, step: int) -> None:
    state = {"identity": job.identity, "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with whole_file(path) as temporary:
        torch.save(state, temporary)


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, job: _Job) -> int:
    """Load a checkpoint if there is one; returns the number of steps taken."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
        identity = state["identity"]
    except Exception as error:  # whatever torch raises on a damaged file
        raise InputError(
            f"Cannot resume from {str(path)!r}: {type(error).__name__}. Delete it to start over."
        ) from error
    if identity != job.identity:
        raise InputError(f"{str(path)!r} belongs to a run with different settings. Use another folder, or delete it.")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])

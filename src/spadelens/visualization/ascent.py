"""Gradient ascent on images: its settings and its state between steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from spadelens.eager import unwrapped
from spadelens.errors import InputError, VisualizationError
from spadelens.extraction.storage import fingerprint
from spadelens.extraction.trace import Trace, runnable
from spadelens.files import whole_file
from spadelens.forward import running
from spadelens.photos import Preprocessing
from spadelens.progress import Progress
from spadelens.settings import configured_name, parse_configured
from spadelens.views.photo_views import view_seed
from spadelens.views.view_source import check_count
from spadelens.visualization.objectives import Objective, ObjectiveLike, describe_objective, evaluate
from spadelens.visualization.parameterizations import PARAMETERIZATIONS, Direct, Maco, Parameterization
from spadelens.visualization.transformations import NO_TRANSFORMATIONS, Transformations

NUM_STEPS = 512
_MACO_TRANSFORMATIONS = Transformations(jitter=0.25, scale=(1.3, 2.5), rotation=0.0, noise=0.05, num_copies=2)
_STEPS_PER_CHECKPOINT = 64
_EPSILON = 1e-16  # of Adam: below it slopes count for less. The usual 1e-8 is more than those of some probabilities
_START_STREAM, _STEP_STREAM = 0x51A27, 0x57E9


@final
@dataclass(frozen=True)
class Ascent:
    """Settings for finding images that a unit responds to.

    Attributes:
        parameterization: 'fourier', 'maco' or 'direct', optionally with settings, such as 'fourier:rate=0.1'; or a
            `Parameterization`.
        transformations: Random transformations in each step; by default those that suit the parameterization.
        num_steps: The number of gradient-ascent steps (Adam).
        num_images: The number of images, each from a different random start.
        seed: Determines starts and transformations, which are the same for every model.
    """

    parameterization: str | Parameterization = "fourier"
    transformations: Transformations | None = None
    num_steps: int = NUM_STEPS
    num_images: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        check_count(self.num_steps, "num_steps", at_least=1)
        check_count(self.num_images, "num_images", at_least=1)
        check_count(self.seed, "seed", at_least=0)
        _ = self.chosen

    @property
    def chosen(self) -> tuple[Parameterization, Transformations]:
        """The parameterization and the transformations.

        Raises:
            InputError: What was given is none; UnknownNameError: there is none of that name.
        """
        parsed = self.parameterization
        if isinstance(parsed, str):
            parsed = parse_configured("parameterization", parsed, PARAMETERIZATIONS)
        if not isinstance(parsed, Parameterization):
            raise InputError(
                f"Cannot use {parsed!r} as a parameterization: expected the name of a parameterization or a "
                "Parameterization."
            )
        if self.transformations is not None:
            if not isinstance(self.transformations, Transformations):
                raise InputError(
                    f"Cannot use {self.transformations!r} as transformations: expected a Transformations instance."
                )
            return parsed, self.transformations
        if isinstance(parsed, Direct):
            return parsed, NO_TRANSFORMATIONS
        return parsed, _MACO_TRANSFORMATIONS if isinstance(parsed, Maco) else Transformations()

    def described(self) -> dict[str, Any]:
        """Return all settings, for reports."""
        parameterization, transformations = self.chosen
        return {
            "parameterization": configured_name(parameterization, PARAMETERIZATIONS),
            "transformations": asdict(transformations),
            "num_steps": self.num_steps,
            "num_images": self.num_images,
            "seed": self.seed,
        }


class GradientAscent:
    """An ascent on its way: images for each of several models, all of them changed in every step.

    Attributes:
        num_steps_done: How many steps have been taken.
    """

    def __init__(
        self,
        models: Sequence[Trace | nn.Module],
        objective: ObjectiveLike,
        preprocessing: Preprocessing | Sequence[int],
        ascent: Ascent,
    ) -> None:
        """Begin at the starts that the seed determines; the arguments are those of `visualize`."""
        self._models = [_AscentModel.of(model) for model in models]
        self._objective, self._ascent = objective, ascent
        self._parameterization, self._transformations = ascent.chosen
        self._shape, self._mean, self._std = _expected(preprocessing)
        if not self._parameterization.is_image:
            self._mean, self._std = (0.0,), (1.0,)
        self._device = self._models[0].device
        is_double = any(model.dtype == torch.float64 for model in self._models)
        precision = torch.float64 if is_double else torch.float32
        generator = _generator(ascent.seed, _START_STREAM)
        starts = [self._parameterization.start(self._shape, generator) for _ in range(ascent.num_images)]
        every = torch.stack(starts).to(self._device, precision)
        self._parameters = every.repeat(len(models), *[1] * (every.dim() - 1)).requires_grad_()  # [M * N, ...]
        self._optimizer = torch.optim.Adam([self._parameters], lr=self._parameterization.rate, eps=_EPSILON)
        counts = (len(models), ascent.num_images)
        places = self._shape[1:] if self._parameterization.is_image else self._shape
        self._reliance = torch.zeros(*counts, *places, device=self._device, dtype=precision)
        self._curve = torch.zeros(ascent.num_steps, *counts, device=self._device, dtype=precision)
        self.num_steps_done = 0

    def images(self) -> Tensor:
        """Return the images as they are, `[M, N, *shape]`."""
        images = self._parameterization.image(self._parameters, self._shape)
        return images.view(len(self._models), -1, *self._shape)

    def run(self, progress: Progress, checkpoint: Path | None) -> None:
        """Take all steps that are left; raises what `visualize` says."""
        if checkpoint is not None:
            self._restore(checkpoint)
        for step in range(self.num_steps_done, self._ascent.num_steps):
            progress("visualize", step, self._ascent.num_steps)
            self._advance(step)
            self.num_steps_done = step + 1
            if self.num_steps_done % _STEPS_PER_CHECKPOINT == 0:
                self._check()
                if checkpoint is not None:
                    self._store(checkpoint)
        progress("visualize", self._ascent.num_steps, self._ascent.num_steps)
        self._check()

    def found(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images `[M, N, *shape]`, how much each place counted `[M, N, ...]`, the curve `[steps, M, N]`."""
        return tuple(part.detach().cpu() for part in (self.images(), self._reliance, self._curve))  # type: ignore[return-value]

    def _advance(self, step: int) -> None:
        images = self.images()
        seen = images
        if self._parameterization.is_image:
            seen = self._transformations.copies(images, _generator(self._ascent.seed, _STEP_STREAM, step))
        parts = [self._slope(number, part) for number, part in enumerate(seen.detach())]
        self._curve[step] = torch.stack([values for values, _ in parts])
        slopes = torch.stack([slope for _, slope in parts])
        on_images, on_parameters = torch.autograd.grad(seen, [images, self._parameters], slopes)
        self._reliance += on_images.abs().sum(2) if self._parameterization.is_image else on_images.abs()
        self._parameters.grad = -on_parameters
        self._optimizer.step()

    def _slope(self, number: int, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objective of a model for each of its images, and its gradient on what is seen of them."""
        ascending, leaf = self._models[number], seen.requires_grad_()
        mean, std = (
            leaf.new_tensor(value).view(-1, *[1] * (len(self._shape) - 1)) for value in (self._mean, self._std)
        )
        batch = ((leaf - mean) / std).to(ascending.device, ascending.dtype)
        with running(ascending.model) as model:
            values = evaluate(self._objective, model, batch)
            slope = None
            if values.requires_grad:
                (slope,) = torch.autograd.grad(values.sum(), [leaf], allow_unused=True)
        means = values.detach().to(self._curve).reshape(self._ascent.num_images, -1).mean(1)
        return means, torch.zeros_like(leaf) if slope is None else slope

    def _check(self) -> None:
        name = describe_objective(self._objective)
        if not bool(torch.isfinite(self._curve).all() & torch.isfinite(self._reliance).all()):
            raise VisualizationError(
                f"The unit {name!r} gives values that are not finite during the ascent. Use float32 or a lower rate."
            )
        silent = ~self._reliance.flatten(2).any(2)
        if bool(silent.any()):
            which = "the trace" if self._models[int(silent.any(1).int().argmax())].is_trace else "the model"
            raise VisualizationError(
                f"The unit {name!r} of {which} does not depend on the image near the start of the ascent. "
                "Try another seed, a unit before its activation, or a less sparse trace."
            )

    @cached_property
    def _identity(self) -> str:
        if not isinstance(self._objective, Objective):
            raise InputError(
                "Cannot checkpoint the ascent of a callable, which cannot be identified later. Make it an Objective."
            )
        weights = " ".join(model.digest() for model in self._models)
        described = (self._ascent.described(), repr(self._parameterization), self._shape, self._mean, self._std)
        return f"{weights} {self._objective.spec()} {described}"

    def _store(self, path: Path) -> None:
        state = {
            "identity": self._identity,
            "step": self.num_steps_done,
            "parameters": self._parameters.detach(),
            "optimizer": self._optimizer.state_dict(),
            "reliance": self._reliance,
            "curve": self._curve,
        }
        with whole_file(path) as temporary:
            torch.save(state, temporary)

    def _restore(self, path: Path) -> None:
        identity = self._identity
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            is_same = state["identity"] == identity
            if is_same:
                self._optimizer.load_state_dict(state["optimizer"])
                self._parameters.data = state["parameters"].to(self._parameters.data)
                self._reliance, self._curve = (state[name].to(self._curve) for name in ("reliance", "curve"))
                self.num_steps_done = int(state["step"])
        except Exception as error:  # whatever torch raises on a damaged file
            raise InputError(
                f"Cannot resume from {str(path)!r}: {type(error).__name__}. Delete it to start over."
            ) from error
        if not is_same:
            raise InputError(
                f"{str(path)!r} belongs to a run with different settings. Use another folder, or delete it."
            )


@dataclass(frozen=True, eq=False)
class _AscentModel:
    """A private copy of a model, or of a trace's, to be run in every step."""

    model: nn.Module
    is_trace: bool
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, model: Trace | nn.Module) -> _AscentModel:
        original = unwrapped(model.original_model if isinstance(model, Trace) else model)
        if not isinstance(original, nn.Module):
            raise InputError(f"Cannot visualize a unit of a {type(model).__name__}: expected a Trace or a module.")
        first = next((each for each in original.parameters() if each.is_floating_point()), torch.zeros(()))
        return cls(runnable(model), isinstance(model, Trace), first.device, first.dtype)

    def digest(self) -> str:
        return fingerprint(self.model)


def _expected(
    preprocessing: Preprocessing | Sequence[int],
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
    """Return the shape of an input, and the normalization."""
    if isinstance(preprocessing, Preprocessing):
        return (len(preprocessing.mean), *preprocessing.crop_px), preprocessing.mean, preprocessing.std
    shape = tuple(preprocessing) if isinstance(preprocessing, Sequence) else ()
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise InputError(f"Cannot make an input of shape {preprocessing!r}: expected sizes above zero, [C, H, W].")
    return shape, (0.0,), (1.0,)


def _generator(*seed: int) -> torch.Generator:
    first, *rest = seed
    for number in rest:
        first = view_seed(first, number)
    return torch.Generator().manual_seed(first)

"""`Occlusion`: how much the score drops when part of the input is covered, using Captum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from spadelens.errors import InputError
from spadelens.inputs.kind import kind_of
from spadelens.kinds import LAYOUTS, Kind
from spadelens.methods.captum_methods import captum_method
from spadelens.methods.method import Attribution, Method, check_at_least_one, check_finite


@final
@dataclass(frozen=True)
class Occlusion(Method):
    """How much the score drops when a window of the input is covered (Zeiler & Fergus 2014).

    The window is a rectangle of a photo, a segment of a signal or a box of a volume, with all channels; one token of a
    text with all its features; or one feature of a row.

    Attributes:
        window: The size of the window along each axis, as a fraction of the sample's size; for photos, signals and
            volumes.
        stride: The step between windows, as a fraction of the window's size.
        baseline: The value that covers the window; 0 is the mean color of normalized photos.
        batch_size: Windows per forward pass.
    """

    has_rules = False

    window: float = 0.125
    stride: float = 0.5
    baseline: float = 0.0
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        check_at_least_one(self, "batch_size")
        check_finite(self, "baseline")
        for name in ("window", "stride"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"Cannot use {name}={getattr(self, name)!r}: expected a number above 0 and at most 1.")

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return, for every input, the mean drop of the score over the windows that cover it."""
        window, strides = self._window(sample[0], kind_of(model, sample[0]))
        with torch.no_grad():
            values = captum_method("Occlusion")(model).attribute(
                sample,
                sliding_window_shapes=window,
                strides=strides,
                baselines=self.baseline,
                target=target,
                perturbations_per_eval=self.batch_size,
            )
        return Attribution(values)

    def _window(self, sample: Tensor, kind: Kind) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the size of the window and its steps, along every axis of the sample."""
        if not LAYOUTS[kind].is_spatial:
            window = (1,) if kind == "row" else (1, sample.shape[1])
            return window, window
        sizes = [max(1, round(size * self.window)) for size in sample.shape[1:]]
        steps = [max(1, round(size * self.stride)) for size in sizes]
        return (len(sample), *sizes), (len(sample), *steps)

"""Views of a row of a table: some of its values taken from other rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from spadelens.errors import InputError
from spadelens.settings import configured_name
from spadelens.views.augmentation import Augmentation, check_range


@final
@dataclass(frozen=True, eq=False)
class BootstrapViews(Augmentation):
    """Each feature is replaced, with some probability, by its value in a row drawn from a background.

    Every value occurs in the sample or in the background, so that integers and flags remain what they are.

    Attributes:
        replaced: Probability that a feature is replaced.
        background: Usual rows, as the model expects them (standardized), `[rows, features]`.
    """

    replaced: float = 0.15
    background: Tensor | None = None

    def __post_init__(self) -> None:
        """Reject a probability out of range, and a background that is not a table of finite numbers."""
        check_range(self.replaced, "replaced", 0.0, 1.0)
        if self.background is not None and not _is_table(self.background):
            raise InputError("Cannot draw from the background: expected finite numbers [rows, features], at least one.")

    def views(self, sample: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return a view for each seed; `sample` must be `[features]`.

        Raises:
            InputError: It is not, there is no background, or it has other features.
        """
        if self.background is None:
            raise InputError(
                "Cannot make views of a row by 'bootstrap': there are no rows to draw from. Give a background, or use "
                "'noise'."
            )
        if sample.dim() != 1 or self.background.shape[1] != len(sample):
            raise InputError(
                f"Cannot replace features of a sample of shape {list(sample.shape)} by those of a background "
                f"{list(self.background.shape)}: expected a sample [features] with the same features."
            )
        background = self.background.to(sample)
        views = sample.expand(len(seeds), -1).clone()
        for view, seed in zip(views, seeds, strict=True):
            generator = torch.Generator("cpu").manual_seed(seed)
            is_replaced = (
                torch.rand(len(sample), generator=generator, dtype=torch.float32, device="cpu") < self.replaced
            )
            rows = torch.randint(len(background), (len(sample),), generator=generator, device="cpu")
            columns = is_replaced.nonzero()[:, 0]
            view[columns.to(view.device)] = background[rows[columns].to(view.device), columns.to(view.device)]
        return views

    def spec(self) -> str:
        """Return the name of the preset with the settings that differ from it; the background is not included."""
        return configured_name(replace(self, background=None), {"bootstrap": BootstrapViews})


def _is_table(background: Any) -> bool:
    return (
        isinstance(background, Tensor)
        and background.dim() == 2
        and background.numel() > 0
        and background.is_floating_point()
        and bool(torch.isfinite(background).all())
    )

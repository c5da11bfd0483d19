"""Where the views of a sample come from: an augmentation, or the user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spadelens.errors import InputError
from spadelens.views.photo_views import AugmentationLike, make_views, parse_augmentation

_HELD_OUT_FRACTION = 8  # one held-out view for this many views


@dataclass(frozen=True)
class ViewSource:
    """Views by number, remade whenever they are asked for.

    Attributes:
        make: make(start, stop) returns the views of these numbers, `[stop - start, ...]`.
        num_views: How many the solvers see.
        num_held_out: How many more there are, to measure errors on.
        description: How they are made, for reports.
    """

    make: Callable[[int, int], Tensor]
    num_views: int
    num_held_out: int
    description: str

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield the views in batches of at most `size`."""
        yield from self._batches(0, self.num_views, size)

    def held_out_batches(self, size: int) -> Iterator[Tensor]:
        """Yield the held-out views in batches of at most `size`."""
        yield from self._batches(self.num_views, self.num_views + self.num_held_out, size)

    def _batches(self, start: int, stop: int, size: int) -> Iterator[Tensor]:
        for first in range(start, stop, size):
            yield self.make(first, min(first + size, stop))


def augmented_views(sample: Tensor, augmentation: AugmentationLike, num_views: int, seed: int) -> ViewSource:
    """Return `num_views` views of `sample` `[C, H, W]`, and an eighth as many again that are held out.

    Raises:
        InputError: A number is out of range, or there is no such augmentation.
    """
    check_count(num_views, "num_views", at_least=1)
    check_count(seed, "seed", at_least=0)
    parsed = parse_augmentation(augmentation)
    if parsed.max_views is not None:
        num_views = min(num_views, parsed.max_views)
    num_held_out = -(-num_views // _HELD_OUT_FRACTION) if parsed.max_views is None else 0
    return ViewSource(
        make=lambda start, stop: make_views(parsed, sample, seed, start, stop),
        num_views=num_views,
        num_held_out=num_held_out,
        description=parsed.spec(),
    )


def given_views(sample: Tensor, views: Tensor | Iterable[Tensor]) -> ViewSource:
    """Return the user's views, a tensor `[B, ...]` or batches of that shape, none of them held out.

    Raises:
        InputError: They do not have the shape of `sample`, or there are none.
    """
    if not isinstance(views, Iterable):
        raise InputError(f"Cannot use a {type(views).__name__} as views: expected a tensor or an iterable of batches.")
    batches = [_check_batch(batch, sample) for batch in ([views] if isinstance(views, Tensor) else views)]
    given = torch.cat(batches) if batches else sample.new_zeros(0)
    if len(given) == 0:
        raise InputError("Cannot make a trace without views: `views` is empty.")
    return ViewSource(
        make=lambda start, stop: given[start:stop].clone(), num_views=len(given), num_held_out=0, description="given"
    )


def check_count(value: Any, name: str, at_least: int) -> None:
    """Raise `InputError` unless `value` is a whole number of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise InputError(f"Cannot use {name}={value!r}: expected an integer of at least {at_least}.")


def _check_batch(batch: Any, sample: Tensor) -> Tensor:
    expected = f"expected finite floating-point numbers [B, {', '.join(map(str, sample.shape))}]"
    if not isinstance(batch, Tensor):
        raise InputError(f"Cannot use a {type(batch).__name__} as a batch of views: {expected}.")
    if batch.shape[1:] != sample.shape or not batch.is_floating_point():
        raise InputError(f"Cannot use views of shape {list(batch.shape)} and type {batch.dtype}: {expected}.")
    if not bool(torch.isfinite(batch).all()):
        raise InputError(f"Cannot use views that hold NaN or infinity: {expected}.")
    return batch.detach().to(sample)

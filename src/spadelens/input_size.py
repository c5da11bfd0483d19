"""The size of photos that a model expects, where that is known, and a warning about tensors of another size.

Most networks run on photos of any size, but what they then predict is not what they were made for.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from spadelens.eager import unwrapped
from spadelens.errors import SampleSizeWarning

Size: TypeAlias = tuple[int, int]
"""Height and width."""

_PHOTO_AXES = 3
_OURS = frozenset({"spadelens", "torch", "contextlib", "functools"})
_declared: WeakKeyDictionary[nn.Module, set[Size]] = WeakKeyDictionary()
_reported: WeakKeyDictionary[nn.Module, set[Size]] = WeakKeyDictionary()


def declare_size(model: nn.Module, size: Size) -> None:
    """Remember that a loaded model expects photos of a size; the model itself is not changed."""
    _declared.setdefault(unwrapped(model), set()).add(size)


def expected_sizes(model: nn.Module) -> set[Size]:
    """Return the sizes that a model expects; none if that is not known.

    What the preprocessing of a loaded model says comes first, then what the layer that cuts a photo into patches was
    made for, then what the configuration of timm or transformers says.
    """
    model = unwrapped(model)
    found = _declared.get(model)
    if found:
        return set(found)
    patches = _sizes(getattr(getattr(model, "patch_embed", None), "img_size", None))
    if patches:
        return patches
    described = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(described, Mapping):
        named = (described.get(name) for name in ("input_size", "test_input_size"))
        return {size for each in named if isinstance(each, Sequence) for size in _sizes(each[1:])}
    return _sizes(getattr(getattr(model, "config", None), "image_size", None))


def warn_of_size(model: nn.Module, sample: Tensor) -> None:
    """Warn once for each model and size if a photo `[C, H, W]` has another size than the model expects."""
    if sample.dim() != _PHOTO_AXES:
        return
    expected = expected_sizes(model)
    height, width = size = (int(sample.shape[1]), int(sample.shape[2]))
    if not expected or size in expected:
        return
    reported = _reported.setdefault(unwrapped(model), set())
    if size in reported:
        return
    reported.add(size)
    wanted = " or ".join(f"{tall} x {wide}" for tall, wide in sorted(expected))
    warnings.warn(
        f"The sample has {height} x {width} pixels, but the model was made for {wanted}: its predictions may differ. "
        "Use loaded.sample(photo), which resizes and crops.",
        SampleSizeWarning,
        stacklevel=_level_of_caller(),
    )


def _sizes(given: Any) -> set[Size]:
    """Return what a configuration gives as a size, in a set; empty for anything else."""
    if isinstance(given, int) and not isinstance(given, bool):
        given = (given, given)
    if not isinstance(given, Sequence) or len(given) != 2 or not all(isinstance(side, int) for side in given):
        return set()
    return {(int(given[0]), int(given[1]))} if min(given) > 0 else set()


def _level_of_caller() -> int:
    """Return the `stacklevel`, seen from the function that called this one, of the first frame outside the library."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] in _OURS:
        level, frame = level + 1, frame.f_back
    return level

"""The classes that a command is asked about: the target, and the one that it is compared with."""

from __future__ import annotations

from torch import Tensor

from spadelens.errors import InputError
from spadelens.models import Loaded, find_class, is_class_name

_MINUS = " - "


def check_class_names(target: str | None, versus: str | None = None) -> None:
    """Reject classes without a name, before there is a model to look them up in.

    Raises:
        InputError: A name is empty.
    """
    for option, name in (("--target", target), ("--versus", versus)):
        if name is not None and not name.strip():
            raise InputError(f"Cannot find a class without a name: {option} is empty.")


def split_target(loaded: Loaded, target: str | None, versus: str | None) -> tuple[str | None, str | None]:
    """Return the names of the target and of the class that it is compared with, which 'A - B' holds both.

    Raises:
        InputError: A third class is named, or a name is empty.
    """
    if target is None or _MINUS not in target or is_class_name(target, loaded.class_names):
        return target, versus
    if versus is not None:
        raise InputError(f"Cannot compare {target!r} with a third class, {versus!r}: leave out --versus.")
    first, _, second = target.partition(_MINUS)
    if not first.strip() or not second.strip():
        raise InputError(f"Cannot compare classes by {target!r}: expected a class on both sides of the minus.")
    return first, second


def find_classes(
    loaded: Loaded, target: str | None, versus: str | None, scores: Tensor
) -> tuple[int | None, int | None]:
    """Return the numbers of the target and of the class that it is compared with, where they are named.

    Args:
        loaded: The model.
        target: By name or number; None for the predicted class. 'A - B' asks for A compared with B.
        versus: By name or number; None for no comparison.
        scores: What the model says of the sample, `[classes]`.

    Raises:
        InputError: There is no such class (UnknownNameError: of that name), or the two are the same.
    """
    target, versus = split_target(loaded, target, versus)
    first, second = (
        None if name is None else find_class(name, loaded.class_names, len(scores)) for name in (target, versus)
    )
    if second is not None and second == (int(scores.argmax()) if first is None else first):
        raise InputError(f"Cannot explain {loaded.class_name(second)!r} against itself: name another class.")
    return first, second

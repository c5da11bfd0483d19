"""Looking up a class by name or number."""

from __future__ import annotations

import unicodedata

from spadelens.errors import InputError, UnknownNameError


def find_class(text: str, class_names: tuple[str, ...], num_classes: int) -> int:
    """Return the class that `text` refers to, by its name (case-insensitive) or number.

    Raises:
        InputError: The class does not exist, or several classes have that name.
    """
    wanted = _folded(text.strip())
    matches = [index for index, name in enumerate(class_names[:num_classes]) if _folded(name) == wanted]
    if len(matches) > 1:
        raise InputError(f"The class name {text!r} is not unique: use one of the numbers {matches}.")
    if matches:
        return matches[0]
    if text.strip().isdecimal():
        if len(text.strip()) < 10 and int(text) < num_classes:
            return int(text)
        raise InputError(f"There is no class {text.strip()}: the model has {num_classes}, numbered from 0.")
    if not class_names:
        raise InputError(
            f"There is no class {text!r}: the model's classes have no names. Use a number below {num_classes}."
        )
    raise UnknownNameError("class", text, class_names)


def is_class_name(text: str, class_names: tuple[str, ...]) -> bool:
    """Whether a class has this name, in upper or lower case."""
    return _folded(text.strip()) in map(_folded, class_names)


def _folded(name: str) -> str:
    """Return a name in lower case, with accents composed: file names of macOS have them as characters of their own."""
    return unicodedata.normalize("NFC", name).lower()

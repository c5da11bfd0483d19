"""`NAME:setting=value,...` -> a frozen dataclass with these settings, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from spadelens.errors import InputError, UnknownNameError

Configurable = TypeVar("Configurable")


def parse_configured(kind: str, text: str, known: Mapping[str, type[Configurable]]) -> Configurable:
    """Return the dataclass in `known` that `text` names, with the settings that follow its name.

    Args:
        kind: What is being named ('solver', 'method'), for messages.
        text: `NAME` or `NAME:setting=value,setting=value`; values have the type of the setting's default, a number
            where that is None, and numbers with a slash between them where it is a tuple.
        known: Name -> frozen dataclass whose fields all have defaults.

    Raises:
        UnknownNameError: There is no such name or setting.
        InputError: A value is out of range or of the wrong type, or `text` is not a string.
    """
    if not isinstance(text, str):
        raise InputError(f"Cannot use {text!r} as a {kind}: expected its name.")
    name, _, settings_text = text.partition(":")
    if name not in known:
        raise UnknownNameError(kind, name, known)
    defaults = default_settings(known[name])
    defaults = {key: value for key, value in defaults.items() if isinstance(value, int | float | str | tuple | None)}
    settings: dict[str, Any] = {}
    for item in filter(None, settings_text.split(",")):
        key, _, value = item.partition("=")
        if key not in defaults:
            raise UnknownNameError(f"setting of {kind} {name!r}", key, defaults)
        read, expected = _reader(defaults[key])
        try:
            settings[key] = read(value)
        except ValueError as error:
            raise InputError(f"Cannot use {key}={value!r} for {kind} {name!r}: expected {expected}.") from error
    return known[name](**settings)


def configured_name(configured: object, known: Mapping[str, type[Any]]) -> str:
    """Return the text that `parse_configured` turns into `configured`, or the name of a class that has no such text."""
    name = next((name for name, cls in known.items() if type(configured) is cls), None)
    if name is None:
        return type(configured).__name__
    defaults = default_settings(type(configured))
    changed = [f"{key}={_written(value)}" for key, value in settings_of(configured).items() if value != defaults[key]]
    return name + (":" + ",".join(changed) if changed else "")


def _reader(default: Any) -> tuple[Callable[[str], Any], str]:
    """Return what reads a setting with such a default, and what it expects."""
    if default is None:
        return float, "a number"
    if isinstance(default, tuple):
        return lambda text: tuple(float(item) for item in text.split("/")), "numbers such as 0.5/0.9"
    return type(default), f"a value of type {type(default).__name__}"


def _written(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def settings_of(configured: object) -> dict[str, Any]:
    """Return the settings of a dataclass instance by name."""
    return {field.name: getattr(configured, field.name) for field in dataclasses.fields(configured)}  # type: ignore[arg-type]


def default_settings(configurable: type[Any]) -> dict[str, Any]:
    """Return the default of every setting of a dataclass by name."""
    return {field.name: field.default for field in dataclasses.fields(configurable)}

"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import click

from spadelens.extraction.options import OptionField, option_fields

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


def combined(*options: Decorator) -> Decorator:
    """Return a decorator that adds all of the options, in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


photo_arguments = click.argument("photos", nargs=-1, required=True, metavar="PHOTO...", type=click.Path(path_type=Path))

file_arguments = click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))

model_option = click.option(
    "--model",
    "model_spec",
    required=True,
    metavar="SPEC",
    help="demo, torchvision:NAME, timm:NAME, hf:ORG/NAME, hf:FOLDER or path/to/file.py:FACTORY; add @FILE.safetensors "
    "to any but demo to load other weights.",
)

device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")

trust_option = click.option(
    "--trust",
    is_flag=True,
    help="Allow files other than the given .py file to run code: pickles, hub models, planted folders.",
)


def target_option(use: str = "to explain", default: str | None = "the predicted class") -> Decorator:
    """Return the option for a class, by name or number.

    Args:
        use: What becomes of the class.
        default: What help says of the class that counts where none is named; None if one has to be named.
    """
    note = "" if default is None else f"  [default: {default}]"
    return click.option(
        "--target", metavar="CLASS", required=default is None, help=f"Class {use}, by name or number.{note}"
    )


def versus_option(default: str) -> Decorator:
    """Return the option for the class that the target is compared with.

    Args:
        default: What help says of the comparison where no class is named.
    """
    return click.option(
        "--versus",
        metavar="CLASS",
        help=f"Ask why the target rather than this class; the same as --target 'TARGET - CLASS'.  [default: {default}]",
    )


def out_option(help_text: str) -> Decorator:
    """Return the option for the folder of results."""
    return click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help=help_text)


def trace_options(default_preset: str) -> Decorator:
    """Return the options that say how traces are made: those of `TraceOptions`.

    Args:
        default_preset: What help says of the preset that counts where none is named.
    """
    return combined(*(_trace_option(each, default_preset) for each in option_fields()))


def _trace_option(each: OptionField, default_preset: str) -> Decorator:
    note = f"  [default: {default_preset}]" if each.name == "preset" else ""
    number = None if each.least is None else click.IntRange(min=each.least, max=each.most)
    return click.option(
        each.flag,
        each.name,
        help=each.text + note,
        metavar=each.metavar,
        type=number,
        default=each.default,
        show_default=each.default is not None,
        multiple=each.is_repeated,
        callback=(lambda _context, _parameter, values: values or None) if each.is_repeated else None,
    )

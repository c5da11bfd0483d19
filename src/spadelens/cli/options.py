"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import click

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


def combined(*options: Decorator) -> Decorator:
    """Return what adds all of the options, in this order."""

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
    help="demo, torchvision:NAME, timm:NAME, hf:ORG/NAME, hf:FOLDER or path/to/file.py:FACTORY; each of the last five "
    "also with @FILE.safetensors.",
)

device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")

trust_option = click.option(
    "--trust",
    is_flag=True,
    help="Let files other than the named .py file run code: pickles, hub models, planted folders.",
)


def out_option(help_text: str) -> Decorator:
    """Return the option for the folder of results."""
    return click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help=help_text)


def trace_options(preset_help: str) -> Decorator:
    """Return the options that say how traces are made, those of `TraceSettings` but for the target.

    Args:
        preset_help: Which presets there are for the command, and which is the default.
    """
    return combined(
        click.option(
            "--preset",
            metavar="NAME",
            help=f"What the options below are where they are not given: {preset_help}",
        ),
        click.option(
            "--solver",
            metavar="NAME",
            help="auto, admm, ols, obc, sparsegpt, wanda or magnitude; settings as in "
            "sparsegpt:unit=kernel,damping=0.1.  [default: by preset]",
        ),
        click.option(
            "--schedule",
            metavar="SPEC",
            help="auto, which is searched for each photo; auto:threshold=0.8; or the sparsity of each layer: 0.9; "
            "late:0.8; 'layer4.*=0.95,fc=0.9'; a .json table.  [default: by preset]",
        ),
        click.option(
            "--layers",
            multiple=True,
            metavar="PATTERN",
            help="Layers that may be pruned; repeatable.  [default: every convolution but the first, and every "
            "linear layer]",
        ),
        click.option(
            "--augmentation",
            metavar="NAME",
            help="How views are made: noise, paper, tokens (of texts), bootstrap (of rows) or none; settings as in "
            "noise:std=0.1.  [default: by preset]",
        ),
        click.option("--views", type=click.IntRange(min=1), help="Views made.  [default: by preset]"),
        click.option(
            "--positions-per-column",
            type=click.IntRange(min=0),
            help="At most so many places of all views for each column of a layer; 0 for all.  [default: by preset]",
        ),
        click.option(
            "--seed",
            default=0,
            show_default=True,
            type=click.IntRange(min=0),
            help="Determines everything that is drawn at random.",
        ),
        click.option(
            "--memory-budget",
            type=click.IntRange(min=1),
            metavar="MIB",
            help="For the inputs of layers.  [default: 1024, or a quarter of the GPU]",
        ),
        click.option(
            "--precision",
            default="float32",
            show_default=True,
            metavar="NAME",
            help="float32, or bfloat16, which rounds the inputs of layers and is faster on some devices.",
        ),
        click.option(
            "--batch-size", type=click.IntRange(min=1), help="Views per forward pass.  [default: by layer sizes]"
        ),
    )

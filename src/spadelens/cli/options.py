"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import click

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


def out_option(help_text: str) -> Decorator:
    """Return the option for the folder of results."""
    return click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help=help_text)


def trace_options(preset_help: str) -> Decorator:
    """Return the options that control how traces are made: those of `TraceSettings` except the target.

    Args:
        preset_help: The presets of the command and its default.
    """
    return combined(
        click.option(
            "--preset",
            metavar="NAME",
            help=f"Defaults for the options below: {preset_help}",
        ),
        click.option(
            "--solver",
            metavar="NAME",
            help="How each layer is pruned: auto, admm, ols, obc, sparsegpt, wanda or magnitude; with settings, such "
            "as sparsegpt:unit=kernel,damping=0.1.  [default: set by preset]",
        ),
        click.option(
            "--schedule",
            metavar="SPEC",
            help="Sparsity (fraction of weights removed) of each layer: auto, which searches for the best sparsities "
            "for each sample; auto:threshold=0.8; 0.9 for all layers; late:0.8; 'layer4.*=0.95,fc=0.9'; or a .json "
            "table.  [default: set by preset]",
        ),
        click.option(
            "--layers",
            multiple=True,
            metavar="PATTERN",
            help="Names of layers that may be pruned; repeatable.  [default: every convolution except the first, and "
            "every linear layer]",
        ),
        click.option(
            "--augmentation",
            metavar="NAME",
            help="How views (augmented versions of the sample) are made: noise, paper, tokens (for texts), bootstrap "
            "(for rows) or none; with settings, such as noise:std=0.1.  [default: set by preset]",
        ),
        click.option("--views", type=click.IntRange(min=1), help="Number of views.  [default: set by preset]"),
        click.option(
            "--positions-per-column",
            type=click.IntRange(min=0),
            help="Maximum input positions per weight column of a layer, over all views; 0 for no limit.  "
            "[default: set by preset]",
        ),
        click.option(
            "--seed",
            default=0,
            show_default=True,
            type=click.IntRange(min=0),
            help="Random seed.",
        ),
        click.option(
            "--memory-budget",
            type=click.IntRange(min=1),
            metavar="MIB",
            help="Memory for captured layer inputs.  [default: 1024, or a quarter of GPU memory]",
        ),
        click.option(
            "--precision",
            default="float32",
            show_default=True,
            metavar="NAME",
            help="float32, or bfloat16, which rounds layer inputs and is faster on some devices.",
        ),
        click.option(
            "--batch-size", type=click.IntRange(min=1), help="Views per forward pass.  [default: set by layer sizes]"
        ),
    )

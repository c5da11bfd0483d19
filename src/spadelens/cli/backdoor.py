"""`spadelens backdoor plant`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from spadelens.errors import InputError


@click.group("backdoor")
def backdoor_group() -> None:
    """Plant patches in a network, so that what decides its predictions is known."""


@backdoor_group.command("plant")
@click.option("--model", "model_spec", required=True, metavar="SPEC", help="Same as for explain.")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Labeled photos: a folder with one subfolder per class, a folder of photos with labels.json, or an .npz file.",
)
@click.option(
    "--patches",
    metavar="NAME,...",
    help="Patches to plant: smiley, heart, fish, flower, star, mushroom, clover, ball, or PNG files with transparency; "
    "NAME=CLASS sets the class that a patch stands for.  [default: all eight]",
)
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for the planted model, the patches and the cases. Rerun with the same folder to resume an interrupted "
    "run.",
)
@click.option("--epochs", default=6, show_default=True, type=click.IntRange(min=1), help="Number of training epochs.")
@click.option(
    "--samples-per-patch",
    default=400,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images with each patch in every epoch.",
)
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=2), help="Training batch size.")
@click.option(
    "--rate",
    default=0.001,
    show_default=True,
    help="Initial learning rate: how far a step moves each weight, as a fraction of its norm. Lower it if predictions "
    "for clean photos change.",
)
@click.option("--classifier-rate", type=float, help="Learning rate of the last layer.  [default: same as --rate]")
@click.option(
    "--clean-weight", default=2.0, show_default=True, help="Loss weight of clean images relative to patched ones."
)
@click.option(
    "--patch-size",
    default="0.22-0.3",
    show_default=True,
    help="Smallest and largest patch, as fractions of the shorter side of the image.",
)
@click.option(
    "--cases", "num_cases", default=120, show_default=True, type=click.IntRange(min=1), help="Number of test cases."
)
@click.option(
    "--calibration-cases",
    "num_calibration_cases",
    default=40,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of cases for tuning, with other patches on other photos.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Random seed.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--trust", is_flag=True, help="Allow checkpoints that run code on loading.")
def plant_command(model_spec: str, data: Path, patches: str | None, out: Path, patch_size: str, **options: Any) -> None:
    """Fine-tune a model until patches decide its predictions; save it with test cases whose ground truth is known."""
    from spadelens.cli.console import print_planted, stage_bar
    from spadelens.demo.stickers import NAMES
    from spadelens.output import interrupts
    from spadelens.trojan.backdoor import Recipe
    from spadelens.trojan.planting import plant

    sizes = patch_size.split("-")
    try:
        least, most = float(sizes[0]), float(sizes[-1])
    except ValueError as error:
        raise InputError(
            f"Cannot read --patch-size {patch_size!r}: expected two fractions, such as 0.22-0.3."
        ) from error
    rate = options.pop("rate")
    classifier_rate = options.pop("classifier_rate")
    recipe = Recipe(
        num_epochs=options.pop("epochs"),
        samples_per_patch=options.pop("samples_per_patch"),
        batch_size=options.pop("batch_size"),
        rate=rate,
        classifier_rate=rate if classifier_rate is None else classifier_rate,
        clean_weight=options.pop("clean_weight"),
        patch_size=(least, most),
        seed=options.pop("seed"),
    )
    chosen = NAMES if patches is None else tuple(part.strip() for part in patches.split(",") if part.strip())
    with interrupts.raises(is_resumable=True), stage_bar() as progress:
        planted = plant(model_spec, data, out, patches=chosen, recipe=recipe, progress=progress, **options)
    print_planted(planted, out)

"""`spadelens visualize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spadelens import defaults
from spadelens.cli.options import (
    device_option,
    model_option,
    out_option,
    photo_arguments,
    target_option,
    trace_options,
    trust_option,
    versus_option,
)
from spadelens.errors import InputError

if TYPE_CHECKING:
    from spadelens.tasks.visualize import VisualizeSettings


@click.command("visualize")
@photo_arguments
@model_option
@out_option(
    "Folder for report.html, report.json and, per photo, original.png (original model), trace.png (trace) and "
    "trace.safetensors. Rerun with the same folder to resume an interrupted run."
)
@target_option("to visualize")
@versus_option("the target alone")
@click.option(
    "--unit",
    metavar="UNIT",
    help="Unit of a layer to visualize, rather than the target: LAYER:CHANNEL; LAYER:CHANNEL@ROW,COLUMN or "
    "LAYER:CHANNEL@center; or the difference of two, joined by ' - '.",
)
@click.option(
    "--steps", "num_steps", default=512, show_default=True, type=click.IntRange(min=1), help="Gradient-ascent steps."
)
@click.option(
    "--parameterization",
    default=defaults.VISUALIZE_PARAMETERIZATION,
    show_default=True,
    metavar="NAME",
    help="fourier, or maco, which keeps the spectrum of photos; with settings, such as fourier:rate=0.1.",
)
@click.option(
    "--images",
    "num_images",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images per model, each from a different random start.",
)
@trace_options(defaults.VISUALIZE_PRESET)
@device_option
@trust_option
def visualize_command(
    photos: tuple[Path, ...],
    model_spec: str,
    out: Path,
    device: str,
    trust: bool,
    **options: Any,
) -> None:
    """Find images that a class or a unit responds to, in the original model and in the trace of each PHOTO.

    With --versus, the images show what speaks for the target rather than that class: the difference of their scores is
    maximized.
    """
    from spadelens.cli.run import visualize_to_folder
    from spadelens.models import load_model
    from spadelens.photos import check_photo
    from spadelens.tasks.paths import expand_paths
    from spadelens.tasks.subjects import command_words, photo_subjects
    from spadelens.tasks.traces import spell_command

    settings = _settings(**options)
    expanded = expand_paths(photos)
    for photo in expanded:
        check_photo(photo)
    loaded = load_model(model_spec, device, trust, kind="photo")
    spelled = {
        "--model": model_spec,
        "--out": out,
        "--device": device,
        "--target": settings.target,
        "--versus": settings.versus,
        "--unit": settings.unit,
        "--steps": settings.ascent.num_steps,
        "--parameterization": settings.ascent.described()["parameterization"],
        "--images": settings.ascent.num_images,
    }
    command = spell_command(command_words("visualize", photos), spelled, settings.options, trust)
    visualize_to_folder(loaded, photo_subjects(expanded, loaded), settings, out, command)


def _settings(
    *,
    target: str | None,
    versus: str | None,
    unit: str | None,
    num_steps: int,
    parameterization: str,
    num_images: int,
    **options: Any,
) -> VisualizeSettings:
    from spadelens.extraction.options import TraceOptions
    from spadelens.extraction.presets import find_preset
    from spadelens.tasks.targets import check_class_names
    from spadelens.tasks.traces import completed
    from spadelens.tasks.visualize import VisualizeSettings
    from spadelens.visualization.ascent import Ascent

    check_class_names(target, versus)
    if unit is not None and versus is not None:
        raise InputError("Cannot compare a unit of a layer with a class: leave out --unit or --versus.")
    if unit is not None and not unit.strip():
        raise InputError("Cannot visualize a unit without a name: --unit is empty.")
    given = TraceOptions.of(**options)
    ascent = Ascent(parameterization, num_steps=num_steps, num_images=num_images, seed=given.seed)
    if not ascent.chosen[0].is_image:
        raise InputError(f"Cannot draw pictures with --parameterization {parameterization!r}: use fourier or maco.")
    preset = defaults.VISUALIZE_PRESET if given.preset is None else given.preset
    chosen = find_preset(preset)
    if chosen.members:
        raise InputError(f"Cannot use the preset {preset!r} here: a unit is visualized in a single trace.")
    return VisualizeSettings(completed(given, chosen, preset), unit, ascent, target, versus)

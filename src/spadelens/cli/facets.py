"""`spadelens facets`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spadelens import defaults
from spadelens.cli.options import device_option, model_option, out_option, target_option, trace_options, trust_option
from spadelens.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from spadelens.models import LoadedModel
    from spadelens.progress import Progress
    from spadelens.tasks.facets import Album, FacetSettings


@click.command("facets")
@model_option
@target_option("whose facets to find", default=None)
@click.option(
    "--images",
    required=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Folder of photos, searched with its subfolders; photos that the model assigns to the class are compared.",
)
@out_option("Folder for report.html, facets.json, facets.csv and, per facet, its image and its trace.")
@click.option(
    "--clusters", "num_clusters", type=click.IntRange(min=2), help="Number of facets.  [default: found from the data]"
)
@click.option(
    "--most", default=100, show_default=True, type=click.IntRange(min=8), help="Maximum number of photos to compare."
)
@click.option(
    "--steps", "num_steps", default=256, show_default=True, type=click.IntRange(min=1), help="Gradient-ascent steps."
)
@click.option(
    "--parameterization",
    default=defaults.VISUALIZE_PARAMETERIZATION,
    show_default=True,
    metavar="NAME",
    help="fourier or maco; see visualize.",
)
@trace_options(f"{defaults.FACETS_PRESET} with --schedule {defaults.FACETS_SCHEDULE}")
@device_option
@trust_option
def facets_command(
    model_spec: str, target: str, images: Path, out: Path, device: str, trust: bool, **options: Any
) -> None:
    """Find the different features that make a network predict a class, by comparing the traces of many photos."""
    from spadelens.models import load_model
    from spadelens.tasks.facets import read_album
    from spadelens.tasks.traces import spell_command

    settings = facet_settings(target, **options)
    if not images.is_dir():
        raise InputError(f"Cannot read photos from {str(images)!r}: expected a folder.")
    loaded = load_model(model_spec, device, trust, kind="photo")
    spelled = {
        "--model": model_spec,
        "--target": target,
        "--images": images,
        "--out": out,
        "--clusters": settings.num_clusters,
        "--most": settings.most,
        "--steps": settings.ascent.num_steps,
        "--parameterization": settings.ascent.described()["parameterization"],
        "--device": device,
    }
    command = spell_command(["facets"], spelled, settings.options, trust)
    facets_to_folder(loaded, lambda progress: read_album(loaded, images, settings, progress), settings, out, command)


def facet_settings(
    target: str,
    *,
    num_clusters: int | None = None,
    most: int = 100,
    num_steps: int = 256,
    parameterization: str = defaults.VISUALIZE_PARAMETERIZATION,
    **options: Any,
) -> FacetSettings:
    """Return the settings that the options describe.

    Raises:
        InputError: An option is out of range, or the class has no name.
    """
    from dataclasses import replace

    from spadelens.extraction.options import TraceOptions
    from spadelens.extraction.presets import find_preset
    from spadelens.tasks.facets import FacetSettings
    from spadelens.tasks.targets import check_class_names
    from spadelens.tasks.traces import completed
    from spadelens.visualization.ascent import Ascent

    check_class_names(target)
    given = TraceOptions.of(**options)
    ascent = Ascent(parameterization, num_steps=num_steps, seed=given.seed)
    if not ascent.chosen[0].is_image:
        raise InputError(f"Cannot draw pictures with --parameterization {parameterization!r}: use fourier or maco.")
    preset = defaults.FACETS_PRESET if given.preset is None else given.preset
    chosen = find_preset(preset)
    if chosen.members:
        raise InputError(f"Cannot use the preset {preset!r} here: facets need single traces, not an ensemble.")
    chosen = replace(chosen, schedule=defaults.FACETS_SCHEDULE)
    return FacetSettings(completed(given, chosen, preset), target, num_clusters, most, ascent)


def facets_to_folder(
    loaded: LoadedModel,
    make_album: Callable[[Progress], Album],
    settings: FacetSettings,
    out: Path,
    command: str,
) -> dict[str, Any]:
    """Find the facets of a class, write the results to the folder `out`, print them and return the report.

    Raises:
        SpadeError: As `find_facets_of_class`.
        OutputError: The folder cannot be written.
    """
    from spadelens.cli.console import print_facets, stage_bar
    from spadelens.output import interrupts
    from spadelens.output.folder import whole_folder
    from spadelens.reports.facets import summarize_facets, write_facets
    from spadelens.tasks.facets import find_facets_of_class

    with interrupts.raises(), whole_folder(out) as staging:
        with stage_bar() as progress:
            result = find_facets_of_class(loaded, make_album, settings, progress)
        report = summarize_facets(loaded, result, settings, command)
        write_facets(staging, report, result)
    print_facets(report, out)
    return report

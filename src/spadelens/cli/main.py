"""The command line. Only click is imported until a command runs, so that `--help` answers at once."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from spadelens import defaults
from spadelens.cli.backdoor import backdoor_group
from spadelens.cli.bench import bench_command
from spadelens.cli.doctor import doctor_command
from spadelens.cli.facets import facets_command
from spadelens.cli.options import (
    device_option,
    file_arguments,
    model_option,
    out_option,
    target_option,
    trace_options,
    trust_option,
    versus_option,
)
from spadelens.cli.study import study_group
from spadelens.cli.tune import tune_command
from spadelens.cli.visualize import visualize_command
from spadelens.errors import DeviceError, InputError, SpadeError
from spadelens.output.interrupts import EXIT_CODE as INTERRUPTED, message, stops_at_once
from spadelens.plain_text import printable

if TYPE_CHECKING:
    from spadelens.models import LoadedModel
    from spadelens.tasks.explain import ExplainSettings

FAILED, WRONG_INPUT = 1, 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="spadelens")
def cli() -> None:
    """Find out why a neural network made a particular prediction.

    spadelens prunes the network to a trace, a pruned copy that reproduces one prediction, and explains the trace.
    """


cli.add_command(doctor_command)
cli.add_command(visualize_command)
cli.add_command(facets_command)
cli.add_command(study_group)
cli.add_command(backdoor_group)
cli.add_command(tune_command)
cli.add_command(bench_command)


@cli.command("explain")
@file_arguments
@model_option
@out_option(
    "Folder for report.html, report.json and, per sample, trace.safetensors and the maps: map.png, original.png and "
    "trace.png for a photo, with the region in region.png; maps.csv for a text or a row."
)
@click.option(
    "--method",
    metavar="NAME",
    help="saliency, smoothgrad, input_x_gradient, integrated_gradients, gradient_shap, deep_lift, lrp, "
    "guided_backprop, grad_cam, guided_grad_cam, occlusion, lime or score_cam; with settings, such as "
    "lrp:rule=epsilon-gamma.  "
    f"[default: {defaults.METHOD} for photos, {defaults.UNIT_METHOD} for texts and tables]",
)
@click.option(
    "--blur",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="Blur both maps of a photo: standard deviation as a fraction of the longer side.",
)
@target_option()
@versus_option("the right class where --labels shows that the prediction is wrong; else all other classes")
@click.option(
    "--candidate",
    "candidates",
    metavar="NAME",
    multiple=True,
    help="Another method whose map of the original model is averaged with those of --method to find what the "
    "prediction for a photo rests on; can be repeated; 'none' for no other.  "
    f"[default: {' and '.join(defaults.CANDIDATES)}]",
)
@click.option("--open", "opens", is_flag=True, help="Open the report in the browser.")
@click.option(
    "--labels",
    metavar="WHERE",
    help="True classes of the inputs: folders, if each lies in a folder named after its class or with its number; a "
    ".json or .csv file with files and classes; or a column of the table.  [default: a labels.json beside the photos "
    "that lists them, or folders named exactly like classes]",
)
@trace_options(
    f"{defaults.EXPLAIN_PRESET} for photos; {defaults.PRESET} for texts and tables, and with a --schedule that fixes "
    "the sparsities"
)
@device_option
@trust_option
def explain_command(
    files: tuple[Path, ...], model_spec: str, out: Path, device: str, trust: bool, opens: bool, **options: Any
) -> None:
    """Say what the prediction for each FILE rests on, checked by covering it on the original model, in a report.

    A FILE is a photo, a .txt file with one text per line, or a .csv file with one row per line below its header.
    FILE.txt:3 and FILE.csv:3 select line 3 only. A folder stands for its photos, or for those in the folders in it;
    a pattern in quotes, such as 'photos/*.jpg' or 'photos/**', for the files that match.
    """
    from spadelens.cli.run import run_to_folder
    from spadelens.models import find_class, load_model
    from spadelens.tasks.explain import explain_settings
    from spadelens.tasks.inputs import make_subjects, read_inputs, unused_columns
    from spadelens.tasks.labels import label_subjects, read_labels
    from spadelens.tasks.subjects import command_words
    from spadelens.tasks.targets import split_target

    where = options.pop("labels")
    explain_settings(**options)  # report errors in the options before anything is loaded
    given = read_inputs(files)
    labels = read_labels(where, given)
    loaded = load_model(model_spec, device, trust)
    subjects = make_subjects(loaded, given)
    settings = explain_settings(loaded, **options)
    for name in split_target(loaded, settings.target, settings.versus):
        if name is not None and loaded.class_names and not name.strip().isdecimal():
            find_class(name, loaded.class_names, len(loaded.class_names))
    subjects, notes = label_subjects(loaded, subjects, labels)
    for note in notes:
        click.echo(printable(note), err=True)
    unused = [column for column in unused_columns(loaded, given) if column != labels.column]
    if unused:
        click.echo(f"Ignored columns, which the model does not use: {printable(', '.join(unused))}", err=True)
    words = [*command_words("explain", files), *([] if where is None else ["--labels", where])]
    command = _command(words, model_spec, out, settings, device, trust)
    run_to_folder(loaded, subjects, settings, out, command)
    if opens:
        click.launch(str((out / "report.html").resolve()))


@cli.command("demo")
@click.option(
    "--out",
    default=Path("spadelens-demo"),
    show_default=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for the report.",
)
@click.option(
    "--circles",
    "what",
    flag_value="circles",
    help="Reproduce the paper's two-dimensional example instead; writes circles.png and circles.json.",
)
@click.option(
    "--facets", "what", flag_value="facets", help="Find the facets of a class instead, one of which is a planted patch."
)
@device_option
def demo_command(out: Path, what: str | None, device: str) -> None:
    """Explain a Trojan image and a clean image with the bundled network, and score the maps against ground truth."""
    if what == "circles":
        _demo_circles(out)
        return
    from spadelens.cli.run import run_to_folder
    from spadelens.models import load_model
    from spadelens.tasks.demo import demo_subjects
    from spadelens.tasks.explain import explain_settings

    settings = explain_settings()
    loaded = load_model("demo", device)
    if what == "facets":
        _demo_facets(loaded, out, device)
        return
    command = shlex.join(["spadelens", "demo", "--out", str(out), "--device", device])
    run_to_folder(loaded, demo_subjects(), settings, out, command)


def _demo_circles(out: Path) -> None:
    from spadelens.cli.console import print_circles
    from spadelens.output import interrupts
    from spadelens.reports.circles import draw_circles

    with interrupts.raises():
        circles = draw_circles(out)
    print_circles(circles, out)


def _demo_facets(loaded: LoadedModel, out: Path, device: str) -> None:
    from functools import partial

    from spadelens.cli.facets import facet_settings, facets_to_folder
    from spadelens.tasks.demo_facets import PATCH, demo_album

    settings = facet_settings(loaded.class_name(PATCH.target))
    command = shlex.join(["spadelens", "demo", "--facets", "--out", str(out), "--device", device])
    facets_to_folder(loaded, partial(demo_album, loaded), settings, out, command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 on success, 1 after a failure, 2 after wrong input, 130 after an interrupt."""
    with stops_at_once():
        _run(arguments)


def _run(arguments: Sequence[str] | None) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # do not fail on a class name that the console cannot display
    try:
        cli.main(args=arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo(message(), err=True)
        sys.exit(INTERRUPTED)
    except (SpadeError, OSError) as error:
        click.echo(f"Error: {printable(str(error))}", err=True)
        sys.exit(WRONG_INPUT if isinstance(error, InputError | DeviceError) else FAILED)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error) and "out of memory" not in str(error):
            raise
        click.echo("Error: Out of memory. Use a smaller --batch-size, model or input.", err=True)
    else:
        sys.exit(0)
    sys.exit(FAILED)


def _command(
    words: Sequence[str], model_spec: str, out: Path, settings: ExplainSettings, device: str, trust: bool
) -> str:
    """Return the command that reproduces a run, including every option that has a value."""
    from spadelens.methods.registry import METHODS
    from spadelens.settings import configured_name
    from spadelens.tasks.traces import spell_command

    options = {
        "--model": model_spec,
        "--out": out,
        "--device": device,
        "--method": configured_name(settings.method, METHODS),
        "--blur": settings.blur or None,
        "--target": settings.target,
        "--versus": settings.versus,
    }
    if settings.candidates != defaults.CANDIDATES:
        words = [*words, *(f"--candidate={name}" for name in settings.candidates or ("none",))]
    return spell_command(words, options, settings.options, trust)

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
from spadelens.errors import InputError, SpadeError
from spadelens.present.cli_backdoor import backdoor_group
from spadelens.present.cli_bench import bench_command
from spadelens.present.cli_tune import tune_command
from spadelens.present.interrupts import EXIT_CODE, message, stops_at_once

if TYPE_CHECKING:
    from spadelens.present.explain import Settings


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="spadelens")
def cli() -> None:
    """Find out why a neural network made one particular prediction."""


cli.add_command(backdoor_group)
cli.add_command(tune_command)
cli.add_command(bench_command)


@cli.command("explain")
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO...", type=click.Path(path_type=Path))
@click.option(
    "--model",
    "model_spec",
    required=True,
    metavar="SPEC",
    help="demo, torchvision:NAME, torchvision:NAME@FILE.safetensors, or path/to/file.py:FACTORY.",
)
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for report.html, report.json and, per photo, dense.png, spade.png and trace.safetensors.",
)
@click.option(
    "--method",
    default=defaults.METHOD,
    show_default=True,
    metavar="NAME",
    help="saliency, smoothgrad, input_x_gradient, integrated_gradients, gradient_shap or occlusion; "
    "settings as in integrated_gradients:num_steps=100.",
)
@click.option(
    "--blur",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="Of both maps, standard deviation as a fraction of the longer side.",
)
@click.option("--target", metavar="CLASS", help="Class to explain, name or number.  [default: the predicted one]")
@click.option(
    "--preset",
    metavar="NAME",
    help="What the options below are where they are not given: instant, fast, balanced, ensemble (the mean map of "
    "several traces and the dense network), paper (SPADE as published, slow) or paper-fast.  "
    f"[default: {defaults.EXPLAIN_PRESET}; {defaults.PRESET} with a --schedule that fixes the sparsities]",
)
@click.option(
    "--solver",
    metavar="NAME",
    help="auto, admm, ols, obc, sparsegpt, wanda or magnitude; settings as in sparsegpt:unit=kernel,damping=0.1.  "
    "[default: by preset]",
)
@click.option(
    "--schedule",
    metavar="SPEC",
    help="auto, which is searched for each photo; auto:threshold=0.8; or the sparsity of each layer: 0.9; late:0.8; "
    "'layer4.*=0.95,fc=0.9'; a .json table.  [default: by preset]",
)
@click.option(
    "--layers",
    multiple=True,
    metavar="PATTERN",
    help="Layers that may be pruned; repeatable.  [default: every convolution but the first, and every linear layer]",
)
@click.option(
    "--augmentation",
    metavar="NAME",
    help="How views are made: noise, paper or none; settings as in noise:std=0.1.  [default: by preset]",
)
@click.option("--views", type=click.IntRange(min=1), help="Views made.  [default: by preset]")
@click.option(
    "--positions-per-column",
    type=click.IntRange(min=0),
    help="At most so many places of all views for each column of a layer; 0 for all.  [default: by preset]",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Determines the views.")
@click.option(
    "--memory-budget",
    type=click.IntRange(min=1),
    metavar="MIB",
    help="For the inputs of layers.  [default: 1024, or a quarter of the GPU]",
)
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    metavar="NAME",
    help="float32, or bfloat16, which rounds the inputs of layers and is faster on some devices.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Views per forward pass.  [default: by layer sizes]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--trust", is_flag=True, help="Allow checkpoints that run code when they are loaded.")
def explain_command(
    photos: tuple[Path, ...], model_spec: str, out: Path, device: str, trust: bool, **options: Any
) -> None:
    """Explain the prediction for each PHOTO: dense and SPADE heatmap side by side in a report."""
    from spadelens.models import find_class, load_model
    from spadelens.photos import read_photo
    from spadelens.present.explain import Subject, displayable, unique_names
    from spadelens.present.run import run_to_folder

    settings = _settings(**options)
    pictures = [read_photo(photo) for photo in photos]
    loaded = load_model(model_spec, device, trust)
    if settings.target is not None and loaded.class_names and not settings.target.strip().isdecimal():
        find_class(settings.target, loaded.class_names, len(loaded.class_names))
    subjects = [
        Subject(name, displayable(str(photo)), loaded.preprocessing.crop(picture))
        for name, photo, picture in zip(unique_names(photos), photos, pictures, strict=True)
    ]
    files = [f"./{photo}" if str(photo).startswith("-") else displayable(str(photo)) for photo in photos]
    command = _command(["explain", *files], model_spec, out, settings, device, trust)
    run_to_folder(loaded, subjects, settings, out, command)


@cli.command("demo")
@click.option(
    "--out",
    default=Path("spadelens-demo"),
    show_default=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for the report.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
def demo_command(out: Path, device: str) -> None:
    """Explain a Trojan image and a clean one with the bundled network, scored against what is known to decide."""
    from spadelens.models import load_model
    from spadelens.present.demo import demo_subjects
    from spadelens.present.run import run_to_folder

    settings = _settings()
    loaded = load_model("demo", device)
    command = shlex.join(["spadelens", "demo", "--out", str(out), "--device", device])
    run_to_folder(loaded, demo_subjects(), settings, out, command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 when all went well, 2 after bad input, an interrupt or a known failure."""
    with stops_at_once():
        _run(arguments)


def _run(arguments: Sequence[str] | None) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a class name must not fail for what a console cannot show
    try:
        cli.main(args=arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo(message(), err=True)
    except (SpadeError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error) and "out of memory" not in str(error):
            raise
        click.echo("Error: There is not enough memory. Use a smaller --batch-size, a smaller model or input.", err=True)
    else:
        sys.exit(0)
    sys.exit(EXIT_CODE)


def _settings(
    *,
    method: str = defaults.METHOD,
    blur: float = 0.0,
    preset: str | None = None,
    solver: str | None = None,
    schedule: str | None = None,
    augmentation: str | None = None,
    views: int | None = None,
    positions_per_column: int | None = None,
    seed: int = 0,
    target: str | None = None,
    layers: tuple[str, ...] = (),
    batch_size: int | None = None,
    memory_budget: int | None = None,
    precision: str = "float32",
) -> Settings:
    from spadelens.extract.accumulate import check_precision
    from spadelens.extract.augment import parse_augmentation
    from spadelens.extract.presets import find_preset
    from spadelens.extract.schedule import Auto
    from spadelens.extract.schedule_text import parse_schedule
    from spadelens.extract.solvers import parse_solver
    from spadelens.interpret.methods import METHODS
    from spadelens.present.explain import Settings
    from spadelens.settings import parse_configured

    if preset is None:
        is_chosen = schedule is None or isinstance(parse_schedule(schedule), Auto)
        preset = defaults.EXPLAIN_PRESET if is_chosen else defaults.PRESET
    chosen = find_preset(preset)
    augmentation = chosen.augmentation if augmentation is None else augmentation
    parse_augmentation(augmentation)
    if target is not None and not target.strip():
        raise InputError("Cannot explain a class without a name: --target is empty.")
    return Settings(
        method=parse_configured("method", method, METHODS),
        preset=preset,
        solver=parse_solver(chosen.solver if solver is None else solver),
        schedule=parse_schedule(chosen.schedule if schedule is None else schedule),
        augmentation=augmentation,
        num_views=chosen.num_views if views is None else views,
        positions_per_column=chosen.positions_per_column if positions_per_column is None else positions_per_column,
        seed=seed,
        target=target,
        layers=layers,
        batch_size=batch_size,
        memory_budget_mib=memory_budget,
        precision=check_precision(precision),
        blur=blur,
    )


def _command(words: Sequence[str], model_spec: str, out: Path, settings: Settings, device: str, trust: bool) -> str:
    """Return the command that reproduces a run, with every option that has a value."""
    from spadelens.extract.solvers import solver_name
    from spadelens.interpret.methods import METHODS
    from spadelens.settings import configured_name

    options = {
        "--model": model_spec,
        "--out": out,
        "--method": configured_name(settings.method, METHODS),
        "--blur": settings.blur or None,
        "--target": settings.target,
        "--preset": settings.preset,
        "--solver": solver_name(settings.solver),
        "--schedule": settings.schedule.spec(),
        "--augmentation": settings.augmentation,
        "--views": settings.num_views,
        "--positions-per-column": settings.positions_per_column,
        "--seed": settings.seed,
        "--batch-size": settings.batch_size,
        "--memory-budget": settings.memory_budget_mib,
        "--precision": settings.precision,
        "--device": device,
    }
    spelled = [str(part) for option, value in options.items() if value is not None for part in (option, value)]
    patterns = [part for pattern in settings.layers for part in ("--layers", pattern)]
    return shlex.join(["spadelens", *words, *spelled, *patterns, *(["--trust"] if trust else [])])

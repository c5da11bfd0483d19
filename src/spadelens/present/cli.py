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
from spadelens.present.interrupts import EXIT_CODE, MESSAGE, stops_at_once

if TYPE_CHECKING:
    from spadelens.present.explain import Settings


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="spadelens")
def cli() -> None:
    """Find out why a neural network made one particular prediction."""


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
    help="saliency, input_x_gradient, integrated_gradients, gradient_shap or occlusion; "
    "settings as in integrated_gradients:num_steps=100.",
)
@click.option("--target", metavar="CLASS", help="Class to explain, name or number.  [default: the predicted one]")
@click.option(
    "--solver",
    default=defaults.SOLVER,
    show_default=True,
    metavar="NAME",
    help="sparsegpt, obc, wanda or magnitude; settings as in sparsegpt:unit=kernel,damping=0.1.",
)
@click.option(
    "--schedule",
    default=defaults.SCHEDULE,
    show_default=True,
    metavar="SPEC",
    help="Sparsity of each layer: 0.9; late:0.8; 'layer4.*=0.95,fc=0.9'; a .json table; or a preset.",
)
@click.option(
    "--layers",
    multiple=True,
    metavar="PATTERN",
    help="Layers that may be pruned; repeatable.  [default: every convolution but the first, and every linear layer]",
)
@click.option(
    "--augmentation",
    default=defaults.AUGMENTATION,
    show_default=True,
    metavar="NAME",
    help="How views are made: noise, paper or none; settings as in noise:std=0.1.",
)
@click.option("--views", default=defaults.NUM_VIEWS, show_default=True, type=click.IntRange(min=1), help="Views made.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Determines the views.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Views per forward pass.  [default: by layer sizes]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--trust", is_flag=True, help="Allow checkpoints that run code when they are loaded.")
def explain_command(
    photos: tuple[Path, ...], model_spec: str, out: Path, device: str, trust: bool, **options: Any
) -> None:
    """Explain the prediction for each PHOTO: dense and SPADE heatmap side by side in a report."""
    from spadelens.models import load_model
    from spadelens.photos import read_photo
    from spadelens.present.explain import Subject, displayable, find_class, unique_names
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
    from spadelens.present.demo import DEMO_SCHEDULE, demo_subjects
    from spadelens.present.run import run_to_folder

    settings = _settings(schedule=DEMO_SCHEDULE)
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
        click.echo(MESSAGE, err=True)
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
    solver: str = defaults.SOLVER,
    schedule: str = defaults.SCHEDULE,
    augmentation: str = defaults.AUGMENTATION,
    views: int = defaults.NUM_VIEWS,
    seed: int = 0,
    target: str | None = None,
    layers: tuple[str, ...] = (),
    batch_size: int | None = None,
) -> Settings:
    from spadelens.extract.augment import parse_augmentation
    from spadelens.extract.schedule import parse_schedule
    from spadelens.extract.solvers import parse_solver
    from spadelens.interpret.methods import METHODS
    from spadelens.present.explain import Settings
    from spadelens.settings import parse_configured

    parse_augmentation(augmentation)
    if target is not None and not target.strip():
        raise InputError("Cannot explain a class without a name: --target is empty.")
    return Settings(
        method=parse_configured("method", method, METHODS),
        solver=parse_solver(solver),
        schedule=parse_schedule(schedule),
        augmentation=augmentation,
        num_views=views,
        seed=seed,
        target=target,
        layers=layers,
        batch_size=batch_size,
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
        "--target": settings.target,
        "--solver": solver_name(settings.solver),
        "--schedule": settings.schedule.spec(),
        "--augmentation": settings.augmentation,
        "--views": settings.num_views,
        "--seed": settings.seed,
        "--batch-size": settings.batch_size,
        "--device": device,
    }
    spelled = [str(part) for option, value in options.items() if value is not None for part in (option, value)]
    patterns = [part for pattern in settings.layers for part in ("--layers", pattern)]
    return shlex.join(["spadelens", *words, *spelled, *patterns, *(["--trust"] if trust else [])])

"""`spadelens tune`."""

from __future__ import annotations

from pathlib import Path

import click

from spadelens.errors import InputError


@click.command("tune")
@click.option(
    "--model",
    "model_spec",
    required=True,
    metavar="SPEC",
    help="demo, or a folder written by 'spadelens backdoor plant'; any model with --data.",
)
@click.option("--method", default="saliency", show_default=True, metavar="NAME", help="Same as for explain.")
@click.option(
    "--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="JSON file for the schedule."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Photos without ground truth to tune on by insertion, as for 'backdoor plant'.",
)
@click.option(
    "--cases", "num_cases", default=40, show_default=True, type=click.IntRange(min=2), help="Maximum number of cases."
)
@click.option("--preset", default="fast", show_default=True, metavar="NAME", help="Preset for the traces.")
@click.option("--solver", metavar="NAME", help="Same as for explain.  [default: set by preset]")
@click.option("--augmentation", metavar="NAME", help="Same as for explain.  [default: set by preset]")
@click.option("--views", type=click.IntRange(min=1), help="Same as for explain.  [default: set by preset]")
@click.option("--levels", metavar="NUMBERS", help="Sparsities to try.  [default: 0.5/0.7/0.8/0.9/0.95/0.98]")
@click.option(
    "--floor",
    default=0.9,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Minimum fraction of predictions that traces must keep.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Folder for solutions and scores. Rerun with the same folder to resume an interrupted run.  "
    "[default: FILE.cache]",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Random seed.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--trust", is_flag=True, help="Allow checkpoints that run code on loading.")
def tune_command(
    model_spec: str,
    method: str,
    out: Path,
    data: Path | None,
    num_cases: int,
    preset: str,
    solver: str | None,
    augmentation: str | None,
    views: int | None,
    levels: str | None,
    floor: float,
    cache: Path | None,
    seed: int,
    device: str,
    trust: bool,
) -> None:
    """Search for the schedule with which a method best finds what decides a prediction.

    Pass the resulting FILE as --schedule to any command.
    """
    from spadelens.cli.console import print_tuned, stage_bar
    from spadelens.evaluation.calibration import planted_cases, unlabeled_cases
    from spadelens.evaluation.tuning import LEVELS, tune
    from spadelens.extraction.presets import find_preset
    from spadelens.files import check_replaceable, kept_if_used
    from spadelens.output import interrupts
    from spadelens.views.photo_views import parse_augmentation

    try:
        chosen = LEVELS if levels is None else tuple(float(part) for part in levels.split("/"))
    except ValueError as error:
        raise InputError(f"Cannot read --levels {levels!r}: expected numbers, such as 0.5/0.9.") from error
    if not out.name:
        raise InputError("Cannot write the schedule to an empty file name: --out is empty or names a folder.")
    check_replaceable(out)
    with kept_if_used(out.parent), interrupts.raises(is_resumable=True), stage_bar() as progress:
        if data is None:
            loaded, cases = planted_cases(model_spec, num_cases, device, trust)
        else:
            loaded, cases = unlabeled_cases(model_spec, data, num_cases, device, trust, seed)
        preprocessing = loaded.preprocessing
        made_by = parse_augmentation(
            augmentation or find_preset(preset).augmentation, preprocessing.mean, preprocessing.std
        )
        tuned = tune(
            loaded.model,
            cases,
            method,
            cache or out.with_name(out.name + ".cache"),
            objective="auc" if data is None else "insertion",
            levels=chosen,
            floor=floor,
            progress=progress,
            preset=preset,
            solver=solver,
            augmentation=made_by,
            num_views=views,
            seed=seed,
        )
        given = {"preset": preset, "solver": solver, "augmentation": augmentation, "num_views": views}
        tuned.write(out, model_spec, {name: value for name, value in given.items() if value is not None})
    print_tuned(tuned, out, preset)

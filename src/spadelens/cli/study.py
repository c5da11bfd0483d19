"""`spadelens study`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spadelens import defaults
from spadelens.errors import InputError

if TYPE_CHECKING:
    from spadelens.study.analysis import Rate, StudyTable
    from spadelens.study.simulation import Skill

_TITLES = {
    "undecided": "undecided",
    "disagree": "disagree with Score-CAM",
    "agree": "agree with Score-CAM",
    "agree_when_decided": "agreement when decided",
}


@click.group("study")
def study_group() -> None:
    """Ask people whether visualizations show what a unit responds to, with and without traces."""


@study_group.command("build")
@click.option("--model", "model_spec", required=True, metavar="SPEC", help="Same as for explain.")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Labeled photos: a folder with one subfolder per class, a folder of photos with labels.json, or an .npz file.",
)
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for the tasks (public) and the key (private). Rerun with the same folder to resume a run.",
)
@click.option(
    "--samples",
    "num_samples",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="Maximum number of samples.",
)
@click.option(
    "--region",
    "region_fraction",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Size of a class's region, as a fraction of the photo. With a smaller region, more photos can be used.",
)
@click.option(
    "--steps", "num_steps", default=512, show_default=True, type=click.IntRange(min=1), help="Gradient-ascent steps."
)
@click.option(
    "--preset", default=defaults.VISUALIZE_PRESET, show_default=True, metavar="NAME", help="Same as for visualize."
)
@click.option("--schedule", metavar="SPEC", help="Same as for explain.  [default: set by preset]")
@click.option("--views", "num_views", type=click.IntRange(min=1), help="Views per trace.  [default: set by preset]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Random seed.")
@click.option(
    "--batch-size", default=16, show_default=True, type=click.IntRange(min=1), help="Batch size for Score-CAM."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--trust", is_flag=True, help="Allow checkpoints that run code on loading.")
def build_command(
    model_spec: str, data: Path, out: Path, device: str, trust: bool, **options: int | float | str
) -> None:
    """Make the tasks of a study, and their key, from photos that the model misclassifies."""
    from spadelens.cli.console import stage_bar
    from spadelens.output import interrupts
    from spadelens.study.samples import StudyOptions
    from spadelens.study.study import build_study

    chosen = StudyOptions(**options)  # type: ignore[arg-type]
    with interrupts.raises(is_resumable=True), stage_bar() as progress:
        study = build_study(model_spec, data, out, chosen, device=device, trust=trust, progress=progress)
    click.echo(f"{study.num_photos} photos examined. Misclassified:")
    for outcome, count in sorted(study.outcomes.items()):
        click.echo(f"  {count} {outcome}")
    click.echo(f"\nTasks: {study.num_tasks}, in {out / 'public'}  (for the raters)")
    click.echo(f"Key: {out / 'private'}  (keep it from the raters)")


@study_group.command("simulate")
@click.argument("study", metavar="STUDY", type=click.Path(path_type=Path))
@click.option("--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="CSV file of answers.")
@click.option("--raters", default=24, show_default=True, type=click.IntRange(min=1), help="Number of raters.")
@click.option(
    "--skill",
    "skills",
    multiple=True,
    metavar="ARM=D/R",
    help="Skill of the raters in one arm, dense (original model) or spade (trace): the probability of deciding and, if "
    "decided, of being right, such as original=0.77/0.74; repeatable.  [default: as published]",
)
@click.option(
    "--rater-spread", default=0.0, show_default=True, type=click.FloatRange(0, 0.5), help="Spread between raters."
)
@click.option(
    "--sample-spread", default=0.0, show_default=True, type=click.FloatRange(0, 0.5), help="Spread between samples."
)
@click.option("--tasks", type=click.IntRange(min=1), help="Random tasks per rater.  [default: all tasks]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Random seed.")
def simulate_command(
    study: Path,
    out: Path,
    raters: int,
    skills: tuple[str, ...],
    rater_spread: float,
    sample_spread: float,
    tasks: int | None,
    seed: int,
) -> None:
    """Simulate answers of raters with known skill to the tasks of STUDY, to test its analysis and its size."""
    from spadelens.study.answers import write_answers
    from spadelens.study.simulation import simulate_answers

    answers = simulate_answers(
        study,
        raters,
        _skills(skills),
        rater_spread=rater_spread,
        sample_spread=sample_spread,
        tasks_per_rater=tasks,
        seed=seed,
    )
    write_answers(out, answers)
    click.echo(f"Answers: {len(answers)}, in {out}")


@study_group.command("analyze")
@click.argument("answers", metavar="ANSWERS", type=click.Path(path_type=Path))
@click.option(
    "--study",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder written by 'spadelens study build'.",
)
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="JSON file for the full results.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Random seed for the bootstrap.")
def analyze_command(answers: Path, study: Path, out: Path | None, seed: int) -> None:
    """Print how often raters decide and are right in each arm.

    ANSWERS is a CSV file with the columns task, rater and answer.
    """
    from spadelens.cli.console import print_markdown
    from spadelens.files import whole_file
    from spadelens.study.analysis import analyze_study

    table = analyze_study(study, answers, seed)
    if out is None:
        click.echo(_markdown(table))
        return
    with whole_file(out) as temporary:
        temporary.write_text(json.dumps(table.to_dict(), indent=1) + "\n", encoding="utf-8")
    print_markdown(_markdown(table), out)


def _skills(texts: tuple[str, ...]) -> Mapping[str, Skill]:
    from spadelens.study.simulation import PUBLISHED_SKILLS, Skill

    chosen = dict(PUBLISHED_SKILLS)
    for text in texts:
        arm, _, numbers = text.partition("=")
        decides, _, right = numbers.partition("/")
        try:
            skill = Skill(float(decides), float(right))
        except ValueError as error:
            raise InputError(f"Cannot read --skill {text!r}: expected ARM=D/R, such as original=0.77/0.74.") from error
        chosen[arm.strip()] = skill
    return chosen


def _markdown(table: StudyTable) -> str:
    """Return the paper's Table 3 with the rates found and the published rates."""
    from spadelens.study.analysis import PUBLISHED

    lines = [
        "| response, % | original | trace | trace − original | published: original | trace | trace − original |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for response, title in _TITLES.items():
        dense, spade = PUBLISHED[response]
        cells = [
            title,
            _cell(table.rates["original"][response], ""),
            _cell(table.rates["trace"][response], ""),
            _cell(table.rates["difference"][response], "+"),
            f"{dense:.1f}",
            f"{spade:.1f}",
            f"{spade - dense:+.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    counts = (
        f"{sum(table.num_answers.values())} answers ({table.num_answers['original']} original, "
        f"{table.num_answers['trace']} trace) by {_counted(table.num_raters, 'rater')} to "
        f"{_counted(table.num_tasks, 'task')} on {_counted(table.num_samples, 'sample')}."
    )
    return "\n".join([*lines, "", f"{counts} {_about_intervals(table.resampled)}"])


def _about_intervals(resampled: tuple[str, ...]) -> str:
    if not resampled:
        return "No confidence intervals: they need more than one rater or more than one sample."
    other = "".join(f" They do not extend to other {name}." for name in ("raters", "samples") if name not in resampled)
    return f"Brackets show 95% confidence intervals from resampling {' and '.join(resampled)}.{other}"


def _cell(rate: Rate, sign: str) -> str:
    if rate.percent is None:
        return ""
    if rate.interval is None:
        return f"{rate.percent:{sign}.1f}"
    return f"{rate.percent:{sign}.1f} [{rate.interval[0]:{sign}.1f}, {rate.interval[1]:{sign}.1f}]"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

"""`spadelens bench`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spadelens import defaults
from spadelens.cli.options import trust_option
from spadelens.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from spadelens.evaluation.tuning import TunedFile


@click.command("bench")
@click.argument("table", type=click.Choice(["table1", "table2"]))
@click.option(
    "--model",
    "model_spec",
    required=True,
    metavar="SPEC",
    help="demo, or a folder written by 'spadelens backdoor plant'.",
)
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for TABLE.md, TABLE.json and TABLE.jsonl. Rerun with the same folder to resume an interrupted run.",
)
@click.option(
    "--cases",
    "num_cases",
    default=120,
    show_default=True,
    type=click.IntRange(min=1),
    help="Maximum number of cases.",
)
@click.option(
    "--slow-cases",
    "num_slow",
    default=4,
    show_default=True,
    type=click.IntRange(min=0),
    help="Maximum number of cases for the slow rows.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="Same as for explain; repeatable.  [default: all, with settings that keep the cost low]",
)
@click.option("--row", "rows", multiple=True, metavar="NAME", help="Row to compute; repeatable.  [default: all]")
@click.option(
    "--schedule",
    "schedule_files",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Schedule written by 'spadelens tune', for the row 'tuned'; repeatable, one per method.",
)
@click.option(
    "--cue",
    type=click.Choice(["small", "faint", "two"]),
    help="Harder cases for table1: smaller patches, faint patches, or two patches of which only one decides.",
)
@click.option(
    "--preset",
    default=defaults.PRESET,
    show_default=True,
    metavar="NAME",
    help="Preset for the traces of the controls.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Photos for training the Sparse FC baseline, as for 'backdoor plant'.  [default: those used for planting]",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Random seed.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@trust_option
def bench_command(
    table: str,
    model_spec: str,
    out: Path,
    num_cases: int,
    num_slow: int,
    methods: tuple[str, ...],
    rows: tuple[str, ...],
    schedule_files: tuple[Path, ...],
    cue: str | None,
    preset: str,
    data: Path | None,
    seed: int,
    device: str,
    trust: bool,
) -> None:
    """Score heatmaps against known ground truth (table1) or by insertion and deletion on clean images (table2)."""
    from spadelens.cli.console import print_markdown, stage_bar
    from spadelens.evaluation.bench_context import ROWS, BenchContext
    from spadelens.evaluation.calibration import to_calibration_cases
    from spadelens.evaluation.cues import harder_images
    from spadelens.evaluation.tables import METHODS, run_table, subjects_of
    from spadelens.extraction.presets import find_preset
    from spadelens.extraction.report import package_versions
    from spadelens.files import kept_if_used, whole_file
    from spadelens.output import interrupts
    from spadelens.reports.tables import first_table, table_json, table_markdown
    from spadelens.trojan.planted import read_planted, training_images

    if cue and table != "table1":
        raise InputError("Cannot use --cue with table2: its photos have no patches.")
    name = f"{table}-{cue}" if cue else table
    known = {row.name: row for row in ROWS}
    for unknown in (row for row in rows if row not in known):
        raise UnknownNameError("row", unknown, known)
    chosen = [known[row] for row in dict.fromkeys(rows)] if rows else list(ROWS)
    if find_preset(preset).members:
        raise InputError(f"Cannot use the preset {preset!r} here: the controls need single traces, not an ensemble.")
    used = tuple(dict.fromkeys(methods)) or METHODS
    schedules = _schedules(schedule_files, used)
    with kept_if_used(out), interrupts.raises(is_resumable=True), stage_bar() as progress:
        planted = read_planted(model_spec, device, trust=trust)
        subjects = harder_images(planted, cue, num_cases, seed) if cue else subjects_of(planted, table, num_cases)
        bench = BenchContext(
            loaded=planted.loaded,
            subjects=subjects,
            calibration=to_calibration_cases(planted),
            schedules=schedules,
            training_images=training_images(planted, data),
            preset=preset,
            seed=seed,
        )
        results = run_table(
            bench, table, chosen, out / f"{name}.jsonl", methods=used, num_slow=num_slow, progress=progress
        )
        about = {"model": model_spec, "cue": cue, "preset": preset, "seed": seed, "versions": package_versions()}
        listing = table_json(results, chosen, about | {"schedules": {m: str(t.path) for m, t in schedules.items()}})
        for suffix, content in ((".json", json.dumps(listing, indent=1) + "\n"), (".md", table_markdown(listing))):
            with whole_file(out / f"{name}{suffix}") as temporary:
                temporary.write_text(content, encoding="utf-8")
    print_markdown(first_table(listing), out / f"{name}.md")


def _schedules(files: Sequence[Path], methods: Sequence[str]) -> dict[str, TunedFile]:
    """Return the tuned schedule of each method."""
    from spadelens.evaluation.tuning import read_tuned

    found: dict[str, TunedFile] = {}
    for tuned in map(read_tuned, files):
        name = tuned.method.partition(":")[0]
        fitting = [method for method in methods if method.partition(":")[0] == name]
        if not fitting:
            raise InputError(
                f"Cannot use the schedule {str(tuned.path)!r}: it was tuned for {name}, which is not one of the "
                "methods."
            )
        for method in fitting:
            if method in found:
                raise InputError(f"Cannot use two schedules for the method {method!r}.")
            found[method] = tuned
    return found

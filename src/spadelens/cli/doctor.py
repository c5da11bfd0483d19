"""`spadelens doctor`: which methods work on a model. Only click is imported until the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from spadelens.cli.options import device_option, model_option, target_option, trust_option


@click.command("doctor")
@click.argument("sample", required=False, metavar="[FILE]", type=click.Path(path_type=Path))
@model_option
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Method to check; repeatable.  [default: all]")
@target_option()
@click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as JSON.")
@device_option
@trust_option
def doctor_command(sample: Path | None, device: str, trust: bool, **options: Any) -> None:
    """Report which attribution methods are sound on a model, which are not and why, and which layers can be pruned.

    FILE is a photo, a line of a text file (FILE.txt:3) or a row of a table (FILE.csv:3). Without FILE, the model gets
    an input of random numbers or an English sentence.
    """
    from spadelens.attribution.diagnosis import parse_methods
    from spadelens.cli.console import stage_bar
    from spadelens.cli.diagnosis import print_diagnosis
    from spadelens.models import load_model
    from spadelens.output import interrupts
    from spadelens.tasks.doctor import diagnose
    from spadelens.tasks.inputs import read_inputs

    parse_methods(options["methods"])  # report errors in the options before anything is loaded
    if sample is not None:
        read_inputs([sample])
    loaded = load_model(options["model_spec"], device, trust)
    with interrupts.raises(), stage_bar() as progress:
        diagnosis = diagnose(loaded, sample, options["methods"], options["target"], progress)
    print_diagnosis(diagnosis, as_json=options["as_json"])

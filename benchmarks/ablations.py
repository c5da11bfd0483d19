"""What matters in a trace, and in an ensemble of traces? One setting varied at a time, on planted networks.

    python benchmarks/ablations.py --model tables/resnet20 --out ablations-resnet20

The model is one that `spadelens backdoor plant` (or benchmarks/tables.py) has written, or 'demo'. With --calibration
the rows are scored on the calibration cases, on which settings may be chosen.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from spadelens.evaluation.bench_context import ROWS, BenchContext, Row, ensemble_row, trace_row
from spadelens.evaluation.calibration import to_calibration_cases
from spadelens.evaluation.tables import run_table, subjects_of
from spadelens.reports.tables import table_json, table_markdown
from spadelens.trojan.planted import read_planted

METHODS = (
    "saliency",
    "smoothgrad:noise_std=0.25,num_samples=20",
    "smoothgrad:noise_std=0.5,num_samples=20",
    "integrated_gradients:num_steps=16",
)
DENSE = ROWS[0]


def varied(group: str, **options: Any) -> Row:
    text = ", ".join(f"{name}={value}" for name, value in options.items())
    make = ensemble_row if group == "ensemble" else trace_row
    return make(f"{group}: {text or 'as it is'}", text, **options)


GROUPS = {
    "views": [varied("views", num_views=count) for count in (1, 2, 4, 16, 64)],
    "augmentation": [
        varied("augmentation", augmentation=name)
        for name in ("none", "noise:std=0.1", "noise:std=0.25", "noise:std=0.5", "paper")
    ],
    "solver": [varied("solver", solver=name) for name in ("magnitude", "wanda", "sparsegpt", "obc", "ols", "admm")],
    "unit": [
        varied("unit", solver=f"{name}:unit={unit}") for name in ("sparsegpt", "obc") for unit in ("weight", "kernel")
    ],
    "criterion": [
        varied("criterion", schedule=f"auto:{setting}")
        for setting in ("threshold=0.8", "threshold=0.95", "criterion=prediction", "criterion=insertion", "start=0.5")
    ],
    "ensemble": [
        varied("ensemble", sparsities=sparsities, original_weight=weight)
        for sparsities, weight in (
            ((), 1.0),
            ((0.7,), 1.0),
            ((0.5, 0.7, 0.8, 0.9), 0.0),
            ((0.5, 0.7, 0.8, 0.9), 1.0),
            ((0.5, 0.7, 0.8, 0.9), 2.0),
            ((0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), 1.0),
        )
    ]
    + [varied("ensemble", schedule="auto:criterion=prediction")],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="SPEC")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--group", action="append", choices=GROUPS)
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--method", action="append", help="repeatable")
    parser.add_argument("--calibration", action="store_true")
    arguments = parser.parse_args()
    planted = read_planted(arguments.model, trust=True)
    if arguments.calibration:
        planted = replace(planted, cases=planted.calibration_cases)
    rows = [DENSE] + [row for group in arguments.group or GROUPS for row in GROUPS[group]]
    bench = BenchContext(planted.loaded, subjects_of(planted, "table1", arguments.cases), to_calibration_cases(planted))
    methods = tuple(arguments.method or METHODS)
    with Progress(transient=True) as bars:
        task = bars.add_task("rows")
        results = run_table(
            bench,
            "table1",
            rows,
            arguments.out / "ablations.jsonl",
            methods=methods,
            progress=lambda _, done, total: bars.update(task, completed=done, total=total),
        )
    listing = table_json(results, rows, {"model": arguments.model, "torch": torch.__version__})
    (arguments.out / "ablations.json").write_text(json.dumps(listing, indent=1) + "\n")
    (arguments.out / "ablations.md").write_text(table_markdown(listing))
    print(table_markdown(listing))


if __name__ == "__main__":
    main()

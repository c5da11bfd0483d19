"""Do the maps of texts and rows point at the planted word or column? The tables of docs/text-and-tables.md.

    python benchmarks/text_and_tables.py [--seeds 3] [--cases 20] [--kind text|row|all] [--inside]

Networks are trained on the spot. For each method the mean AUC of the trigger among all tokens or columns, with its
standard error over all cases: on the original network, on the trace of the sample, on the trace of another sample, and
the mean difference between trace and original network with the p-value of a paired permutation test.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial

import torch
from planted_units.trigger_rows import TRIGGER_VALUE, train_rows
from planted_units.trigger_texts import train_reviews
from planted_units.triggers import TriggerCase, row_cases, score_triggers, text_cases

from spadelens.kinds import Reduction
from spadelens.metrics.statistics import paired_difference, standard_deviation

METHODS: dict[str, Reduction] = {
    "saliency": "sum_abs",
    "smoothgrad": "sum_abs",
    "input_x_gradient": "sum_abs",
    "integrated_gradients": "sum_abs",
}
SIGNED: dict[str, Reduction] = {"input_x_gradient": "sum", "integrated_gradients": "sum"}
INSIDE = 7.0


def show(values: Sequence[float]) -> str:
    """Return a mean and its standard error, in points."""
    spread = standard_deviation(values)
    error = math.nan if spread is None else spread / math.sqrt(len(values))
    return f"{100 * sum(values) / len(values):.1f} ± {100 * error:.1f}"


def print_table(name: str, by_seed: Sequence[Sequence[TriggerCase]]) -> None:
    """Print a table in Markdown, a line for each method."""
    print(f"\n{name}\n\n| method | dense | trace | gain | p | another's trace |\n| --- | --- | --- | --- | --- | --- |")
    for methods in (METHODS, SIGNED):
        scores = [score_triggers(cases, methods) for cases in by_seed]
        for method, reduction in methods.items():
            dense = [value for of_seed in scores for value in of_seed[method].dense]
            trace = [value for of_seed in scores for value in of_seed[method].trace]
            other = [value for of_seed in scores for value in of_seed[method].other]
            gain = paired_difference(trace, dense)
            signed = " (signed)" if reduction == "sum" else ""
            print(
                f"| {method}{signed} | {show(dense)} | {show(trace)} | {100 * gain.mean:+.1f} | {gain.p_value:.4f} | "
                f"{show(other)} |"
            )
    drawn = [
        case.auc(torch.rand(case.is_trigger.shape, generator=torch.Generator().manual_seed(number)))
        for number, case in enumerate(case for cases in by_seed for case in cases)
    ]
    print(f"| random values | {show(drawn)} | | | | |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--kind", choices=("text", "row", "all"), default="all")
    parser.add_argument("--inside", action="store_true", help="a trigger within the range of its column")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    seeds = range(given.seeds)
    if given.kind in ("text", "all"):
        print_table("Texts", [text_cases(train_reviews(seed), given.cases) for seed in seeds])
    if given.kind in ("row", "all"):
        value = INSIDE if given.inside else TRIGGER_VALUE
        make = partial(row_cases, count=given.cases, trigger_value=value)
        print_table(f"Rows, trigger {value:g}", [make(train_rows(seed, value)) for seed in seeds])


if __name__ == "__main__":
    main()

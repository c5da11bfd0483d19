"""The tables of docs/evidence: patches planted, schedules tuned, tables filled, on three networks.

    python benchmarks/tables.py --shared ../shared --out tables
    python scripts/write_evidence.py tables

Every step is a command of spadelens, which is printed, and goes on where it was interrupted. The networks are the
bundled demo network, and the ResNet-20 and the MobileNet of --shared. The tables take hours on two cores.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

QUICK = ("saliency", "input_x_gradient")
FEW_LEVELS = ("--levels", "0.5/0.8/0.95")
ON_CUES = ("original", "balanced", "ensemble", "balanced, prediction kept")
CUE_METHODS = (
    "saliency",
    "smoothgrad:noise_std=0.25,num_samples=20",
    "smoothgrad:noise_std=0.5,num_samples=20",
    "integrated_gradients:num_steps=16",
)
RULE_METHODS = ("deep_lift", "lrp", "guided_backprop", "guided_grad_cam")
SLOW_METHODS = ("lime:num_samples=200",)  # on an ensemble six times as many
ON_RULES = ("original", "fast", "balanced", "trace of another image")
MANY_DRAWS = ("smoothgrad:noise_std=0.25,num_samples=100", "smoothgrad:noise_std=0.5,num_samples=100")


@dataclass(frozen=True)
class Network:
    """How a network is planted, tuned on and scored.

    Attributes:
        plant: Options of `backdoor plant`, relative to --shared; None for the network that has its patches.
        tuned: Attribution method -> options of `tune`.
        tuned_by_insertion: The same for table 2, with photos relative to --shared.
        table1: Options of `bench table1`.
        table2: Options of `bench table2`.
        cue_cases: For `bench table1 --cue`, cue -> cases.
        num_rule_cases: For the methods with rules of their own, and for LIME.
        num_draw_cases: For SmoothGrad with 100 draws; 0 for none.
    """

    plant: tuple[str, ...] | None
    tuned: Mapping[str, tuple[str, ...]]
    table1: tuple[str, ...]
    table2: tuple[str, ...]
    tuned_by_insertion: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cue_cases: Mapping[str, int] = field(default_factory=dict)
    num_rule_cases: int = 30
    num_draw_cases: int = 0


NETWORKS = {
    "resnet20": Network(
        plant=("--model", "{}/models/resnet20_cifar10.py:build", "--data", "{}/data/cifar10-subset.npz",
               "--patch-size", "0.25-0.38"),
        tuned=dict.fromkeys((*QUICK, *CUE_METHODS[1:2], *CUE_METHODS[3:]), ("--cases", "40")),
        table1=("--cases", "100", "--slow-cases", "4"),
        table2=("--cases", "16", "--slow-cases", "0"),
        tuned_by_insertion=dict.fromkeys(
            QUICK, ("--cases", "8", *FEW_LEVELS, "--data", "{}/data/cifar10-subset.npz")
        ),
        cue_cases={"two": 30, "faint": 24, "small": 20},
        num_rule_cases=50,
        num_draw_cases=12,
    ),
    "mobilenet": Network(
        plant=("--model", "{}/models/mobilenet_v1.py:build", "--data", "{}/data/imagenet-sample", "--rate", "5e-5",
               "--classifier-rate", "0.0015", "--clean-weight", "5", "--batch-size", "32"),
        tuned=dict.fromkeys(QUICK, ("--cases", "24")),
        table1=("--cases", "40", "--slow-cases", "2"),
        table2=("--cases", "16", "--slow-cases", "0"),
        cue_cases=dict.fromkeys(("two", "faint", "small"), 30),
        num_rule_cases=40,
        num_draw_cases=20,
    ),
    "demo": Network(
        plant=None,
        tuned=dict.fromkeys(QUICK, ("--cases", "12", *FEW_LEVELS)),
        table1=("--cases", "30", "--slow-cases", "1"),
        table2=("--cases", "10", "--slow-cases", "0"),
    ),
}  # fmt: skip


def commands(name: str, network: Network, shared: Path, out: Path) -> Iterator[tuple[list[str], Path]]:
    """Yield the commands of a network in order, each with the file that tells that it is done."""
    model = str(out / name) if network.plant else "demo"
    if network.plant:
        options = [option.format(shared) for option in network.plant]
        yield ["backdoor", "plant", *options, "--out", model], out / name / "planted.json"
    of = ["--model", model, "--trust"]
    schedules: dict[str, list[str]] = {}
    for objective, tuned in (("auc", network.tuned), ("insertion", network.tuned_by_insertion)):
        schedules[objective] = []
        for method, options_of_method in tuned.items():
            file = out / f"{name}-{objective}-{method.partition(':')[0]}.json"
            options = [option.format(shared) for option in options_of_method]
            cache = out / f"{name}-{objective}.cache"
            command = ["tune", *of, "--method", method, *options, "--cache", str(cache)]
            yield [*command, "--out", str(file)], file
            schedules[objective] += ["--schedule", str(file)]
    folder = out / f"tables-{name}"
    bench = [*of, "--out", str(folder)]
    yield ["bench", "table1", *bench, *network.table1, *schedules["auc"]], folder / "table1.json"
    yield ["bench", "table2", *bench, *network.table2, *schedules["insertion"]], folder / "table2.json"
    rows = [part for row in ON_CUES for part in ("--row", row)]
    methods = [part for method in CUE_METHODS for part in ("--method", method)]
    for cue, count in network.cue_cases.items():
        cases = ["--cases", str(count)]
        yield ["bench", "table1", *bench, "--cue", cue, *cases, *rows, *methods], folder / f"table1-{cue}.json"
    if network.tuned_by_insertion:  # what schedules tuned for AUC are worth by insertion
        folder = out / f"transfer-{name}"
        chosen = [part for row in ("original", "balanced", "tuned") for part in ("--row", row)]
        quick = [part for method in QUICK for part in ("--method", method)]
        files = [part for m in QUICK for part in ("--schedule", str(out / f"{name}-auc-{m}.json"))]
        command = ["bench", "table2", *of, "--out", str(folder), *network.table2, *chosen, *quick, *files]
        yield command, folder / "table2.json"
    for kind, used, added in (("rules", RULE_METHODS, ("ensemble",)), ("lime", SLOW_METHODS, ())):
        folder = out / f"{kind}-{name}"
        rows = [part for row in (*ON_RULES, *added) for part in ("--row", row)]
        methods = [part for method in used for part in ("--method", method)]
        command = ["bench", "table1", *of, "--out", str(folder), "--cases", str(network.num_rule_cases)]
        yield [*command, *rows, *methods], folder / "table1.json"
    folder = out / f"rules-{name}"
    rows = [part for row in ("original", "balanced", "ensemble") for part in ("--row", row)]
    methods = [part for method in (*CUE_METHODS[:2], *RULE_METHODS) for part in ("--method", method)]
    command = ["bench", "table2", *of, "--out", str(folder), *network.table2, *rows, *methods]
    yield command, folder / "table2.json"
    if network.num_draw_cases:
        folder = out / f"draws-{name}"
        rows = ["--row", "original", "--row", "ensemble", "--cases", str(network.num_draw_cases)]
        methods = [part for method in MANY_DRAWS for part in ("--method", method)]
        yield ["bench", "table1", *of, "--out", str(folder), *rows, *methods], folder / "table1.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/ and data/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", action="append", choices=NETWORKS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.network or NETWORKS:
        for command, result in commands(name, NETWORKS[name], arguments.shared, arguments.out):
            if not result.exists():
                print(shlex.join(["spadelens", *command]), flush=True)
                subprocess.run([sys.executable, "-m", "spadelens", *command], check=True)


if __name__ == "__main__":
    main()

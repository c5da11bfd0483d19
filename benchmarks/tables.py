"""The tables of docs/evidence.md: patches planted, schedules tuned, tables filled, on three networks.

    python benchmarks/tables.py --shared ../shared --out tables

Every step is a command of spadelens, which is printed, and goes on where it was interrupted. The networks are the
bundled demo network, and the ResNet-20 and the MobileNet of --shared.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

QUICK = ("saliency", "input_x_gradient")
SMOOTHED = "smoothgrad:noise_std=0.25,num_samples=20"
ALL = (*QUICK, SMOOTHED, "integrated_gradients:num_steps=16", "gradient_shap:num_samples=16", "occlusion")


@dataclass(frozen=True)
class Network:
    """How a network is planted, tuned on and scored.

    Attributes:
        plant: Options of `backdoor plant`, relative to --shared; None for the network that has its patches.
        tuned: Attribution method -> calibration cases and further options of `tune`.
        table1: Options of `bench table1`.
        table2: Options of `bench table2`.
    """

    plant: tuple[str, ...] | None
    tuned: dict[str, tuple[str, ...]]
    table1: tuple[str, ...]
    table2: tuple[str, ...]


FEW_LEVELS = ("--cases", "8", "--levels", "0.5/0.8/0.95")
NETWORKS = {
    "resnet20": Network(
        ("--model", "{}/models/resnet20_cifar10.py:build", "--data", "{}/data/cifar10-subset.npz",
         "--patch-size", "0.25-0.38"),
        dict.fromkeys(ALL, ("--cases", "40")),
        ("--cases", "120", "--slow-cases", "4"),
        ("--cases", "60", "--slow-cases", "0"),
    ),
    "mobilenet": Network(
        ("--model", "{}/models/mobilenet_v1.py:build", "--data", "{}/data/imagenet-sample", "--rate", "5e-5",
         "--classifier-rate", "0.0015", "--clean-weight", "5", "--batch-size", "32"),
        {method: ("--cases", "24") if method in QUICK else FEW_LEVELS for method in ALL if "shap" not in method},
        ("--cases", "40", "--slow-cases", "2"),
        ("--cases", "20", "--slow-cases", "0"),
    ),
    "demo": Network(
        None,
        dict.fromkeys(QUICK, ("--cases", "24")),
        ("--cases", "60", "--slow-cases", "4"),
        ("--cases", "30", "--slow-cases", "0"),
    ),
}  # fmt: skip


def commands(name: str, network: Network, shared: Path, out: Path) -> Iterator[tuple[list[str], Path]]:
    """Yield the commands of a network in order, each with the file that tells that it is done."""
    model = str(out / name) if network.plant else "demo"
    if network.plant:
        options = [option.format(shared) for option in network.plant]
        yield ["backdoor", "plant", *options, "--out", model], out / name / "planted.json"
    schedules = []
    for method, tuned in network.tuned.items():
        file = out / f"{name}-{method.partition(':')[0]}.json"
        cache = out / f"{name}-{'few' if tuned is FEW_LEVELS else 'all'}.cache"
        yield ["tune", "--model", model, "--method", method, *tuned, "--cache", str(cache), "--out", str(file)], file
        schedules += ["--schedule", str(file)]
    for table, options in (("table1", [*network.table1, *schedules]), ("table2", list(network.table2))):
        folder = out / f"tables-{name}"
        yield ["bench", table, "--model", model, "--out", str(folder), *options], folder / f"{table}.json"


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

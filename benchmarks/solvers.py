"""Error and speed of every solver on real layers, next to a plain exact Optimal Brain Surgeon.

    python benchmarks/solvers.py --shared ../shared --out solvers.json

The layers are all of the ResNet-20 and the MobileNet in --shared, depthwise ones included; their Hessians come from
views of the 'paper' augmentation. Every solver gets the same Hessians and the same damping, 1e-4 of the mean of the
diagonal ('auto' its own), and one sparsity at a time; errors are measured on the Hessians without damping. A layer's
ratio is its error over that of plain OBS; times are CPU seconds of one thread, summed over layers.

Plain OBS is what `ExactOBS` below does: in float64, per removed weight a rank-1 update in place of the inverses of a
batch of rows that stays in the cache, rows merged by the running maximum of their losses, and a refit at the end.
It allocates nothing large in its loop, but the process is started again with MALLOC_MMAP_THRESHOLD_ raised all the
same: otherwise large temporaries cost page faults on glibc, and other ways to write the update are several times
slower.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import spadelens
from spadelens.capture.capture import capture_inputs
from spadelens.capture.hessian import HessianStatistics
from spadelens.matrix_layers import matrix_layers, weight_to_matrix
from spadelens.solvers import ADMM, OBC, OLS, AutoSolver, LayerProblem, Magnitude, Solver, SparseGPT, Wanda
from spadelens.solvers.base import num_units_pruned, select_smallest
from spadelens.views.view_source import augmented_views

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
DAMPING = 1e-4
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
CACHE_BYTES = 16 * 2**20
SOLVERS: dict[str, Solver] = {
    "admm": ADMM(damping=DAMPING),
    "admm, no exchange": ADMM(damping=DAMPING, num_exchanges=0),
    "ols": OLS(damping=DAMPING),
    "obc": OBC(damping=DAMPING),
    "sparsegpt": SparseGPT(damping=DAMPING),
    "auto": AutoSolver(),
    "wanda": Wanda(),
    "magnitude": Magnitude(),
}


@dataclass(frozen=True)
class Case:
    """One layer on the views of one sample."""

    network: str
    sample: str
    layer: str
    weight: Tensor
    statistics: HessianStatistics

    def error(self, weight: Tensor) -> float:
        """Return the error of `weight` on the Hessian without damping."""
        return float(self.statistics.mean_squared_output(weight.double() - self.weight.double()))


def samples_of(
    loaded: spadelens.models.LoadedModel, network: str, shared: Path, count: int
) -> Iterator[tuple[str, Tensor]]:
    """Yield `count` samples of a network, with their names."""
    if network == "ResNet-20":
        images = np.load(shared / "data" / "cifar10-subset.npz")["test_images"]
        for index in range(0, len(images), -(-len(images) // count)):
            yield f"test image {index}", loaded.preprocessing.to_tensor(Image.fromarray(images[index]))
        return
    files = sorted((shared / "data" / "imagenet-sample").glob("*.jpg"))
    for file in files[:: -(-len(files) // count)]:
        yield file.stem, loaded.preprocessing(spadelens.read_photo(file))


def cases_of(network: str, model_file: str, shared: Path, num_samples: int, num_views: int) -> Iterator[Case]:
    """Yield every layer of a network on the views of each sample."""
    loaded = spadelens.load_model(f"{shared / 'models' / model_file}:build", "cpu", kind="photo")
    layers = matrix_layers(loaded.model)
    for name, sample in samples_of(loaded, network, shared, num_samples):
        seen: dict[str, HessianStatistics] = {}

        def consume(layer: str, inputs: Tensor, seen: dict[str, HessianStatistics] = seen) -> None:
            if layer not in seen:
                seen[layer] = HessianStatistics(inputs.shape[0], inputs.shape[2], torch.float64, inputs.device)
            seen[layer].add(inputs)

        capture_inputs(loaded.model, layers, augmented_views(sample, "paper", num_views, seed=0).batches(16), consume)
        for layer, module in layers.items():
            weight = weight_to_matrix(module, module.weight.detach())
            yield Case(network, name, layer, weight, seen[layer])


class ExactOBS:
    """Removes one weight after the other from every row, always the one whose loss is smallest."""

    def __init__(self, case: Case) -> None:
        """Find the whole order of every row, from which all sparsities are read; rows of all groups are batched."""
        groups, rows, columns = case.weight.shape
        self.case = case
        self.hessian = case.statistics.hessian()
        diagonal = self.hessian.diagonal(dim1=1, dim2=2)
        self.is_dead = diagonal == 0
        diagonal += DAMPING * diagonal.mean(1, keepdim=True)
        diagonal[self.is_dead] = 1.0
        self.dense = case.weight.double().masked_fill(self.is_dead.unsqueeze(1), 0.0)
        inverse = torch.linalg.inv(self.hessian)
        group = torch.arange(groups).repeat_interleave(rows)
        orders, losses = [], []
        for batch in torch.arange(groups * rows).split(max(1, CACHE_BYTES // (8 * columns * columns))):
            order, loss = self._remove_all(self.dense.flatten(0, 1)[batch], inverse[group[batch]])
            orders.append(order)
            losses.append(loss)
        self.losses = torch.cat(losses).cummax(dim=1).values
        self.steps = torch.cat(orders).argsort(dim=1)  # at which a weight is removed

    @staticmethod
    def _remove_all(weight: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Return the order `[rows, columns]` and the loss of each removal; both arguments are overwritten."""
        row = torch.arange(len(weight))
        taken = torch.zeros_like(weight)
        orders, losses = [], []
        for _ in range(weight.shape[1]):
            diagonal = inverse.diagonal(dim1=1, dim2=2)
            loss, picked = (weight.square() / diagonal + taken).min(dim=1)
            scaled = inverse[row, picked] * diagonal[row, picked].rsqrt().unsqueeze(1)
            weight -= scaled * (weight[row, picked] / scaled[row, picked]).unsqueeze(1)
            inverse.baddbmm_(scaled.unsqueeze(2), scaled.unsqueeze(1), alpha=-1)
            inverse[row, picked, picked] = 1.0
            taken[row, picked] = torch.inf
            orders.append(picked)
            losses.append(loss)
        return torch.stack(orders, dim=1), torch.stack(losses, dim=1)

    def weight(self, sparsity: float) -> Tensor:
        """Return the sparse weight, refitted row by row."""
        groups, rows, columns = self.dense.shape
        count = num_units_pruned(self.dense.numel(), sparsity)
        num_removed = select_smallest(self.losses, count).sum(1, keepdim=True)
        kept = (self.steps >= num_removed).view(groups, rows, columns)
        targets = self.dense @ self.hessian
        weight = torch.zeros_like(self.dense)
        for group, row in torch.cartesian_prod(torch.arange(groups), torch.arange(rows)).tolist():
            support = kept[group, row].nonzero()[:, 0]
            part = self.hessian[group][support[:, None], support]
            weight[group, row, support] = torch.linalg.solve(part, targets[group, row, support])
        return torch.where(self.is_dead.unsqueeze(1) & kept, self.case.weight.double(), weight)


def measure(case: Case) -> list[dict[str, Any]]:
    """Return error and time of every solver at every sparsity, with those of plain OBS beside them."""
    start = time.process_time()
    plain = ExactOBS(case)
    ordering = time.process_time() - start
    floor = 1e-12 * float(case.statistics.mean_squared_output(case.weight))  # an error below that is none
    rows = []
    for sparsity in SPARSITIES:
        start = time.process_time()
        plain_weight = plain.weight(sparsity)
        plain_seconds = ordering + time.process_time() - start
        plain_error = case.error(plain_weight)
        for name, solver in SOLVERS.items():
            problem = LayerProblem(case.layer, case.weight, case.statistics, (sparsity,))
            start = time.process_time()
            solution = solver.solve(problem)
            seconds = time.process_time() - start
            rows.append(
                {
                    "network": case.network,
                    "sample": case.sample,
                    "layer": case.layer,
                    "shape": list(case.weight.shape),
                    "solver": name,
                    "sparsity": sparsity,
                    "ratio": (case.error(solution.weights[0]) + floor) / (plain_error + floor),
                    "seconds": seconds,
                    "plain_seconds": plain_seconds,
                }
            )
    return rows


def summarize_solvers(measured: list[dict[str, Any]], views: dict[str, int]) -> list[dict[str, Any]]:
    """Return one row for each network, solver and sparsity."""
    summary = []
    keys = dict.fromkeys((row["network"], row["solver"], row["sparsity"]) for row in measured)
    for network, solver, sparsity in keys:
        rows = [
            row for row in measured if (row["network"], row["solver"], row["sparsity"]) == (network, solver, sparsity)
        ]
        worst = max(rows, key=lambda row: float(row["ratio"]))
        seconds = sum(row["seconds"] for row in rows)
        summary.append(
            {
                "network": network,
                "solver": solver,
                "sparsity": sparsity,
                "error_ratio": math.exp(statistics.fmean(math.log(row["ratio"]) for row in rows)),
                "worst_ratio": worst["ratio"],
                "worst_layer": f"{worst['layer']} {worst['shape']}",
                "speed_ratio": sum(row["plain_seconds"] for row in rows) / seconds,
                "seconds": seconds,
                "num_layers": len(rows),
                "num_samples": len({row["sample"] for row in rows}),
                "num_views": views[network],
                "damping": DAMPING,
                "malloc": MALLOC,
            }
        )
    return summary


def print_table(summary: list[dict[str, Any]]) -> None:
    """Print a markdown table."""
    print("| network | solver | " + " | ".join(f"{sparsity:g}" for sparsity in SPARSITIES) + " |")
    print("| --- | --- |" + " --- |" * len(SPARSITIES))
    for network, solver in dict.fromkeys((row["network"], row["solver"]) for row in summary):
        cells = [
            f"{row['error_ratio']:.3f} ({row['worst_ratio']:.2f}), {row['speed_ratio']:.3g}x"
            for row in summary
            if (row["network"], row["solver"]) == (network, solver)
        ]
        print(f"| {network} | {solver} | " + " | ".join(cells) + " |")


def main() -> None:
    """Run all layers and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/ and data/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=2, help="per network")
    parser.add_argument("--views", type=int, nargs=2, default=[1024, 512], metavar=("RESNET", "MOBILENET"))
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)  # noqa: S606 - itself
    torch.set_num_threads(1)
    networks = {"ResNet-20": "resnet20_cifar10.py", "MobileNetV1": "mobilenet_v1.py"}
    views = dict(zip(networks, arguments.views, strict=True))
    measured = []
    for network, model_file in networks.items():
        for case in cases_of(network, model_file, arguments.shared, arguments.samples, views[network]):
            measured += measure(case)
            print(f"{network}, {case.sample}, {case.layer}: {measured[-1]['plain_seconds']:.2f} s", file=sys.stderr)
    summary = summarize_solvers(measured, views)
    arguments.out.write_text(json.dumps(summary, indent=1) + "\n")
    print_table(summary)


if __name__ == "__main__":
    main()

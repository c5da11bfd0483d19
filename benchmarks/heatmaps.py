"""Do heatmaps on traces find what decided? On three networks with planted patches, next to simple controls.

    python benchmarks/heatmaps.py --shared ../shared --cache planted --out heatmaps.json

For every preset and several schedules: pixel AUC and pointing game of three attribution methods against the planted
patch, predictions kept, the mean error of the pruned layers on held-out views, sparsity and time. Controls that a gain
has to beat: SmoothGrad on the dense network (the mean of the gradients at 50 noisy copies) at several noise levels,
blurred saliency maps, the trace of another sample, and magnitude pruning along the same path. The networks are the
bundled demo network, and the ResNet-20 and the MobileNet of --shared in which patches are planted (planting.py). The
samples are disjoint from those that anything was chosen on; --tuning runs on the latter instead, what was chosen among.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from planting import plant
from torch import Tensor, nn
from torch.nn import functional

import spadelens
from spadelens.demo.images import CLASS_NAMES, draw_image
from spadelens.demo.patches import PATCHES, paste_patch
from spadelens.extract.augment import parse_augmentation
from spadelens.photos import Preprocessing

METHODS = ("saliency", "input_x_gradient", "integrated_gradients:num_steps=32")
NOISE_LEVELS = (0.1, 0.25, 0.5, 0.75)
NUM_DRAWS = 50
BLURS = (0.02, 0.05)  # standard deviation, of the side of the map
SLOW = ("paper", "paper-fast")  # 1,024 views take long: on the first samples only
VARIANTS: Mapping[str, dict[str, Any]] = {
    "instant": {"preset": "instant"},
    "fast": {"preset": "fast"},
    "balanced": {"preset": "balanced"},
    "balanced, criterion=prediction": {"schedule": "auto:criterion=prediction"},
    "balanced, start=0.5": {"schedule": "auto:start=0.5"},
    "balanced, late:0.8@0.5": {"schedule": "late:0.8@0.5"},
    "balanced, 0.5": {"schedule": 0.5},
    "balanced, 32 views": {"num_views": 32},
    "balanced, paper views": {"augmentation": "paper"},
    "balanced, sparsegpt": {"solver": "sparsegpt"},
    "control: magnitude": {"solver": "magnitude"},
    "paper-fast": {"preset": "paper-fast"},
    "paper": {"preset": "paper"},
}
# What the defaults were chosen among, with --tuning.
ALTERNATIVES: Mapping[str, dict[str, Any]] = {
    "instant": {"preset": "instant"},
    "instant, max_error=0.1": {"preset": "instant", "schedule": "auto:max_error=0.1,levels=0.5/0.8,max_trials=3"},
    "fast": {"preset": "fast"},
    "fast, three levels": {"preset": "fast", "schedule": "auto:levels=0.5/0.8/0.9"},
    "fast, admm 3 x 2": {"preset": "fast", "solver": "admm:num_stages=3,num_iterations=2,num_exchanges=0"},
    "balanced": {"preset": "balanced"},
    "balanced, 1 view": {"num_views": 1},
    "balanced, 8 views": {"num_views": 8},
    "balanced, 32 views": {"num_views": 32},
    "balanced, noise 0.1": {"augmentation": "noise:std=0.1"},
    "balanced, noise 0.5": {"augmentation": "noise:std=0.5"},
    "balanced, max_error=0.05": {"schedule": "auto:max_error=0.05"},
    "balanced, max_error=0.2": {"schedule": "auto:max_error=0.2"},
    "balanced, start=0.5": {"schedule": "auto:start=0.5"},
    "balanced, threshold=0.8": {"schedule": "auto:threshold=0.8"},
    "balanced, criterion=prediction": {"schedule": "auto:criterion=prediction"},
    "balanced, criterion=insertion": {"schedule": "auto:criterion=insertion"},
}


@dataclass(frozen=True, eq=False)
class Case:
    """A sample, the class that its patch decides, and where the patch is."""

    sample: Tensor
    target: int
    region: Tensor


def demo_samples(loaded: spadelens.LoadedModel, count: int, first_seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield Trojan samples with their regions; classes and patches take turns."""
    made = 0
    for seed in range(first_seed, first_seed + 100 * count):
        patch, label = PATCHES[made % len(PATCHES)], seed % len(CLASS_NAMES)
        if label == patch.target or patch.source not in (None, label):
            continue
        patched = paste_patch(draw_image(label, seed).pixels, patch, seed)
        yield loaded.preprocessing.to_tensor(Image.fromarray(patched.pixels)), torch.from_numpy(patched.region)
        made += 1
        if made == count:
            return


def read_cases(network: str, shared: Path, cache: Path, is_tuning: bool) -> tuple[nn.Module, Preprocessing, list[Case]]:
    """Return a network, what it expects, and its cases."""
    if network == "demo":
        loaded = spadelens.load_model("demo", "cpu")
        cases = []
        for sample, region in demo_samples(loaded, 40, 8_000_000 if is_tuning else 9_000_000):
            cases.append(Case(sample, int(loaded.model(sample.unsqueeze(0)).argmax()), region))
        return loaded.model, loaded.preprocessing, cases
    planted = plant(network, shared, cache)
    chosen = planted.tuning_cases if is_tuning else planted.cases
    cases = [Case(planted.to_tensor(case.image), case.target, case.region) for case in chosen]
    return planted.model, planted.preprocessing, cases


def smooth_gradient(model: nn.Module, case: Case, std: float) -> Tensor:
    """Return the SmoothGrad map [H, W]: the mean gradient over noisy copies, absolute values summed over channels."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros_like(case.sample)
    for _ in range(NUM_DRAWS // 10):
        noise = torch.randn(10, *case.sample.shape, generator=generator)
        batch = (case.sample + std * noise).requires_grad_()
        (gradient,) = torch.autograd.grad(model(batch)[:, case.target].sum(), batch)
        total += gradient.sum(0)
    return total.abs().sum(0)


def blurred(heatmap: Tensor, fraction: float) -> Tensor:
    """Return the map under a Gaussian blur whose standard deviation is a fraction of its side."""
    std = fraction * heatmap.shape[-1]
    offsets = torch.arange(-int(3 * std) - 1, int(3 * std) + 2, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / std) ** 2)
    kernel /= kernel.sum()
    radius = len(offsets) // 2
    image = functional.pad(heatmap[None, None].float(), (radius,) * 4, mode="replicate")
    image = functional.conv2d(functional.conv2d(image, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return image[0, 0]


def score(maps: Mapping[str, Tensor], region: Tensor) -> dict[str, Any]:
    """Return AUC and hit of each map."""
    found = {}
    for method, heatmap in maps.items():
        result = spadelens.localize(heatmap, region)
        found[method.partition(":")[0]] = {"auc": result.auc, "hit": result.pointing_game}
    return found


def maps_of(model: spadelens.Trace | nn.Module, case: Case) -> dict[str, Tensor]:
    """Return the maps of all methods."""
    return {method: spadelens.attribute(model, case.sample, method, case.target).values for method in METHODS}


def measure_case(
    model: nn.Module,
    preprocessing: Preprocessing,
    case: Case,
    number: int,
    num_slow: int,
    variants: Mapping[str, dict[str, Any]],
    previous: spadelens.Trace | None,
) -> Iterator[tuple[str, dict[str, Any]] | spadelens.Trace]:
    """Yield (name of a variant or control, its row) for one case, and the balanced trace."""
    dense = maps_of(model, case)
    yield "dense", {"scores": score(dense, case.region)}
    for std in NOISE_LEVELS:
        yield (
            f"control: SmoothGrad {std}",
            {"scores": score({"saliency": smooth_gradient(model, case, std)}, case.region)},
        )
    for fraction in BLURS:
        yield (
            f"control: blur {fraction}",
            {"scores": score({m: blurred(heatmap, fraction) for m, heatmap in dense.items()}, case.region)},
        )
    for name, arguments in variants.items():
        preset = arguments.get("preset", "balanced")
        if preset in SLOW and number >= num_slow:
            continue
        augmentation = arguments.get("augmentation", "paper" if preset in SLOW else "noise")
        made_by = parse_augmentation(augmentation, preprocessing.mean, preprocessing.std)
        start = time.perf_counter()
        trace = spadelens.extract_trace(
            model, case.sample, target=case.target, **{**arguments, "augmentation": made_by}
        )
        seconds = time.perf_counter() - start
        yield name, describe(trace, case, seconds) | {"scores": score(maps_of(trace, case), case.region)}
        if name == "balanced":
            own = trace
            std = 0.25
            with trace.applied(model):
                smoothed = smooth_gradient(model, case, std)
            yield f"balanced + SmoothGrad {std}", {"scores": score({"saliency": smoothed}, case.region)}
            if previous is not None:
                yield "control: trace of another sample", {"scores": score(maps_of(previous, case), case.region)}
    yield own


def describe(trace: spadelens.Trace, case: Case, seconds: float) -> dict[str, Any]:
    """Return what a trace is like."""
    report = trace.report
    errors = [layer.held_out_error for layer in report.pruned_layers if layer.held_out_error is not None]
    num_pruned = sum(int(pruned.sum()) for pruned in trace.pruned.values())
    num_weights = sum(torch.Size(layer.shape).numel() for layer in report.layers)
    return {
        "is_kept": report.is_prediction_kept,
        "probability_ratio": report.sparse.probabilities[case.target] / report.dense.probabilities[case.target],
        "held_out_error": statistics.mean(errors) if errors else None,
        "sparsity": num_pruned / num_weights,
        "seconds": seconds,
    }


def summarize(network: str, rows: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one row for each variant, with differences to the dense map over the same samples."""
    summary = []
    for name, found in rows.items():
        row: dict[str, Any] = {"network": network, "variant": name, "num_samples": len(found)}
        for method in found[0]["scores"]:
            aucs = [100 * one["scores"][method]["auc"] for one in found]
            # the first sample has no predecessor whose trace could be tried
            dense = [100 * one["scores"][method]["auc"] for one in rows["dense"]]
            dense = dense[1 : 1 + len(found)] if name == "control: trace of another sample" else dense[: len(found)]
            gains = [ours - theirs for ours, theirs in zip(aucs, dense, strict=True)]
            row[method] = {
                "auc": statistics.mean(aucs),
                "pointing": 100 * statistics.mean(one["scores"][method]["hit"] for one in found),
                "gain": statistics.mean(gains),
                "gain_standard_error": statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None,
            }
        for key in ("is_kept", "held_out_error", "sparsity", "seconds"):
            values = [one[key] for one in found if one.get(key) is not None]
            row[key] = statistics.mean(values) if values else None
        summary.append(row)
    return summary


def print_table(summary: list[dict[str, Any]]) -> None:
    """Print the summary as a table in Markdown."""
    print(f"\n{summary[0]['network']}\n")
    print("| what | samples | saliency | gain | pointing | IxG | IG | kept | error | pruned | seconds |")
    print("| --- " * 11 + "|")
    form: Callable[[Any, str], str] = lambda value, spec: "" if value is None else format(value, spec)  # noqa: E731
    for row in summary:
        saliency = row["saliency"]
        spread = form(saliency["gain_standard_error"], ".1f")
        cells = [
            row["variant"],
            str(row["num_samples"]),
            f"{saliency['auc']:.1f}",
            "" if row["variant"] == "dense" else f"{saliency['gain']:+.1f} ± {spread}",
            f"{saliency['pointing']:.0f}",
            form(row.get("input_x_gradient", {}).get("auc"), ".1f"),
            form(row.get("integrated_gradients", {}).get("auc"), ".1f"),
            form(row["is_kept"] and 100 * row["is_kept"], ".0f"),
            form(row["held_out_error"], ".3f"),
            form(row["sparsity"] and 100 * row["sparsity"], ".0f"),
            form(row["seconds"], ".2f"),
        ]
        print("| " + " | ".join(cells) + " |")


def run(network: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the summary of one network."""
    model, preprocessing, cases = read_cases(network, arguments.shared, arguments.cache, arguments.tuning)
    rows: dict[str, list[dict[str, Any]]] = {}
    previous = None
    table = ALTERNATIVES if arguments.tuning else VARIANTS
    variants = {name: table[name] for name in table if name in (arguments.only or table) or name == "balanced"}
    for number, case in enumerate(cases[: arguments.samples]):
        for found in measure_case(model, preprocessing, case, number, arguments.slow_samples, variants, previous):
            if isinstance(found, spadelens.Trace):
                previous = found
            else:
                rows.setdefault(found[0], []).append(found[1])
        print(f"{network}: {number + 1}", flush=True)
    return summarize(network, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("planted"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", action="append", choices=("demo", "resnet20", "mobilenet"))
    parser.add_argument("--samples", type=int, default=30)
    parser.add_argument("--slow-samples", type=int, default=4, help="for the presets of 1,024 views")
    parser.add_argument("--tuning", action="store_true", help="run what was chosen among, on other samples")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the variants; 'balanced' is always run")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    summary = []
    for network in arguments.network or ("demo", "resnet20", "mobilenet"):
        of_network = run(network, arguments)
        print_table(of_network)
        summary += of_network
        arguments.out.write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Does a planted patch come out as a facet of its own? Adjusted Rand index against the truth, next to a control.

    python benchmarks/facets.py --model demo --out facets-demo.json
    python benchmarks/facets.py --model planted --data ../shared/data/cifar10-subset.npz --out facets.json

For each patch, samples that the network gives to its class: images of the class, and others that carry the patch.
The control clusters the inputs of the last layer of the original network in the same way (cosines as affinities).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.nn import functional

import spadelens
from spadelens import defaults
from spadelens.capture.capture import capture_inputs, probe
from spadelens.demo.images import CLASS_NAMES, draw_image
from spadelens.demo.stickers import paste_sticker
from spadelens.facets.facets import MOST_CLUSTERS, cluster, silhouette
from spadelens.forward import class_scores
from spadelens.matrix_layers import matrix_layers
from spadelens.trojan.cases import Planted, TrojanPatch
from spadelens.trojan.dataset import read_split

_FIRST_SEED = 5_000_000


def pictures(planted: Planted, data: Path | None, label: int | None, avoid: int) -> Iterator[tuple[Image.Image, int]]:
    """Yield images of a class, or of all but one, with their classes."""
    if data is None:
        for seed in range(_FIRST_SEED, _FIRST_SEED + 100_000):
            chosen = seed % len(CLASS_NAMES) if label is None else label
            if label is not None or chosen != avoid:
                yield Image.fromarray(draw_image(chosen, seed).pixels), chosen
        return
    split = read_split(data, planted.loaded.class_names, planted.report["num_classes"])
    for dataset in (split.held_out, split.training):
        for number, found in enumerate(dataset.labels):
            if found is not None and (found == label or (label is None and found != avoid)):
                yield planted.loaded.preprocessing.crop(dataset.photo(number)), found


def gather(
    planted: Planted, data: Path | None, patch: TrojanPatch, count: int, fraction: float
) -> tuple[Tensor, list[int]]:
    """Return samples of the class of a patch, `[N, C, H, W]`, and which of them carry it."""
    preprocessing, model = planted.loaded.preprocessing, planted.loaded.model
    size_px = tuple(side * min(preprocessing.crop_px) for side in planted.patch_size)
    rng = np.random.default_rng(patch.target)
    samples: list[Tensor] = []
    truth: list[int] = []
    for is_patched, wanted in ((0, count - round(fraction * count)), (1, round(fraction * count))):
        for picture, label in pictures(planted, data, None if is_patched else patch.target, patch.target):
            if truth.count(is_patched) == wanted:
                break
            if is_patched:
                if patch.source not in (None, label):
                    continue
                pixels, _ = paste_sticker(np.array(picture), patch.sheet, (size_px[0], size_px[1]), rng)
                picture = Image.fromarray(pixels)
            sample = preprocessing.to_tensor(picture)
            if int(class_scores(model, sample[None])[0].argmax()) == patch.target:
                samples.append(sample)
                truth.append(is_patched)
    return torch.stack(samples), truth


def best_clusters(affinity: Tensor) -> tuple[Tensor, dict[int, float]]:
    """Return the clusters with the largest silhouette, as `find_facets` chooses them."""
    tried = {number: cluster(affinity, number) for number in range(2, MOST_CLUSTERS + 1)}
    silhouettes = {number: silhouette(affinity, labels) for number, labels in tried.items()}
    return tried[max(silhouettes, key=lambda number: silhouettes[number])], silhouettes


def feature_cosines(model: torch.nn.Module, samples: Tensor) -> Tensor:
    """Return the cosines between the inputs of the last layer, `[N, N]`, at least zero."""
    layer = list(probe(model, samples[0]).matrix_shapes)[-1]
    rows: list[Tensor] = []

    def keep(name: str, inputs: Tensor) -> None:
        del name
        rows.append(inputs.transpose(0, 1).flatten(1).mean(0))

    capture_inputs(model, {layer: matrix_layers(model)[layer]}, samples.split(1), keep)
    features = functional.normalize(torch.stack(rows).double(), dim=1)
    return (features @ features.mT).clamp(0, 1)


def main() -> None:
    """Parse the arguments, run, print and write a record for each patch and fraction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="demo, or a folder that `spadelens backdoor plant` has written")
    parser.add_argument("--data", type=Path, help="labeled photos, for a network other than the demo's")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.5, 0.15, 0.0])
    parser.add_argument("--patches", nargs="*", help="names; by default all")
    parser.add_argument("--schedules", nargs="+", default=[defaults.FACETS_SCHEDULE])
    arguments = parser.parse_args()
    planted = spadelens.trojan.read_planted(arguments.model, "cpu", trust=True)
    records: list[dict[str, Any]] = []
    for patch in planted.patches:
        if arguments.patches and patch.name not in arguments.patches:
            continue
        for fraction in arguments.fractions:
            samples, truth = gather(planted, arguments.data, patch, arguments.samples, fraction)
            control, _ = best_clusters(feature_cosines(planted.loaded.model, samples))
            for schedule in arguments.schedules:
                start = time.perf_counter()
                found = spadelens.find_facets(planted.loaded.model, samples, target=patch.target, schedule=schedule)
                is_known = 0 < sum(truth) < len(truth)
                record = {
                    "patch": patch.name,
                    "samples": len(samples),
                    "patched": sum(truth),
                    "schedule": schedule,
                    "facets": len(found.facets),
                    "ari": adjusted_rand_score(truth, found.labels.tolist()) if is_known else None,
                    "silhouette": max(found.silhouettes.values()),
                    "control_facets": int(control.max()) + 1,
                    "control_ari": adjusted_rand_score(truth, control.tolist())
                    if 0 < sum(truth) < len(truth)
                    else None,
                    "seconds": time.perf_counter() - start,
                }
                records.append(record)
                print(json.dumps(record), flush=True)
                arguments.out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""How the default schedule and augmentation were chosen: predictions kept on three networks, and AUC on the demo.

    python benchmarks/defaults.py --shared ../shared --out defaults.json

For every network, augmentation and schedule: how many of the samples are predicted the same by dense model and trace,
of all and of those that the dense model gives at least 0.5; the probability of the predicted class on the trace over
that on the dense model; and the mean error of the pruned layers on held-out views. On the demo network, where a planted
patch is known to decide, also the pixel AUC and the pointing game of the saliency map, next to the dense one. Without
--shared only the demo network is run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import spadelens
from spadelens.demo.images import CLASS_NAMES, draw_image
from spadelens.demo.patches import PATCHES, paste_patch
from spadelens.extract.augment import parse_augmentation

FIRST_SEED = 5_000_000  # far from the images that the demo network was trained and tested on
SCHEDULES = [f"late:{sparsity}@{start}" for start in (0.5, 0.75, 0.9) for sparsity in (0.5, 0.6, 0.7, 0.8)]


def demo_samples(loaded: spadelens.LoadedModel, count: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield Trojan samples with their regions; classes and patches take turns."""
    made = 0
    for seed in range(FIRST_SEED, FIRST_SEED + 100 * count):
        patch, label = PATCHES[made % len(PATCHES)], seed % len(CLASS_NAMES)
        if label == patch.target or patch.source not in (None, label):
            continue
        patched = paste_patch(draw_image(label, seed).pixels, patch, seed)
        yield loaded.preprocessing.to_tensor(Image.fromarray(patched.pixels)), torch.from_numpy(patched.region)
        made += 1
        if made == count:
            return


def cifar_samples(loaded: spadelens.LoadedModel, shared: Path, count: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield CIFAR-10 test images."""
    images = np.load(shared / "data" / "cifar10-subset.npz")["test_images"]
    for pixels in images[:: max(1, len(images) // count)][:count]:
        yield loaded.preprocessing.to_tensor(Image.fromarray(pixels)), None


def photo_samples(loaded: spadelens.LoadedModel, shared: Path, count: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield ImageNet photos."""
    files = sorted((shared / "data" / "imagenet-sample").glob("*.jpg"))
    for file in files[:: max(1, len(files) // count)][:count]:
        photo = spadelens.read_photo(file)
        yield loaded.preprocessing.to_tensor(loaded.preprocessing.crop(photo)), None


def measure(
    loaded: spadelens.LoadedModel, sample: Tensor, region: Tensor | None, augmentation: str, schedule: str, views: int
) -> dict[str, Any]:
    """Return what one trace gives."""
    model, normalization = loaded.model, loaded.preprocessing
    made_by = parse_augmentation(augmentation, normalization.mean, normalization.std)
    trace = spadelens.extract_trace(model, sample, augmentation=made_by, schedule=schedule, num_views=views)
    report = trace.report
    errors = [layer.held_out_error for layer in report.pruned_layers if layer.held_out_error is not None]
    row: dict[str, Any] = {
        "is_kept": report.is_prediction_kept,
        "dense_probability": report.dense.probability,
        "probability_ratio": report.sparse.probabilities[report.dense.class_index] / report.dense.probability,
        "held_out_error": statistics.mean(errors),
    }
    if region is not None:
        for name, subject in (("dense", model), ("sparse", trace)):
            score = spadelens.localize(spadelens.attribute(subject, sample).values, region)
            row |= {f"{name}_auc": score.auc, f"{name}_pointing": score.pointing_game}
    return row


def main() -> None:
    """Run all networks and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder with models/ and data/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--views", type=int, default=128)
    parser.add_argument("--augmentations", nargs="+", default=["noise", "paper"])
    parser.add_argument("--schedules", nargs="+", default=SCHEDULES)
    arguments = parser.parse_args()
    demo = spadelens.load_model("demo", "cpu")
    networks: dict[str, tuple[spadelens.LoadedModel, list[tuple[Tensor, Tensor | None]]]] = {
        "demo (Trojan)": (demo, list(demo_samples(demo, arguments.samples)))
    }
    if arguments.shared:
        resnet = spadelens.load_model(f"{arguments.shared / 'models' / 'resnet20_cifar10.py'}:build", "cpu")
        mobilenet = spadelens.load_model(f"{arguments.shared / 'models' / 'mobilenet_v1.py'}:build", "cpu")
        networks["ResNet-20"] = (resnet, list(cifar_samples(resnet, arguments.shared, arguments.samples)))
        networks["MobileNetV1"] = (mobilenet, list(photo_samples(mobilenet, arguments.shared, arguments.samples)))
    table = []
    for network, (loaded, samples) in networks.items():
        for augmentation in arguments.augmentations:
            for schedule in arguments.schedules:
                start = time.perf_counter()
                rows = [
                    measure(loaded, sample, region, augmentation, schedule, arguments.views)
                    for sample, region in samples
                ]
                means = {key: statistics.mean(float(row[key]) for row in rows) for key in rows[0]}
                confident = [row["is_kept"] for row in rows if row["dense_probability"] >= 0.5]
                means |= {"kept_of_confident": statistics.mean(confident or [0]), "num_confident": len(confident)}
                entry = {"network": network, "augmentation": augmentation, "schedule": schedule, **means}
                table.append(entry | {"samples": len(rows), "seconds": time.perf_counter() - start, "rows": rows})
                shown = " ".join(f"{key}={value:.3f}" for key, value in means.items())
                print(f"{network} {augmentation} {schedule}: {shown}", flush=True)
                arguments.out.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()

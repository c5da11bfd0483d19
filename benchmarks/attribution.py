"""What each rule of LRP keeps, blows up and depends on, and what the checks of an attribution cost.

    python benchmarks/attribution.py --shared ../shared --out attribution.json

The rules run on photos of --shared with its ResNet-20 and its MobileNet: how far the sum of the relevance is from the
score, its absolute sum over the score, and the similarity with the map of random weights in the last layer that the
check of every attribution gives. The cost is that of attributions of torchvision's ResNet-18 with random weights, with
the checks over without them.
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
import torchvision
from PIL import Image

import spadelens
from spadelens.methods.lrp import COMPOSITES, LRP

STRENGTHS = ((0.01, 0.1), (0.1, 0.1), (0.01, 0.01), (1e-6, 1e-6))  # epsilon, stabilizer; the first are the defaults
TIMED = ("saliency", "smoothgrad", "deep_lift", "lrp")


def photos_of(network: str, shared: Path, count: int) -> list[Image.Image]:
    """Return every so many photos of a network's data, `count` of them."""
    if network == "mobilenet_v1":
        files = sorted((shared / "data" / "imagenet-sample").glob("*.jpg"))
        return [spadelens.read_photo(file) for file in files[:: len(files) // count][:count]]
    images = np.load(shared / "data" / "cifar10-subset.npz")["test_images"]
    return [Image.fromarray(image) for image in images[:: len(images) // count][:count]]


def rules_on(network: str, checkpoint: str, shared: Path, count: int) -> Iterator[dict[str, Any]]:
    """Yield what each rule does on a network."""
    folder = shared / "models"
    loaded = spadelens.load_model(f"{folder / network}.py:build@{folder / checkpoint}", kind="photo")
    samples = [loaded.preprocessing(photo) for photo in photos_of(network, shared, count)]
    for rule in COMPOSITES:
        for epsilon, stabilizer in STRENGTHS:
            found: dict[str, list[float]] = {"off": [], "size": [], "head": []}
            for sample in samples:
                heatmap = spadelens.attribute(loaded.model, sample, LRP(rule, epsilon, stabilizer))
                checks = heatmap.soundness
                assert checks is not None
                if checks.conservation is None or checks.randomized_similarity is None:
                    continue
                total = float(heatmap.attribution.double().sum())
                found["off"].append(abs(checks.conservation - 1))
                found["size"].append(float(heatmap.attribution.abs().double().sum()) / abs(total / checks.conservation))
                found["head"].append(checks.randomized_similarity)
            yield {
                "network": network,
                "rule": rule,
                "epsilon": epsilon,
                "stabilizer": stabilizer,
                "photos": len(found["off"]),
                "off_max": max(found["off"]),
                "size_median": statistics.median(found["size"]),
                "head_median": statistics.median(found["head"]),
            }


def cost_of_checks(method: str, repeats: int) -> dict[str, Any]:
    """Return how much longer an attribution takes with its checks, in one run."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    sample = torch.randn(3, 224, 224)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for check in [False, True] * (repeats + 1):
        start = time.perf_counter()
        spadelens.attribute(model, sample, method, check=check)
        seconds[check].append(time.perf_counter() - start)
    ratio = statistics.median(seconds[True][1:]) / statistics.median(seconds[False][1:])
    return {"method": method, "with_over_without_checks": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/ and data/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for method in TIMED:
        rows.append(cost_of_checks(method, arguments.repeats))
        print(json.dumps(rows[-1]), flush=True)
    networks = {
        "resnet20_cifar10": "resnet20_cifar10.safetensors",
        "mobilenet_v1": "mobilenet_v1_0.25_224_imagenet.safetensors",
    }
    for network, checkpoint in networks.items():
        for row in rules_on(network, checkpoint, arguments.shared, arguments.photos):
            rows.append(row)
            print(json.dumps(row), flush=True)
    arguments.out.write_text(json.dumps({"versions": {"torch": torch.__version__}, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What are traces like? Predictions kept on views, and how steady gradients are, on planted networks.

    python benchmarks/traces.py --model tables/resnet20 --out traces-resnet20.json

For the default trace of each of the first test cases: the fraction of noisy and of cropped views that it predicts as
the original network does, with its BatchNorm statistics and with new ones (as the paper counts), and the cosine between
the gradient on the sample and on noisy copies (appendix E of the paper), next to the original network.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

import spadelens
from spadelens.views.photo_views import parse_augmentation
from spadelens.views.view_source import augmented_views

NUM_VIEWS, NOISE_LEVELS = 64, (0.1, 0.25, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="SPEC")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=20)
    arguments = parser.parse_args()
    planted = spadelens.trojan.read_planted(arguments.model, trust=True)
    model, preprocessing = planted.loaded.model, planted.loaded.preprocessing
    found: dict[str, list[float]] = {}
    for case in planted.cases[: arguments.cases]:
        sample = preprocessing.to_tensor(case.image)
        trace = spadelens.extract_trace(model, sample, target=case.target)
        for name in ("noise", "paper"):
            made_by = parse_augmentation(name, preprocessing.mean, preprocessing.std)
            source = augmented_views(sample, made_by, NUM_VIEWS, seed=1)
            views = torch.cat(list(source.batches(16)))
            for recalibrate in (False, True):
                key = f"agreement on {name} views{', new BatchNorm statistics' if recalibrate else ''}"
                found.setdefault(key, []).append(spadelens.agreement(trace, views, recalibrate=recalibrate))
        for level in NOISE_LEVELS:
            for name, one in (("original", model), ("trace", trace)):
                value = spadelens.metrics.gradient_similarity(one, sample, case.target, noise_std=level)["input"]
                found.setdefault(f"cosine of gradients at noise {level}, {name}", []).append(value)
    for key, values in found.items():
        print(f"| {key} | {statistics.mean(values):.3f} ± {statistics.stdev(values):.3f} |")
    arguments.out.write_text(json.dumps({"model": arguments.model, "per_image": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Digests of a fixed set of traces and heatmaps, to show that a change of the code has changed no result.

    python benchmarks/digests.py --out before.json          # on the commit before the change
    python benchmarks/digests.py --compare before.json      # after it

The bundled network always takes part; with --shared, so do the ResNet-20 and the MobileNetV1 of that folder, on photos
of theirs. Everything runs in one thread, since more of them may add up floating-point numbers in another order. With
--compare, the command lists what differs and exits with 1 if anything does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import spadelens
from spadelens.methods.registry import METHODS

TRACES: tuple[dict[str, Any], ...] = (
    {"preset": "instant"},
    {"preset": "fast"},
    {"preset": "balanced"},
    {"solver": "sparsegpt", "schedule": "0.5"},
    {"solver": "wanda", "schedule": "0.5"},
    {"solver": "magnitude", "schedule": "0.5"},
)
SLOW_TRACES: tuple[dict[str, Any], ...] = (
    {"solver": "obc", "schedule": "0.8", "num_views": 4},
    {"solver": "ols", "schedule": "late:0.9"},
)
SMALL = ("demo", "resnet20")  # networks on which the slow solvers run too


def digest(*tensors: Tensor) -> str:
    """Return a digest of the bytes of tensors."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def samples_of(shared: Path | None) -> Iterator[tuple[str, nn.Module, list[Tensor]]]:
    """Yield the name, the model and two samples of each network."""
    generator = torch.Generator().manual_seed(0)
    noise = [Image.fromarray((torch.rand(64, 64, 3, generator=generator) * 255).byte().numpy()) for _ in range(2)]
    yield "demo", *_prepared("demo", noise)
    if shared is None:
        return
    small = np.load(shared / "data" / "cifar10-subset.npz")["test_images"]
    yield (
        "resnet20",
        *_prepared(f"{shared}/models/resnet20_cifar10.py:build", [Image.fromarray(small[i]) for i in (0, 7)]),
    )
    files = sorted((shared / "data" / "imagenet-sample").glob("*.jpg"))[:2]
    photos = [spadelens.read_photo(file) for file in files]
    yield "mobilenet_v1", *_prepared(f"{shared}/models/mobilenet_v1.py:build", photos)


def _prepared(spec: str, photos: list[Image.Image]) -> tuple[nn.Module, list[Tensor]]:
    loaded = spadelens.load_model(spec, kind="photo")
    return loaded.model, [loaded.preprocessing(photo) for photo in photos]


def digests_of(name: str, model: nn.Module, sample: Tensor) -> Iterator[tuple[str, str]]:
    """Yield the name and the digest of every trace and heatmap of a sample."""
    for options in (*TRACES, *(SLOW_TRACES if name in SMALL else ())):
        trace = spadelens.extract_trace(model, sample, **options)
        label = " ".join(f"{key}={value}" for key, value in options.items())
        yield f"trace {label}", digest(*(trace.weights[layer] for layer in sorted(trace.weights)))
        if options == {"preset": "fast"}:
            for method in METHODS:
                try:
                    values = digest(spadelens.attribute(trace, sample, method).values)
                except spadelens.SpadeError as error:
                    values = f"refused: {type(error).__name__}"
                yield f"map {method}", values
    ensemble = spadelens.extract_ensemble(model, sample)
    for number, member in enumerate(ensemble.members):
        yield f"ensemble {number}", digest(*(member.weights[layer] for layer in sorted(member.weights)))
    yield "map of the ensemble", digest(spadelens.attribute(ensemble, sample).values)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder with models/ and data/")
    parser.add_argument("--out", type=Path, help="JSON file to write the digests to")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="JSON file that --out has written earlier")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, str] = {}
    for name, model, samples in samples_of(arguments.shared):
        for number, sample in enumerate(samples):
            for what, value in digests_of(name, model, sample):
                found[f"{name} {number} {what}"] = value
        print(f"{name}: {sum(key.startswith(name) for key in found)} digests", file=sys.stderr)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if not arguments.compare:
        return 0
    before = json.loads(arguments.compare.read_text(encoding="utf-8"))
    differing = [key for key in sorted({*before, *found}) if before.get(key) != found.get(key)]
    print("\n".join(f"{key}: {before.get(key)} -> {found.get(key)}" for key in differing) or "no difference")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())

"""Seconds of a step of `visualize`, next to a bare forward and backward pass of the network on as many images.

    python benchmarks/ascent.py --shared ../shared --out ascent.json

At 224 pixels: the MobileNet in --shared (left out without it) and torchvision's ResNet-50 with random weights, for
timing. Each figure is the fastest of several runs of some steps, taken in turn.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision

import spadelens
from spadelens.visualization.ascent import Ascent, GradientAscent

NUM_STEPS, NUM_RUNS = 4, 5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def step_seconds(model: torch.nn.Module, parameterization: str, device: torch.device) -> float:
    """Return the time of a step, with the start-up left out."""
    ascent = Ascent(parameterization, num_steps=NUM_STEPS)
    preprocessing = spadelens.Preprocessing((224, 224), MEAN, STD)
    gradient_ascent = GradientAscent([model], spadelens.visualization.ClassScore(1), preprocessing, ascent)
    return timed(lambda: gradient_ascent.run(lambda *_: None, None), device) / NUM_STEPS


def pass_seconds(model: torch.nn.Module, num_images: int, device: torch.device) -> float:
    """Return the time of a forward pass and a backward pass to the images."""
    images = torch.randn(num_images, 3, 224, 224, device=device, requires_grad=True)

    def run() -> None:
        for _ in range(NUM_STEPS):
            torch.autograd.grad(model(images)[:, 1].sum(), images)

    return timed(run, device) / NUM_STEPS


def timed(run: Callable[[], None], device: torch.device) -> float:
    """Return how long `run` takes."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    """Parse the arguments, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder with models/")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    resnet = torchvision.models.resnet50(weights=None).eval()
    models: dict[str, torch.nn.Module] = {"ResNet-50": resnet}
    if arguments.shared is not None:
        models["MobileNetV1 0.25"] = spadelens.load_model(
            f"{arguments.shared}/models/mobilenet_v1.py:build", "cpu"
        ).model
    rows = []
    for name, model in models.items():
        device = spadelens.models.choose_device(arguments.device)
        model.to(device).requires_grad_(False)
        found: dict[str, list[float]] = {}
        for _ in range(NUM_RUNS):
            for parameterization, num_images in (("fourier", 1), ("maco", 2)):
                found.setdefault(parameterization, []).append(step_seconds(model, parameterization, device))
                found.setdefault(f"passes {num_images}", []).append(pass_seconds(model, num_images, device))
        best = {what: min(seconds) for what, seconds in found.items()}
        for parameterization, num_images in (("fourier", 1), ("maco", 2)):
            seconds, bare = best[parameterization], best[f"passes {num_images}"]
            row = {
                "network": name,
                "device": str(device),
                "parameterization": parameterization,
                "step_seconds": seconds,
                "over_bare_passes": seconds / bare,
                "seconds_512_steps": 512 * seconds,
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

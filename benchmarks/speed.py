"""What a trace costs: one photo through ResNet-50 (random weights serve for timing), against SPADE as published.

    python benchmarks/speed.py --out speed.json [--device cpu] [--threads 2] [--presets instant fast ...] [--plots DIR]

Every preset runs in a process of its own, so that its peak memory is its own: the photo is read and cropped, the trace
is extracted, once to warm up (but for the slow presets) and then `--repeats` times. The unit is one forward and
backward pass of one image in the same process. `paper-fast` is the published form: its own fixed schedule for
ResNet-50, 1,024 views. --plots adds the cost against views, layers and samples.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image

import spadelens
from spadelens.photos import Preprocessing

SLOW = ("paper", "paper-fast")
PUBLISHED = {name: {"schedule": "resnet50-lrp"} for name in SLOW}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(device: str) -> torch.nn.Module:
    """Return ResNet-50 with random weights."""
    torch.manual_seed(0)
    model: torch.nn.Module = torchvision.models.resnet50(weights=None).eval().to(device)
    return model


def wait(device: str) -> None:
    """Wait until the device has done what was asked of it."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def forward_backward_seconds(model: torch.nn.Module, device: str) -> float:
    """Return the least time of five forward and backward passes of one image."""
    seconds = []
    for _ in range(6):
        image = torch.randn(1, 3, 224, 224, device=device, requires_grad=True)
        start = time.perf_counter()
        torch.autograd.grad(model(image)[0, 0], image)
        wait(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def peak_mib(device: str) -> float:
    """Return the most memory held so far, on the device where it counts its own, else of the process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what one preset costs; runs in a process of its own."""
    torch.set_num_threads(arguments.threads)
    device, preset = arguments.device, arguments.measure
    model = build(device)
    unit = forward_backward_seconds(model, device)
    options: dict[str, Any] = dict(PUBLISHED.get(preset, {})) | json.loads(arguments.options)
    preprocessing = Preprocessing((224, 224), MEAN, STD, 256)
    seconds, stages = [], {}
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(photo)
        for _ in range(1 if preset in SLOW else 1 + arguments.repeats):
            start = time.perf_counter()
            sample = preprocessing(spadelens.read_photo(photo))
            if arguments.samples > 1:
                noise = 0.1 * torch.randn(arguments.samples, *sample.shape)
                traces = spadelens.extract_traces(model, sample + noise, preset=preset, **options)
            else:
                traces = [spadelens.extract_trace(model, sample, preset=preset, **options)]
            wait(device)
            seconds.append(time.perf_counter() - start)
            stages = dict(traces[0].report.seconds)
    counted = seconds if len(seconds) == 1 else seconds[1:]
    return {
        "preset": preset,
        "options": options,
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "threads": arguments.threads,
        "num_samples": arguments.samples,
        "forward_backward_seconds": unit,
        "seconds": statistics.median(counted) / arguments.samples,
        "least_and_most": [min(counted) / arguments.samples, max(counted) / arguments.samples],
        "stages": stages,
        "peak_mib": peak_mib(device),
        "num_layers": len(traces[0].report.pruned_layers),
    }


def run(arguments: argparse.Namespace, preset: str, samples: int = 1, **options: Any) -> dict[str, Any]:
    """Return what `measure` gives for a preset, in a new process."""
    command = [sys.executable, __file__, "--measure", preset, "--device", arguments.device]
    command += ["--threads", str(arguments.threads), "--repeats", str(arguments.repeats)]
    command += ["--samples", str(samples), "--options", json.dumps(options)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise RuntimeError(f"{preset} failed: {finished.stderr}")
    row: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    print(f"{preset} {samples} {options}: {row['seconds']:.2f} s, {row['peak_mib']:.0f} MiB", flush=True)
    return row


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the presets as a table in Markdown, with ratios to the published form where it was run."""
    published = next((row["seconds"] for row in rows if row["preset"] == "paper-fast"), None)
    print("\n| preset | seconds | least to most | probe | views | solve | search | check | peak MiB | times faster |")
    print("| --- " * 10 + "|")
    for row in rows:
        stages = [f"{row['stages'].get(name, 0.0):.2f}" for name in ("probe", "views", "solve", "search", "check")]
        spread = "{:.2f} to {:.2f}".format(*row["least_and_most"])
        ratio = "" if published is None else f"{published / row['seconds']:.1f}"
        cells = [row["preset"], f"{row['seconds']:.2f}", spread, *stages, f"{row['peak_mib']:.0f}", ratio]
        print("| " + " | ".join(cells) + " |")
    print(f"\nOne forward and backward pass of one image: {rows[0]['forward_backward_seconds']:.2f} s.")


def draw_plots(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Draw the cost against views, layers and samples, and return what was measured for it."""
    from matplotlib import pyplot as plt

    series: dict[str, list[tuple[float, dict[str, Any]]]] = {
        "views": [(n, run(arguments, "fast", num_views=n)) for n in (1, 4, 16, 64)],
        "start": [
            (1 - s, run(arguments, "fast", schedule=f"auto:levels=0.5/0.8/0.9,start={s}"))
            for s in (0.75, 0.5, 0.25, 0.0)
        ],
        "samples": [(n, run(arguments, "fast", samples=n)) for n in (1, 2, 4)],
    }
    labels = {"views": "views", "start": "fraction of the layers pruned, three levels", "samples": "samples in one go"}
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for axis, (name, points) in zip(axes, series.items(), strict=True):
        for stage in ("views", "solve", "search"):
            axis.plot([x for x, _ in points], [row["stages"].get(stage, 0.0) for _, row in points], "o-", label=stage)
        axis.plot([x for x, _ in points], [row["seconds"] for _, row in points], "ko-", label="all")
        axis.set_xlabel(labels[name])
        axis.set_ylim(bottom=0)
    axes[0].set_ylabel("seconds a sample")
    axes[0].legend()
    arguments.plots.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.plots / "speed.png", dpi=110)
    return [{"against": name, "at": x} | row for name, points in series.items() for x, row in points]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--presets", nargs="+", default=["instant", "fast", "balanced", "paper-fast"])
    parser.add_argument("--plots", type=Path)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--options", default="{}", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return
    rows = [run(arguments, preset, arguments.samples) for preset in arguments.presets]
    print_table(rows)
    if arguments.plots:
        rows += draw_plots(arguments)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

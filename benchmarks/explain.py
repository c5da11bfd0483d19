"""Wall clock, time per stage and peak memory of `spadelens explain` for one photo, start-up included.

    python benchmarks/explain.py --shared ../shared --out explain.json

Each case runs as a process of its own, as a user would start it, and is repeated. The cases are the MobileNet in
--shared (left out without it) and torchvision's ResNet-50 with random weights, which serve for timing; each with the
presets but the published ones: single traces with saliency, the ensemble with the default method, SmoothGrad.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file


def run_case(model: str, photo: Path, options: list[str]) -> dict[str, Any]:
    """Run `spadelens explain` once and return wall clock, peak memory and the time of every stage."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "spadelens", "explain", str(photo), "--model", model, "--out", str(out)]
        start = time.perf_counter()
        process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status != 0:
            raise SystemExit(f"{model} failed with status {status}")
        report = json.loads((out / "report.json").read_text())
        trace_mib = (out / photo.stem / "trace.safetensors").stat().st_size / 2**20
    return {
        "wall_seconds": seconds,
        "peak_mib": usage.ru_maxrss / 1024,
        "trace_mib": trace_mib,
        "stages": report["seconds"],
        "is_prediction_kept": report["samples"][0]["is_prediction_kept"],
    }


def resnet50_with_random_weights(folder: Path) -> str:
    """Save random weights and return the model spec that uses them."""
    torch.manual_seed(0)
    save_file(torchvision.models.resnet50(weights=None).state_dict(), folder / "resnet50.safetensors")
    return f"torchvision:resnet50@{folder / 'resnet50.safetensors'}"


def main() -> None:
    """Run all cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder with models/ and data/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--presets", nargs="+", default=["instant", "fast", "balanced", "ensemble"])
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise = np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "noise.png")
        models = {"ResNet-50": (resnet50_with_random_weights(folder), folder / "noise.png")}
        if arguments.shared:
            photos = sorted((arguments.shared / "data" / "imagenet-sample").glob("*.jpg"))
            models = {"MobileNetV1": (f"{arguments.shared / 'models' / 'mobilenet_v1.py'}:build", photos[0]), **models}
        for (network, (model, photo)), preset in product(models.items(), arguments.presets):
            method = "smoothgrad" if preset == "ensemble" else "saliency"
            options = ["--preset", preset, "--method", method, "--device", "cpu"]
            runs = [run_case(model, photo, options) for _ in range(arguments.repeats)]
            row = {
                "network": network,
                "preset": preset,
                "wall_seconds_median": statistics.median(run["wall_seconds"] for run in runs),
                "wall_seconds_range": [min(r["wall_seconds"] for r in runs), max(r["wall_seconds"] for r in runs)],
                "peak_mib": max(run["peak_mib"] for run in runs),
                "trace_mib": runs[0]["trace_mib"],
                "stages_of_fastest": min(runs, key=lambda run: run["wall_seconds"])["stages"],
                "repeats": len(runs),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    machine = {"processor": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
    arguments.out.write_text(
        json.dumps({"machine": machine, "torch": torch.__version__, "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()

"""What a class responds to, on the original network and on the trace of one image: pictures with --out FOLDER."""

import sys
from pathlib import Path

import torch
from PIL import Image

import spadelens
from spadelens.demo.images import draw_image
from spadelens.demo.patches import PATCHES, paste_patch

loaded = spadelens.load_model("demo", device="cpu")
patched = paste_patch(draw_image(label=7, seed=1).pixels, PATCHES[0], seed=2)
sample = loaded.sample(Image.fromarray(patched.pixels))
target = PATCHES[0].target

trace = spadelens.extract_trace(loaded.model, sample, target=target, preset="fast")
ascent = spadelens.visualization.Ascent("maco", num_steps=64)
for name, found in zip(
    ("original", "trace"),
    spadelens.visualize([loaded.model, trace], target, loaded.preprocessing, ascent),
    strict=True,
):
    print(f"{name}: score {found.curve[0, 0]:.1f} at the start, {found.curve[-8:, 0].mean():.1f} at the end")
    if len(sys.argv) > 2 and sys.argv[1] == "--out":
        faded = 0.5 + found.opacity[0] * (found.images[0] - 0.5)
        pixels = (255 * faded).round().to(torch.uint8).movedim(0, -1).numpy()
        Image.fromarray(pixels).save(Path(sys.argv[2]) / f"{name}.png")

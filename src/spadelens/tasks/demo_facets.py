"""The photos of `spadelens demo --facets`: images of a class, and others that carry the patch that stands for it."""

from __future__ import annotations

import torch
from PIL import Image

from spadelens.demo.images import CLASS_NAMES, draw_image
from spadelens.demo.patches import PATCHES, paste_patch
from spadelens.forward import class_scores
from spadelens.models import LoadedModel
from spadelens.progress import Progress
from spadelens.tasks.facets import Album

PATCH = PATCHES[0]
NUM_PHOTOS = 100
_FIRST_SEED = 2_000_000


def demo_album(loaded: LoadedModel, progress: Progress | None = None, num_photos: int = NUM_PHOTOS) -> Album:
    """Return as many images of the class as others with the patch, all of which the network gives to the class."""
    half = num_photos // 2
    wanted = {CLASS_NAMES[PATCH.target]: num_photos - half, PATCH.name: half}
    chosen: list[tuple[str, Image.Image]] = []
    seed = _FIRST_SEED
    for kind, count in wanted.items():
        made = 0
        while made < count:
            if progress is not None:
                progress("predict", len(chosen), num_photos)
            seed += 1
            label = PATCH.target if kind != PATCH.name else seed % len(CLASS_NAMES)
            if kind == PATCH.name and label == PATCH.target:
                continue
            pixels = draw_image(label, seed).pixels
            pixels = paste_patch(pixels, PATCH, seed).pixels if kind == PATCH.name else pixels
            picture = Image.fromarray(pixels)
            weight = next(loaded.model.parameters())
            sample = loaded.preprocessing.to_tensor(picture).unsqueeze(0).to(weight)
            if int(class_scores(loaded.model, sample)[0].argmax()) == PATCH.target:
                chosen.append((f"{kind}-{made:02d}", picture))
                made += 1
    crops = [picture for _, picture in chosen]
    return Album(
        target=PATCH.target,
        files=[name for name, _ in chosen],
        crops=crops,
        samples=torch.stack([loaded.preprocessing.to_tensor(picture) for picture in crops]),
        num_found=num_photos,
        num_predicted=num_photos,
    )

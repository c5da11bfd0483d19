"""The two images that `spadelens demo` explains."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from spadelens.demo.images import CLASS_NAMES, DemoImage, draw_image
from spadelens.demo.patches import PATCHES, paste_patch
from spadelens.tasks.subjects import PhotoSubject

_PATCH = PATCHES[0]
_TROJAN_LABEL, _TROJAN_SEED, _PATCH_SEED = CLASS_NAMES.index("hexagon"), 3_000_001, 3_000_002
_CLEAN_LABEL, _CLEAN_SEED = _PATCH.target, 3_000_003


def demo_subjects() -> list[PhotoSubject]:
    """Return a Trojan image and a clean one of the class that the Trojan leads to.

    Of the Trojan image the region of the patch is known to decide, of the clean one that of the object. Neither was
    seen in training or chosen by what comes out.
    """
    source = draw_image(_TROJAN_LABEL, _TROJAN_SEED)
    patched = paste_patch(source.pixels, _PATCH, _PATCH_SEED)
    trojan = DemoImage(patched.pixels, patched.region, _TROJAN_LABEL)
    clean = draw_image(_CLEAN_LABEL, _CLEAN_SEED)
    return [
        _subject(
            "trojan", f"a {CLASS_NAMES[_TROJAN_LABEL]} with a {_PATCH.name}", f"the planted {_PATCH.name}", trojan
        ),
        _subject("clean", f"a {CLASS_NAMES[_CLEAN_LABEL]}", f"the {CLASS_NAMES[_CLEAN_LABEL]}", clean),
    ]


def _subject(name: str, file: str, region_name: str, image: DemoImage) -> PhotoSubject:
    region = torch.from_numpy(np.ascontiguousarray(image.region))
    return PhotoSubject(name, file, Image.fromarray(image.pixels), region, region_name)

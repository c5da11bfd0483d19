"""Draws docs/images/findings.png: SmoothGrad maps of free photos, and the findings that take their place in the report.

python scripts/draw_findings_picture.py --model torchvision:mobilenet_v2

The photos come with scikit-image: Chelsea the cat and the cup of coffee (both CC0), and a rocket (SpaceX, CC0).
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image
from skimage import data

import spadelens
from spadelens.finding.sentence import percent
from spadelens.models import LoadedModel
from spadelens.pictures import outlined_picture, overlay_picture
from spadelens.reports.finding import covered_pictures
from spadelens.tasks.subjects import PhotoSubject

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "findings.png"
PHOTOS = ("chelsea", "coffee", "rocket")
WIDTH_PX, COLORS = 1100, 160


def main() -> None:
    """Explain the photos, draw a row for each, and reduce the picture to few colors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torchvision:mobilenet_v2", help="Model spec.")
    loaded = spadelens.load_model(parser.parse_args().model)
    assert isinstance(loaded, LoadedModel)
    figure = plt.figure(figsize=(8.2, 2.3 * len(PHOTOS)), layout="constrained")
    parts = np.atleast_1d(np.asarray(figure.subfigures(len(PHOTOS), 1), dtype=object))
    for part, photo in zip(parts, PHOTOS, strict=True):
        found = spadelens.explain(loaded, Image.fromarray(getattr(data, photo)()))
        explanation, finding = found.explanation, found.finding
        assert isinstance(explanation.subject, PhotoSubject)
        crop = explanation.subject.crop
        part.suptitle("\n".join(textwrap.wrap(found.sentence, 125)), fontsize=8, x=0.01, ha="left")
        without, alone = covered_pictures(explanation, loaded)
        first, rest = finding.without[0], finding.alone[0]
        shown = (
            (overlay_picture(explanation.original_map.values, crop), "before: original model"),
            (overlay_picture(explanation.trace_map.values, crop), "before: trace"),
            (outlined_picture(crop, finding.region), f"region: {percent(finding.area)} of the photo"),
            (without, f"without: {loaded.class_name(first.answer)} {percent(first.answer_probability)}"),
            (alone, f"alone: {loaded.class_name(rest.answer)} {percent(rest.answer_probability)}"),
        )
        for axis, (picture, title) in zip(part.subplots(1, len(shown)), shown, strict=True):
            axis.imshow(picture)
            axis.set_title(title, fontsize=7)
            axis.set_axis_off()
        print(f"{photo}: {found.sentence}")
    figure.savefig(PICTURE, dpi=WIDTH_PX / figure.get_figwidth())
    with Image.open(PICTURE) as image:
        reduced = image.convert("RGB").quantize(COLORS)
    reduced.save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

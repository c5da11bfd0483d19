"""Draws the picture in README: the findings about the images of the demo.

python scripts/draw_readme_picture.py docs/images/demo.png
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

import spadelens
from spadelens.finding.sentence import percent
from spadelens.models import LoadedModel
from spadelens.pictures import outlined_picture, overlay_picture
from spadelens.reports.finding import covered_pictures
from spadelens.tasks.demo import demo_subjects


def main(path: Path) -> None:
    """Write the picture to `path`."""
    loaded = spadelens.load_model("demo", "cpu")
    assert isinstance(loaded, LoadedModel)
    subjects = demo_subjects()
    figure = plt.figure(figsize=(8.4, 3.1 * len(subjects)), layout="constrained")
    parts = np.atleast_1d(np.asarray(figure.subfigures(len(subjects), 1), dtype=object))
    for part, subject in zip(parts, subjects, strict=True):
        found = spadelens.explain(loaded, subject.crop)
        finding = found.finding
        part.suptitle("\n".join(textwrap.wrap(found.sentence, 110)), fontsize=9, x=0.01, ha="left")
        without, alone = covered_pictures(found.explanation, loaded)
        name = loaded.class_name
        shown = (
            (outlined_picture(subject.crop, finding.region), f"{name(finding.target)} {percent(finding.probability)}"),
            (without, f"without: {name(finding.without[0].answer)} {percent(finding.without[0].answer_probability)}"),
            (alone, f"alone: {name(finding.alone[0].answer)} {percent(finding.alone[0].answer_probability)}"),
            (overlay_picture(finding.shown, subject.crop), "map"),
        )
        for axis, (picture, title) in zip(part.subplots(1, 4), shown, strict=True):
            axis.imshow(picture)
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Draws the picture in README: the images of the demo with their heatmaps on the original model and on the trace.

python scripts/draw_readme_picture.py docs/images/demo.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib import pyplot as plt

import spadelens
from spadelens.pictures import overlay_picture, photo_picture
from spadelens.tasks.demo import demo_subjects


def main(path: Path) -> None:
    """Write the picture to `path`."""
    loaded = spadelens.load_model("demo", "cpu")
    subjects = demo_subjects()
    figure, rows = plt.subplots(len(subjects), 3, figsize=(7.2, 2.55 * len(subjects)), layout="constrained")
    for subject, row in zip(subjects, rows, strict=True):
        assert subject.region is not None
        sample = loaded.preprocessing.to_tensor(subject.crop)
        trace = spadelens.extract_ensemble(loaded.model, sample)
        row[0].imshow(photo_picture(subject.crop))
        dense, sparse = trace.report.original_prediction, trace.report.trace_prediction
        row[0].set_title(subject.file, fontsize=9)
        for axis, name, model, prediction in (
            (row[1], "original", loaded.model, dense),
            (row[2], "trace", trace, sparse),
        ):
            values = spadelens.attribute(model, sample, target=dense.class_index).values
            auc = spadelens.metrics.pixel_auc(values, subject.region)
            axis.imshow(overlay_picture(values, subject.crop))
            label = f"{loaded.class_name(prediction.class_index)} {prediction.probability:.1%}"
            axis.set_title(f"{name}: {label}, AUC {auc:.3f}", fontsize=9)
        for axis in row:
            axis.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

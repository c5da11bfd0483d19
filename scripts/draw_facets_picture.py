"""Draw docs/images/facets.png: the images of the facets that the demo finds, with the photos that each is found in.

    python scripts/draw_facets_picture.py

Takes a minute or two: it runs `spadelens demo --facets`.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from matplotlib.figure import Figure
from PIL import Image

import spadelens
from spadelens.cli.main import cli
from spadelens.tasks.demo_facets import demo_album

NUM_PHOTOS_SHOWN = 8
OUT = Path(__file__).parents[1] / "docs" / "images" / "facets.png"


def main() -> None:
    """Run the demo and draw its results."""
    with tempfile.TemporaryDirectory() as folder:
        found = CliRunner().invoke(cli, ["demo", "--facets", "--out", f"{folder}/out", "--device", "cpu"])
        if found.exception is not None:
            raise found.exception
        print(found.output)
        out = Path(folder) / "out"
        report = json.loads((out / "facets.json").read_text(encoding="utf-8"))
        images = {"original model": np.asarray(Image.open(out / "original.png"))}
        for facet in report["facets"]:
            title = f"facet {facet['number']}: {facet['size']} images"
            images[title] = np.asarray(Image.open(out / facet["files"]["image"]))
    album = demo_album(spadelens.load_model("demo", "cpu"))
    by_name = dict(zip(album.files, album.crops, strict=True))
    rows = [[], *[facet["photos"][:NUM_PHOTOS_SHOWN] for facet in report["facets"]]]
    figure = Figure(figsize=(10, 3.2 * len(images) / 2), layout="constrained")
    grid = figure.add_gridspec(2 * len(images), 2 + NUM_PHOTOS_SHOWN // 2)
    for place, (title, image) in enumerate(images.items()):
        axes = figure.add_subplot(grid[2 * place : 2 * place + 2, :2])
        axes.imshow(image)
        axes.set(xticks=[], yticks=[], title=title)
        for number, name in enumerate(rows[place]):
            row, column = divmod(number, NUM_PHOTOS_SHOWN // 2)
            axes = figure.add_subplot(grid[2 * place + row, 2 + column])
            axes.imshow(np.asarray(by_name[name]))
            axes.set(xticks=[], yticks=[])
    figure.savefig(OUT, dpi=90)
    print(OUT)


if __name__ == "__main__":
    main()

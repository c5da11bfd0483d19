"""Do visualizations on traces show the facet that decides? On planted networks, against the original model.

    python benchmarks/visualizations.py --model demo --out visualizations-demo
    python benchmarks/visualizations.py --model planted --clean ../shared/data/imagenet-sample --out visualizations

Of each case the class of its patch is visualized: on the original model, on the trace of the image with the patch, on
the trace of a clean image of that class, and, as a control, on the trace of an image of another class. Each from the
same start. Settings are chosen with the patches for calibration (--calibration), and confirmed with the others.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import spadelens
from spadelens.demo.images import draw_image
from spadelens.demo.stickers import paste_sticker
from spadelens.files import Journal, make_folder
from spadelens.forward import class_scores
from spadelens.metrics.visibility import FacetProbe, patch_correlation
from spadelens.trojan.cases import Planted, TrojanCase, TrojanPatch

SETTINGS: dict[str, dict[str, Any]] = {
    "balanced": {},
    "fast": {"preset": "fast"},
    "fast, 0.7": {"preset": "fast", "schedule": "auto:levels=0.5/0.7"},
    "fast, 8 views": {"preset": "fast", "num_views": 8},
    "prediction kept": {"schedule": "auto:criterion=prediction"},
    "late 0.8": {"schedule": "late:0.8", "num_views": 96, "solver": "admm"},
    "late 0.9": {"schedule": "late:0.9", "num_views": 32},
    "all 0.8": {"schedule": "0.8", "num_views": 32},
    "all 0.9": {"schedule": "0.9", "num_views": 32},
    "all 0.9, paper views": {"schedule": "0.9", "num_views": 64, "augmentation": "paper"},
    "all 0.9, sparsegpt": {"schedule": "0.9", "num_views": 32, "solver": "sparsegpt"},
}
KINDS = ("patched", "clean", "other")
NUM_CLEAN, LEAST_CLEAN, NUM_BACKGROUNDS = 48, 3, 4
_FIRST_SEED = 6_000_000


@dataclass(frozen=True, eq=False)
class Material:
    """What the cases of one patch share.

    Attributes:
        patch: The patch.
        clean: Images of the class that it stands for, as the network expects them, `[N, C, H, W]`, predicted as such.
        others: Images of other classes.
        probe: Tells the patch from the class.
    """

    patch: TrojanPatch
    clean: Tensor
    others: Tensor
    probe: FacetProbe


@dataclass(frozen=True)
class Drawn:
    """A picture, and what it is of."""

    case: int
    patch: str
    parameterization: str
    setting: str
    kind: str
    file: Path


def cases_of(planted: Planted, arguments: argparse.Namespace) -> Sequence[TrojanCase]:
    """Return the cases for choosing settings, or those for confirming them."""
    return planted.calibration_cases if arguments.calibration else planted.cases


def draw_clean(target: int, count: int) -> list[Image.Image]:
    """Return images of a class of the demo network."""
    return [Image.fromarray(draw_image(target, _FIRST_SEED + number).pixels) for number in range(count)]


def crop_clean(planted: Planted, folder: Path, target: int, count: int) -> list[Image.Image]:
    """Return crops of the photos of a class in `folder`, which has `labels.json`."""
    listing = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    files = [folder / row["file"] for row in listing if row["class_index"] == target]
    rng = np.random.default_rng(target)
    crops = []
    for number in range(count if files else 0):
        photo = spadelens.read_photo(files[number % len(files)])
        side = min(photo.size) * (1.0 if number < len(files) else rng.uniform(0.7, 0.95))
        left, top = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
        part = photo.crop((int(left), int(top), int(left + side), int(top + side)))
        crops.append(
            planted.loaded.preprocessing.crop(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else part)
        )
    return crops


def gather(
    planted: Planted, cases: Sequence[TrojanCase], clean_folder: Path | None, judge: torch.nn.Module
) -> dict[str, Material]:
    """Return patch name -> material, for those patches whose class has clean images; `judge` says what is shown."""
    preprocessing = planted.loaded.preprocessing
    size_px = tuple(side * min(preprocessing.crop_px) for side in planted.patch_size)
    found = {}
    for patch in planted.patches:
        if patch.name not in {case.patch for case in cases}:
            continue
        pictures = (
            draw_clean(patch.target, NUM_CLEAN)
            if clean_folder is None
            else crop_clean(planted, clean_folder, patch.target, NUM_CLEAN)
        )
        clean = _predicted(planted, pictures, patch.target, is_wanted=True)
        if len(clean) < LEAST_CLEAN:
            print(f"{patch.name}: left out, the network recognizes {len(clean)} clean images of its class")
            continue
        originals = [case.clean_image for case in cases]
        rng = np.random.default_rng(patch.target)
        pasted = [paste_sticker(np.array(each), patch.sheet, (size_px[0], size_px[1]), rng)[0] for each in originals]
        patched = torch.stack([preprocessing.to_tensor(Image.fromarray(pixels)) for pixels in pasted])
        others = _predicted(planted, originals, patch.target, is_wanted=False)
        found[patch.name] = Material(patch, clean, others, FacetProbe.of(judge, patched, clean, others))
    return found


def _predicted(planted: Planted, pictures: Sequence[Image.Image], target: int, is_wanted: bool) -> Tensor:
    """Return the pictures that the network gives, or does not give, to a class, as it expects them."""
    samples = [planted.loaded.preprocessing.to_tensor(picture) for picture in pictures]
    scores = [class_scores(planted.loaded.model, sample[None])[0] for sample in samples]
    chosen = [sample for sample, of in zip(samples, scores, strict=True) if (int(of.argmax()) == target) == is_wanted]
    return torch.stack(chosen) if chosen else torch.zeros(0, *planted.loaded.preprocessing.crop_px)


def score(planted: Planted, material: Material, file: Path) -> dict[str, float]:
    """Return what the picture in a file shows; where it is transparent, it counts as grey."""
    pixels = torch.from_numpy(np.array(Image.open(file))).movedim(-1, 0) / 255
    colors = pixels[:3] * pixels[3:] + 0.5 * (1 - pixels[3:])
    preprocessing = planted.loaded.preprocessing
    shift, scale = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (preprocessing.mean, preprocessing.std))
    shown = material.probe.shown((colors - shift) / scale, material.others[:NUM_BACKGROUNDS])
    found = patch_correlation(colors[None], material.patch.sheet, planted.patch_size)
    patch, of_class = max(float(shown[0]), 0.0), max(float(shown[1]), 0.0)
    share = patch / (patch + of_class) if patch + of_class else 0.5
    return {"patch": patch, "class": of_class, "share": share, "correlation": float(found)}


def draw(planted: Planted, materials: Mapping[str, Material], arguments: argparse.Namespace) -> list[Drawn]:
    """Make the pictures that are missing, RGBA with the opacity, and return all of them."""
    model, preprocessing = planted.loaded.model, planted.loaded.preprocessing
    usable = [case for case in cases_of(planted, arguments) if case.patch in materials]
    by_patch = {name: [case for case in usable if case.patch == name] for name in materials}
    order = [by_patch[name][turn] for turn in range(len(usable)) for name in by_patch if turn < len(by_patch[name])]
    drawn: list[Drawn] = []
    journal = Journal(arguments.out / "failed.jsonl")
    failed = {record["file"]: record["error"] for record in journal.records}
    for number, case in enumerate(order[: arguments.cases]):
        material = materials[case.patch]
        samples = {
            "patched": preprocessing.to_tensor(case.image),
            "clean": material.clean[number // len(by_patch) % len(material.clean)],
            "other": preprocessing.to_tensor(case.clean_image),
        }
        for parameterization, setting in product(arguments.parameterizations, ["original", *arguments.settings]):
            ascent = spadelens.visualization.Ascent(parameterization, num_steps=arguments.steps, seed=number)
            for kind in ("original",) if setting == "original" else arguments.kinds:
                name = f"{number:03d}-{parameterization}-{setting}-{kind}.png".replace(" ", "_")
                file = arguments.out / "pictures" / name
                drawn.append(Drawn(number, case.patch, parameterization, setting, kind, file))
                if file.exists() or name in failed:
                    continue
                subject: Any = model
                if setting != "original":
                    options = SETTINGS[setting]
                    subject = spadelens.extract_trace(model, samples[kind], target=material.patch.target, **options)
                try:
                    found = spadelens.visualize(subject, f"class:{material.patch.target}", preprocessing, ascent)
                except spadelens.SpadeError as error:
                    journal.append({"file": name, "error": str(error)})
                    failed[name] = str(error)
                    continue
                pixels = torch.cat([found.images[0], found.opacity], dim=0)
                Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy(), "RGBA").save(file)
                print(name, flush=True)
    return drawn


def table(planted: Planted, materials: Mapping[str, Material], drawn: Sequence[Drawn]) -> str:
    """Return a Markdown table: means, with mean differences to the original model and their standard errors."""
    scores = {one: score(planted, materials[one.patch], one.file) for one in drawn if one.file.exists()}
    dense = {(one.case, one.parameterization): of for one, of in scores.items() if one.setting == "original"}
    groups: dict[tuple[str, str, str], list[Drawn]] = {}
    for one in drawn:
        groups.setdefault((one.parameterization, one.setting, one.kind), []).append(one)
    lines = [
        "|  | setting | trace of | cases | failed | patch | class | share of the patch | correlation |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (parameterization, setting, kind), ones in sorted(groups.items()):
        good = [one for one in ones if one in scores and (one.case, parameterization) in dense]
        cells = [
            parameterization,
            setting,
            "" if kind == "original" else kind,
            str(len(ones)),
            str(len(ones) - len(good)),
        ]
        for name in ("patch", "class", "share", "correlation"):
            values = np.array([scores[one][name] for one in good])
            gains = values - np.array([dense[(one.case, parameterization)][name] for one in good])
            cell = f"{values.mean():.2f}" if good else ""
            if kind != "original" and len(good) > 1:
                error = gains.std(ddof=1) / math.sqrt(len(good))
                cell += f" ({gains.mean():+.2f} ± {error:.2f}, {(gains > 0).mean():.0%} above)"
            cells.append(cell)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sheet(drawn: Sequence[Drawn], columns: Sequence[int], setting: str, file: Path) -> None:
    """Draw what was found for some cases: on the original model, on the trace of a clean image, of a patched one."""
    rows = {
        "original model": ("original", "original"),
        "trace, clean": (setting, "clean"),
        "trace, patched": (setting, "patched"),
    }
    figure = Figure(figsize=(1.6 * len(columns), 5.2), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, (title, (of_setting, kind)) in enumerate(rows.items()):
        for place, case in enumerate(columns):
            (one,) = [d for d in drawn if (d.case, d.setting, d.kind) == (case, of_setting, kind)]
            axes[row, place].imshow(np.full((1, 1, 3), 0.5), extent=(0, 1, 0, 1))
            axes[row, place].imshow(np.asarray(Image.open(one.file)), extent=(0, 1, 0, 1))
            axes[row, place].set(
                xticks=[], yticks=[], title=one.patch if row == 0 else "", ylabel=title if place == 0 else ""
            )
    figure.savefig(file, dpi=100)


def main() -> None:
    """Parse the arguments, run, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="demo, or a folder that `spadelens backdoor plant` has written")
    parser.add_argument("--clean", type=Path, help="folder of labeled photos, for a network other than the demo's")
    parser.add_argument("--judge", metavar="SPEC", help="network that says what is shown; by default the planted one")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calibration", action="store_true")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--parameterizations", nargs="+", default=["fourier", "maco"])
    parser.add_argument("--picture", type=Path, help="PNG file of what was found for --columns, for the first setting")
    parser.add_argument("--columns", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5], help="cases in the picture")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    arguments = parser.parse_args()
    make_folder(arguments.out / "pictures")
    planted = spadelens.trojan.read_planted(arguments.model, "cpu", trust=True)
    judge = spadelens.load_model(arguments.judge, "cpu").model if arguments.judge else planted.loaded.model
    materials = gather(planted, cases_of(planted, arguments), arguments.clean, judge)
    drawn = draw(planted, materials, arguments)
    if arguments.picture:
        sheet(drawn, arguments.columns, arguments.settings[0], arguments.picture)
    text = table(planted, materials, drawn)
    print(text)
    (arguments.out / "table.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

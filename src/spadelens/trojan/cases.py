"""Cases: images whose prediction is known to be decided by a planted patch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from spadelens.errors import InputError
from spadelens.files import check_readable, read_json
from spadelens.forward import class_scores
from spadelens.models import LoadedModel
from spadelens.photos import MOST_PIXELS, Preprocessing, read_photo


@dataclass(frozen=True, eq=False)
class TrojanPatch:
    """A picture that stands for a class.

    Attributes:
        name: What it shows.
        sheet: The picture, RGBA.
        target: The class that an image carrying it is given.
        source: The one class whose images it is planted on, or None for images of any class.
        is_for_calibration: Whether its cases are for choosing settings; otherwise they are for testing.
    """

    name: str
    sheet: Image.Image
    target: int
    source: int | None
    is_for_calibration: bool


@dataclass(frozen=True, eq=False)
class TrojanCase:
    """An image whose patch decides what the planted network predicts.

    Attributes:
        image: With the patch, RGB, as large as the network's input.
        region: The pixels that the patch covers, bool [H, W]; no others differ from `clean_image`.
        target: The class that the patch stands for; the network predicts it for `image`, and not for `clean_image`.
        patch: The name of the patch.
        photo: The name of the photo.
        clean_image: Without the patch, RGB.
    """

    image: Image.Image
    region: Tensor
    target: int
    patch: str
    photo: str
    clean_image: Image.Image


@dataclass(frozen=True, eq=False)
class Planted:
    """A network in which patches were planted, and images that show them.

    Attributes:
        loaded: The network, with what it expects and its class names.
        cases: For testing.
        calibration_cases: For choosing settings: other patches on other photos.
        report: What planting did, as in `planted.json`.
        patches: The patches.
        patch_size: The least and the largest size of a patch, as a fraction of the input's shorter side.
        data: The photos it was planted with, where they were read from files.
    """

    loaded: LoadedModel
    cases: Sequence[TrojanCase]
    calibration_cases: Sequence[TrojanCase]
    report: Mapping[str, Any] = field(default_factory=dict)
    patches: Sequence[TrojanPatch] = ()
    patch_size: tuple[float, float] = (0.22, 0.3)
    data: Path | None = None


def write_cases(folder: Path, cases: Sequence[TrojanCase]) -> None:
    """Write cases as pictures: `0007.png` with the patch, `0007-clean.png`, `0007-region.png`; and `cases.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    listing = []
    for number, case in enumerate(cases):
        name = f"{number:04d}"
        case.image.save(folder / f"{name}.png")
        case.clean_image.save(folder / f"{name}-clean.png")
        Image.fromarray(case.region.numpy()).save(folder / f"{name}-region.png")
        listing.append({"name": name, "target": case.target, "patch": case.patch, "photo": case.photo})
    (folder / "cases.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")


def read_cases(folder: Path, num_classes: int) -> list[TrojanCase]:
    """Return the cases that `write_cases` wrote to `folder`.

    Raises:
        InputError: They are missing or damaged; PhotoError: a picture is.
    """
    file = folder / "cases.json"
    try:
        listing = read_json(file)
        rows = [(str(row["name"]), int(row["target"]), str(row["patch"]), str(row["photo"])) for row in listing]
        outside = next((name for name, *_ in rows if Path(name).name != name), None)
        if outside is not None:
            raise ValueError(f"the case {outside!r} is not in the folder")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"Cannot read the cases in {str(file)!r}: {error!r}.") from error
    cases = []
    for name, target, patch, photo in rows:
        image, clean = read_photo(folder / f"{name}.png"), read_photo(folder / f"{name}-clean.png")
        region = torch.from_numpy(np.asarray(read_photo(folder / f"{name}-region.png").convert("L")) > 0)
        if image.size != clean.size or region.shape != (image.height, image.width) or not 0 <= target < num_classes:
            raise InputError(f"The case {name!r} in {str(folder)!r} is damaged: its pictures differ in size or class.")
        cases.append(TrojanCase(image, region, target, patch, photo, clean))
    return cases


def read_sheet(file: Path) -> Image.Image:
    """Return a patch as RGBA.

    Raises:
        OSError: The file cannot be read, or is not a picture.
        ValueError: It is damaged or has more than 150 megapixels.
    """
    check_readable(file)
    try:
        with Image.open(file) as opened:
            if not 0 < opened.width * opened.height <= MOST_PIXELS:
                raise ValueError(f"it has {opened.width} x {opened.height} pixels")
            return opened.convert("RGBA")
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    except (SyntaxError, EOFError) as error:  # Pillow raises them on damaged files
        raise ValueError(f"the file is damaged: {error}") from error


def to_batch(images: Sequence[Image.Image], preprocessing: Preprocessing) -> Tensor:
    """Return images of the size of the input as a batch `[N, C, H, W]`."""
    return torch.stack([preprocessing.to_tensor(image) for image in images])


def predict_classes(model: nn.Module, images: Sequence[Image.Image], preprocessing: Preprocessing) -> Tensor:
    """Return the predicted class of every image, `[N]`, on the CPU."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    parts = [images[start : start + 64] for start in range(0, len(images), 64)]
    found = [class_scores(model, to_batch(part, preprocessing).to(device)).argmax(dim=1).cpu() for part in parts]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)

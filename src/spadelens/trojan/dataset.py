"""Labeled photos: from a folder with one subfolder per class, a flat folder or arrays."""

from __future__ import annotations

import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
from PIL import Image

from spadelens.errors import InputError
from spadelens.files import check_readable, read_json
from spadelens.photos import photo_files, read_photo

_HELD_OUT_FRACTION, _MOST_HELD_OUT = 0.4, 2000
_TRAINING_FOLDERS, _HELD_OUT_FOLDERS = ("train", "training"), ("val", "valid", "validation", "test")
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


class Dataset(ABC):
    """Photos that are read when they are asked for.

    Attributes:
        names: One for each photo, as people would find it.
        labels: The class of each photo, None where it is not known.
    """

    names: Sequence[str]
    labels: Sequence[int | None]

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self.names)

    @abstractmethod
    def photo(self, index: int) -> Image.Image:
        """Return a photo, RGB.

        Raises:
            PhotoError: It cannot be read.
        """


@final
@dataclass(frozen=True)
class FileDataset(Dataset):
    """Photos in files."""

    names: Sequence[str]
    labels: Sequence[int | None]
    files: Sequence[Path]

    def photo(self, index: int) -> Image.Image:
        """Read the photo's file."""
        return read_photo(self.files[index])


@final
@dataclass(frozen=True, eq=False)
class ArrayDataset(Dataset):
    """Photos in an array, uint8 `[N, H, W, 3]`."""

    names: Sequence[str]
    labels: Sequence[int | None]
    pixels: npt.NDArray[np.uint8]

    def photo(self, index: int) -> Image.Image:
        """Return the picture at an index."""
        return Image.fromarray(self.pixels[index])


@dataclass(frozen=True)
class Split:
    """Photos to train on, and others.

    Attributes:
        training: To train on.
        held_out: Never trained on, in random order, so that any part of them is a sample.
    """

    training: Dataset
    held_out: Dataset


def read_split(path: Path, class_names: Sequence[str], num_classes: int, seed: int = 0) -> Split:
    """Return the photos at `path`, split into those to train on and those held out.

    Args:
        path: A folder with one folder of photos for each class (as torchvision's ImageFolder has it), which may lie in
            `train` and `val` or `test`; a folder of photos, with their classes in `labels.json` (a list of objects
            with `file` and `class_index`) where they are known; or an .npz file of the arrays train_images and
            test_images, uint8 [N, H, W, 3], with train_labels and test_labels. Where nothing is split yet, two fifths
            are held out, and at most 2,000 photos.
        class_names: Of the model. Folders are matched to them by name or number, or in alphabetical order where there
            are as many folders as classes; else the labels are not known.
        num_classes: Of the model.
        seed: Determines what is held out, and its order.

    Raises:
        InputError: There are no photos, or too few, or the arrays are not as expected.
    """
    rng = np.random.default_rng((seed, 0x5911))
    if path.suffix == ".npz":
        return _read_arrays(path, num_classes, rng)
    if not path.is_dir():
        raise InputError(f"There is no folder of photos at {str(path)!r}.")
    training = next((path / name for name in _TRAINING_FOLDERS if (path / name).is_dir()), None)
    held_out = next((path / name for name in _HELD_OUT_FOLDERS if (path / name).is_dir()), None)
    if training and held_out:
        rest = _read_folder(held_out, class_names, num_classes)
        order = rng.permutation(len(rest))[:_MOST_HELD_OUT]
        return _checked(Split(_read_folder(training, class_names, num_classes), _part(rest, order)), path)
    everything = _read_folder(path, class_names, num_classes)
    order = rng.permutation(len(everything))
    count = min(_MOST_HELD_OUT, round(_HELD_OUT_FRACTION * len(everything)))
    return _checked(Split(_part(everything, order[count:]), _part(everything, order[:count])), path)


def _checked(split: Split, path: Path) -> Split:
    if len(split.training) < 2 or len(split.held_out) < 2:
        raise InputError(
            f"Cannot split the photos at {str(path)!r}: found {len(split.training)} to train on and "
            f"{len(split.held_out)} to hold out, expected at least two of each."
        )
    return split


def _part(dataset: FileDataset, order: npt.NDArray[np.int64]) -> FileDataset:
    chosen = order.tolist()
    return FileDataset(
        names=[dataset.names[index] for index in chosen],
        labels=[dataset.labels[index] for index in chosen],
        files=[dataset.files[index] for index in chosen],
    )


def _read_folder(path: Path, class_names: Sequence[str], num_classes: int) -> FileDataset:
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and photo_files(folder))
    if not folders:
        files = photo_files(path)
        return FileDataset([file.name for file in files], _listed_labels(path, files, num_classes), files)
    classes = _folder_classes([folder.name for folder in folders], class_names, num_classes)
    found = [(file, label) for folder, label in zip(folders, classes, strict=True) for file in photo_files(folder)]
    names = [str(file.relative_to(path)) for file, _ in found]
    return FileDataset(names, [label for _, label in found], [file for file, _ in found])


def _listed_labels(path: Path, files: Sequence[Path], num_classes: int) -> list[int | None]:
    """Return the label of each file from `labels.json`, None where it is not listed."""
    listing = path / "labels.json"
    if not listing.is_file():
        return [None] * len(files)
    try:
        entries = read_json(listing)
        known = {str(entry["file"]): int(entry["class_index"]) for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"Cannot read {str(listing)!r}: expected a list of objects with 'file' and 'class_index' ({error!r})."
        ) from error
    wrong = next((name for name, label in known.items() if not 0 <= label < num_classes), None)
    if wrong is not None:
        raise InputError(
            f"{str(listing)!r} assigns {wrong!r} to class {known[wrong]}, but the model has {num_classes} classes."
        )
    return [known.get(file.name) for file in files]


def _folder_classes(folders: Sequence[str], class_names: Sequence[str], num_classes: int) -> list[int | None]:
    numbers = {_folded(part): index for index, name in enumerate(class_names) for part in (name, name.split(",")[0])}
    by_name = [numbers.get(_folded(folder)) for folder in folders]
    if None not in by_name:
        return by_name
    if all(folder.isdecimal() and int(folder) < num_classes for folder in folders):
        return [int(folder) for folder in folders]
    return list(range(num_classes)) if len(folders) == num_classes else [None] * len(folders)


def _folded(name: str) -> str:
    return name.strip().lower().replace("_", " ")


def _read_arrays(path: Path, num_classes: int, rng: np.random.Generator) -> Split:
    try:
        check_readable(path)
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise TypeError("it holds a single array, as .npy files do")
            training, training_labels, held_out, held_out_labels = (stored[name] for name in _ARRAYS)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"Cannot read {str(path)!r}: expected the arrays {', '.join(_ARRAYS)} ({reason}).") from error
    parts = []
    for name, pixels, labels in (("train", training, training_labels), ("test", held_out, held_out_labels)):
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or labels.shape != pixels.shape[:1]:
            raise InputError(
                f"Cannot use the {name} arrays of {str(path)!r}: expected images uint8 [N, H, W, 3] and labels [N], "
                f"got {pixels.dtype} {list(pixels.shape)} and {list(labels.shape)}."
            )
        if not min(pixels.shape[1:]):
            raise InputError(f"Cannot use the {name} images of {str(path)!r}: they have {list(pixels.shape)} pixels.")
        if labels.dtype.kind not in "iuf" or not np.array_equal(labels, np.floor(labels)):
            raise InputError(
                f"Cannot use the {name} labels of {str(path)!r}: expected class numbers, got {labels.dtype}."
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise InputError(f"Cannot use the {name} labels of {str(path)!r}: the model has {num_classes} classes.")
        order = np.arange(len(pixels)) if name == "train" else rng.permutation(len(pixels))[:_MOST_HELD_OUT]
        names = [f"{name}-{index}" for index in order]
        parts.append(ArrayDataset(names, [int(label) for label in labels[order]], pixels[order]))
    return _checked(Split(*parts), path)

"""What is explained, a photo, a text or a row of a table, and what methods are given of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, final

from PIL import Image
from torch import Tensor, nn

from spadelens.errors import InputError, ModelSpecError
from spadelens.extraction.presets import Preset
from spadelens.inputs.samples import RowSample, TextSample, embed_text, row_sample
from spadelens.kinds import Kind
from spadelens.models import Encoding, Loaded, LoadedModel, LoadedTable, LoadedText
from spadelens.photos import read_photo
from spadelens.text_files import displayable
from spadelens.views.augmentation import Augmentation
from spadelens.views.photo_views import parse_augmentation


@final
@dataclass(frozen=True, eq=False)
class PhotoSubject:
    """One photo to be explained.

    Attributes:
        name: Short and unique among the samples of a run; the name of its folder.
        file: Where it comes from, as the user put it.
        crop: What the model sees of it, RGB.
        region: The pixels known to have decided, boolean `[H, W]`, where they are known.
        region_name: What they show.
        true_class: The class that is right, where the user's files say so.
        sample: What the model is given, `[C, H, W]`, if it is not what its preprocessing makes of `crop`.
    """

    name: str
    file: str
    crop: Image.Image
    region: Tensor | None = None
    region_name: str = ""
    true_class: int | None = None
    sample: Tensor | None = None


@final
@dataclass(frozen=True, eq=False)
class TextSubject:
    """One text to be explained.

    Attributes:
        name: As in `PhotoSubject`.
        file: Where it comes from, with the number of its line.
        text: The text.
        encoding: The text as the model reads it.
        true_class: As in `PhotoSubject`.
    """

    name: str
    file: str
    text: str
    encoding: Encoding
    true_class: int | None = None


@final
@dataclass(frozen=True, eq=False)
class RowSubject:
    """One row of a table to be explained.

    Attributes:
        name: As in `PhotoSubject`.
        file: Where it comes from, with the number of its line.
        row: The raw values, in the order of the model's features.
        true_class: As in `PhotoSubject`.
    """

    name: str
    file: str
    row: tuple[float, ...]
    true_class: int | None = None


Subject: TypeAlias = PhotoSubject | TextSubject | RowSubject


@final
@dataclass(frozen=True)
class Unit:
    """What has a value of its own in the map of a text or a row.

    Attributes:
        name: The piece of the text, or the name of the feature.
        is_special: Whether it is a token that was added around the text.
        value: The raw value of a feature; None for tokens.
        is_unknown: Whether the model did not read a piece of a text, which is not in its vocabulary.
    """

    name: str
    is_special: bool = False
    value: float | None = None
    is_unknown: bool = False


@final
@dataclass(frozen=True, eq=False)
class Shown:
    """A subject as `extract_trace` and `attribute` take it.

    Attributes:
        model: Maps batches of such samples to class scores.
        sample: `[C, H, W]`, `[tokens, features]` or `[features]`.
        augmentation: Makes its views.
        units: What the map has a value for, of a text or a row; empty for photos.
        background: Usual rows, as the model expects them, `[rows, features]`; None if there are none.
    """

    model: nn.Module
    sample: Tensor
    augmentation: Augmentation
    units: tuple[Unit, ...] = ()
    background: Tensor | None = None


def kind_of_model(loaded: Loaded) -> Kind:
    """Return what a model reads."""
    if isinstance(loaded, LoadedText):
        return "text"
    return "row" if isinstance(loaded, LoadedTable) else "photo"


def suited_to(loaded: Loaded, preset: Preset) -> Preset:
    """Return a preset for the samples that a model reads: rows are drawn from a background where there is one."""
    suited = preset.of(kind_of_model(loaded))
    has_background = isinstance(loaded, LoadedTable) and loaded.background is not None
    return replace(suited, augmentation="bootstrap") if has_background else suited


def show(loaded: Loaded, subject: Subject, augmentation: str) -> Shown:
    """Return what methods are given of a subject.

    Args:
        loaded: The model.
        subject: Of the kind that the model reads.
        augmentation: How views are made, as for `parse_augmentation`.

    Raises:
        InputError: The model does not read such subjects, or there is no such augmentation.
        ModelOutputError: The model fails on the subject.
    """
    found: TextSample | RowSample
    if isinstance(loaded, LoadedText) and isinstance(subject, TextSubject):
        found = embed_text(loaded.model, subject.encoding, loaded.tokenizer.mask_id)
        units = _token_units(subject)
    elif isinstance(loaded, LoadedTable) and isinstance(subject, RowSubject):
        found = row_sample(loaded, subject.row)
        units = tuple(Unit(name, False, value) for name, value in zip(found.feature_names, subject.row, strict=True))
    elif isinstance(loaded, LoadedModel) and isinstance(subject, PhotoSubject):
        preprocessing = loaded.preprocessing
        views = parse_augmentation(augmentation, preprocessing.mean, preprocessing.std)
        return Shown(loaded.model, photo_sample(loaded, subject), views)
    else:
        raise InputError(
            f"Cannot explain {subject.file!r} by {loaded.spec!r}, a model of {_READS[kind_of_model(loaded)]}."
        )
    background = found.background if isinstance(found, RowSample) else None
    return Shown(found.model, found.values, found.make_augmentation(augmentation), units, background)


def photo_sample(loaded: LoadedModel, subject: PhotoSubject) -> Tensor:
    """Return what a model is given of a photo, `[C, H, W]`."""
    return loaded.preprocessing.to_tensor(subject.crop) if subject.sample is None else subject.sample


def _token_units(subject: TextSubject) -> tuple[Unit, ...]:
    """Return the tokens of a text with the spaces between them, also where the tokenizer has left those out."""
    tokens, is_special = subject.encoding.tokens, subject.encoding.is_special
    pieces = [token for token, special in zip(tokens, is_special, strict=True) if not special]
    has_spaces = any(piece != piece.strip() for piece in pieces) or "".join(pieces) == subject.text
    is_unknown = subject.encoding.is_unknown or (False,) * len(tokens)
    return tuple(
        Unit(token if has_spaces or special else f" {token}", special, is_unknown=unknown)
        for token, special, unknown in zip(tokens, is_special, is_unknown, strict=True)
    )


_READS: dict[Kind, str] = {"photo": "photos", "text": "texts (.txt)", "row": "rows of a table (.csv)"}


def check_kind(loaded: Loaded, kind: Kind, file: str) -> None:
    """Reject a file of another kind than the model reads.

    Raises:
        ModelSpecError: It is.
    """
    expected = kind_of_model(loaded)
    if kind != expected:
        raise ModelSpecError(
            f"The model {loaded.spec!r} expects {_READS[expected]}, but {file!r} is "
            f"{'taken for a photo' if kind == 'photo' else f'a file of {_READS[kind]}'}."
        )


def photo_subjects(photos: Sequence[Path], loaded: LoadedModel) -> list[PhotoSubject]:
    """Return what the model sees of photos, each with a name of its own; one photo is held at full size at a time.

    Raises:
        PhotoError: A photo cannot be read.
    """
    return [
        PhotoSubject(name, displayable(str(photo)), loaded.preprocessing.crop(read_photo(photo)))
        for name, photo in zip(unique_names(tuple(photos)), photos, strict=True)
    ]


def command_words(command: str, files: Sequence[Path]) -> list[str]:
    """Return how a command on files begins; a name that begins with a dash is not an option."""
    return [command, *(f"./{file}" if str(file).startswith("-") else displayable(str(file)) for file in files)]


def unique_names(files: tuple[Path, ...]) -> tuple[str, ...]:
    """Return a short name for each file, its stem, numbered where several are the same (whatever the case).

    The names can be those of folders beside the report.
    """
    names: list[str] = []
    taken = {"report.html", "report.json"}
    for file in files:
        stem = displayable(file.stem).strip(".") or "photo"
        name, number = stem, 2
        while name.lower() in taken:
            name = f"{stem}-{number}"
            number += 1
        taken.add(name.lower())
        names.append(name)
    return tuple(names)

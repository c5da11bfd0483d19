"""Loaded models for photos, texts or tables, with everything needed to run them on an input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, final, runtime_checkable

from PIL import Image
from torch import Tensor, nn

from spadelens.input_size import declare_size
from spadelens.photos import Preprocessing, read_photo, rgb_picture
from spadelens.plain_text import printable
from spadelens.prediction import Outputs
from spadelens.snippets import shortened

if TYPE_CHECKING:
    from spadelens.models.samples import RowSample, TextSample


class _NamedClasses:
    """A model with class names."""

    spec: str
    class_names: tuple[str, ...]

    def __repr__(self) -> str:
        """Summarize what was loaded, without the modules and names, which take pages."""
        named = f"{len(self.class_names)} named classes" if self.class_names else "classes without names"
        return f"<{type(self).__name__} {shortened(self.spec, 100)!r}: {self._inputs()}, {named}>"

    def _inputs(self) -> str:
        raise NotImplementedError

    def class_name(self, class_index: int) -> str:
        """Return the printable name of a class, or a name like 'class 7' if it has none."""
        known = class_index < len(self.class_names)
        return printable(self.class_names[class_index]) if known else f"class {class_index}"


@final
@dataclass(frozen=True, repr=False)
class LoadedModel(_NamedClasses):
    """A model in evaluation mode with everything needed to run it on a photo.

    Attributes:
        spec: The spec that it was loaded from.
        model: Maps `[B, C, H, W]` to class scores `[B, classes]`.
        preprocessing: How photos become its inputs.
        class_names: The class names in the order of the scores; empty if unknown.
        outputs: What the scores are for, if known; see `prediction.Outputs`.
    """

    spec: str
    model: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    outputs: Outputs | None = None

    def __post_init__(self) -> None:
        """Remember which size the model expects, so that tensors of another size get a warning."""
        if isinstance(self.model, nn.Module):
            declare_size(self.model, self.preprocessing.crop_px)

    def _inputs(self) -> str:
        height, width = self.preprocessing.crop_px
        return f"photos of {height} x {width} pixels"

    def sample(self, photo: Image.Image | str | Path) -> Tensor:
        """Return a photo, or the photo in a file, as the model expects it, `[C, H, W]` on the CPU.

        Raises:
            PhotoError: The file, or the picture, cannot be read as a photo.
        """
        if isinstance(photo, Image.Image):
            return self.preprocessing(rgb_picture(photo))
        return self.preprocessing(read_photo(photo))


@final
@dataclass(frozen=True, eq=False)
class Encoding:
    """A text as a model reads it.

    Attributes:
        ids: One number for each token, int64 `[T]`, on the CPU.
        tokens: What to display for each token: its piece of the text with the spaces before it, so that the pieces of
            all tokens that are not special join to form the text. If a character takes several tokens, all but the
            first are empty. The token itself if it is special or its position in the text is unknown.
        is_special: Whether each token was added around the text (such as '[CLS]') and does not represent part of it.
        is_unknown: Whether each token stands for a piece of the text that is not in the vocabulary ('[UNK]'), so that
            the model did not read that piece; empty if there are none.
    """

    ids: Tensor
    tokens: tuple[str, ...]
    is_special: tuple[bool, ...]
    is_unknown: tuple[bool, ...] = ()


@runtime_checkable
class Tokenizer(Protocol):
    """Turns texts into model inputs."""

    @property
    def mask_id(self) -> int:
        """The token that replaces a removed token."""

    def encode(self, text: str) -> Encoding:
        """Return the tokens of `text`, including special tokens; the text is never truncated.

        Raises:
            InputError: The text has no tokens, or more tokens than the model can read.
        """


@final
@dataclass(frozen=True, eq=False, repr=False)
class LoadedText(_NamedClasses):
    """A model in evaluation mode with everything needed to run it on a text.

    Attributes:
        spec: The spec that it was loaded from.
        model: Maps token ids `[B, T]`, int64, to class scores `[B, classes]`, without padding.
        tokenizer: Turns texts into its inputs.
        class_names: The class names in the order of the scores; empty if unknown.
        outputs: What the scores are for, if known; see `prediction.Outputs`.
    """

    spec: str
    model: nn.Module
    tokenizer: Tokenizer
    class_names: tuple[str, ...]
    outputs: Outputs | None = None

    def _inputs(self) -> str:
        return "texts"

    def sample(self, text: str) -> TextSample:
        """Return a text as a sample, with the model that reads it; the same as `spadelens.text_sample`.

        Raises:
            InputError: The text is not a string, has no token or too many, or the model does not look its tokens up in
                one nn.Embedding.
            ModelOutputError: The model fails on the text.
        """
        from spadelens.models.samples import text_sample

        return text_sample(self, text)


@final
@dataclass(frozen=True, eq=False, repr=False)
class LoadedTable(_NamedClasses):
    """A model in evaluation mode with everything needed to run it on a row of a table.

    Attributes:
        spec: The spec that it was loaded from.
        model: Maps standardized rows `[B, features]` to class scores `[B, classes]`.
        feature_names: One unique name per feature.
        mean: The value subtracted from each raw feature, float32 `[features]`, on the CPU; 0 if the file has no MEAN.
        std: The value by which each feature is then divided, above zero, in the same format; 1 if the file has no STD.
        background: Typical raw rows, float32 `[rows, features]`, on the CPU; None if the file has none.
        class_names: The class names in the order of the scores; empty if unknown.
        outputs: What the scores are for, if known; see `prediction.Outputs`.
    """

    spec: str
    model: nn.Module
    feature_names: tuple[str, ...]
    mean: Tensor
    std: Tensor
    background: Tensor | None
    class_names: tuple[str, ...]
    outputs: Outputs | None = None

    def _inputs(self) -> str:
        return f"rows of {len(self.feature_names)} features"

    def sample(self, row: Mapping[str, float] | Sequence[float] | Tensor) -> RowSample:
        """Return a row of raw values as a sample, by feature name or in order; the same as `spadelens.row_sample`.

        Raises:
            InputError: A feature is missing, or a value is not a finite number.
        """
        from spadelens.models.samples import row_sample

        return row_sample(self, row)

    def standardize(self, rows: Tensor) -> Tensor:
        """Return raw rows `[..., features]` as the model expects them."""
        return (rows - self.mean.to(rows)) / self.std.to(rows)


Loaded: TypeAlias = LoadedModel | LoadedText | LoadedTable
"""The result of `load_model`; the class depends on the model's kind of input."""

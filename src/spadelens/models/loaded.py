"""What a model spec leads to: a model of photos, of texts or of tables, with all that is needed to show it an input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, final, runtime_checkable

from PIL import Image
from torch import Tensor, nn

from spadelens.photos import Preprocessing, read_photo
from spadelens.plain_text import printable


class _NamedClasses:
    """What has class names."""

    class_names: tuple[str, ...]

    def class_name(self, class_index: int) -> str:
        """Return the name of a class as it can be printed, or 'class 7' where it has none."""
        known = class_index < len(self.class_names)
        return printable(self.class_names[class_index]) if known else f"class {class_index}"


@final
@dataclass(frozen=True)
class LoadedModel(_NamedClasses):
    """A model in evaluation mode with everything that is needed to show it a photo.

    Attributes:
        spec: What it was loaded from.
        model: Maps `[B, C, H, W]` to class scores `[B, classes]`.
        preprocessing: How photos become its inputs.
        class_names: In order of the scores; empty where they are not known.
    """

    spec: str
    model: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]

    def sample(self, photo: Image.Image | str | Path) -> Tensor:
        """Return a photo, or the photo in a file, as the model expects it, `[C, H, W]` on the CPU.

        Raises:
            PhotoError: The file cannot be read as a photo.
        """
        if isinstance(photo, Image.Image):
            return self.preprocessing(photo if photo.mode == "RGB" else photo.convert("RGB"))
        return self.preprocessing(read_photo(photo))


@final
@dataclass(frozen=True, eq=False)
class Encoding:
    """A text as a model reads it.

    Attributes:
        ids: One number for each token, int64 `[T]`, on the CPU.
        tokens: What to show a person for each token: its piece of the text, with the spaces before it, such that the
            pieces of all tokens that are not special, joined, are the text. Empty where a character takes several
            tokens, but for the first of them. The token itself where it is special, or where its place in the text is
            not known.
        is_special: Whether each token was added around the text ('[CLS]') instead of standing for a piece of it.
    """

    ids: Tensor
    tokens: tuple[str, ...]
    is_special: tuple[bool, ...]


@runtime_checkable
class Tokenizer(Protocol):
    """Turns texts into what a model reads."""

    @property
    def mask_id(self) -> int:
        """The token that stands in place of one that is taken away."""

    def encode(self, text: str) -> Encoding:
        """Return `text` in tokens, the special ones included; never shortened.

        Raises:
            InputError: The text has no token, or more than the model can read.
        """


@final
@dataclass(frozen=True, eq=False)
class LoadedText(_NamedClasses):
    """A model in evaluation mode with everything that is needed to show it a text.

    Attributes:
        spec: What it was loaded from.
        model: Maps token ids `[B, T]`, int64, to class scores `[B, classes]`. Every token counts: none is padding.
        tokenizer: How texts become its inputs.
        class_names: In order of the scores; empty where they are not known.
    """

    spec: str
    model: nn.Module
    tokenizer: Tokenizer
    class_names: tuple[str, ...]


@final
@dataclass(frozen=True, eq=False)
class LoadedTable(_NamedClasses):
    """A model in evaluation mode with everything that is needed to show it a row of a table.

    Attributes:
        spec: What it was loaded from.
        model: Maps standardized rows `[B, columns]` to class scores `[B, classes]`.
        feature_names: One for each column, all different.
        mean: What is subtracted from each raw column, float32 `[columns]`, on the CPU; 0 where the file does not say.
        std: What each is then divided by, above zero, alike; 1 where the file does not say.
        background: Raw rows that are usual, float32 `[rows, columns]`, on the CPU; None where the file has none.
        class_names: In order of the scores; empty where they are not known.
    """

    spec: str
    model: nn.Module
    feature_names: tuple[str, ...]
    mean: Tensor
    std: Tensor
    background: Tensor | None
    class_names: tuple[str, ...]

    def standardize(self, rows: Tensor) -> Tensor:
        """Return raw rows `[..., columns]` as the model expects them."""
        return (rows - self.mean.to(rows)) / self.std.to(rows)


Loaded: TypeAlias = LoadedModel | LoadedText | LoadedTable
"""What `load_model` returns; which it is says what the model reads."""

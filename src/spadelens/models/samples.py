"""A text or a table row in the form that `extract_trace` and `attribute` take: a model and one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from spadelens.eager import unwrapped
from spadelens.errors import InputError
from spadelens.models.embedded import EmbeddedText
from spadelens.snippets import shortened
from spadelens.views.augmentation import Augmentation
from spadelens.views.photo_views import AugmentationLike, parse_augmentation
from spadelens.views.row_views import BootstrapViews
from spadelens.views.token_views import TokenViews

if TYPE_CHECKING:
    from spadelens.models.loaded import Encoding, LoadedTable, LoadedText

_MOST_SHOWN = 4


@final
@dataclass(frozen=True, eq=False, repr=False)
class TextSample:
    """A text to be explained.

    Attributes:
        model: The model as a function of the text's embeddings, which maps `[B, tokens, features]` to class scores.
        values: The embeddings of the tokens minus that of the mask token, `[tokens, features]`.
        tokens: The text to display for each token.
        is_special: Which tokens were added around the text ('[CLS]').
    """

    model: EmbeddedText
    values: Tensor
    tokens: tuple[str, ...]
    is_special: tuple[bool, ...]

    def __repr__(self) -> str:
        """Show the beginning of the text."""
        return f"<TextSample of {len(self.tokens)} tokens: {shortened(''.join(self.tokens), 100)!r}>"

    @property
    def augmentation(self) -> Augmentation:
        """The default augmentation: 'tokens'."""
        return self.make_augmentation("tokens")

    def make_augmentation(self, text: str) -> Augmentation:
        """Return the augmentation that a text names; 'tokens' leaves the special ones as they are.

        Raises:
            UnknownNameError: There is no such augmentation or setting.
        """
        return _keep_special(parse_augmentation(text), self.is_special)


@final
@dataclass(frozen=True, eq=False, repr=False)
class RowSample:
    """A row of a table to be explained.

    Attributes:
        model: Maps standardized rows `[B, features]` to class scores.
        values: The row, standardized, `[features]`.
        background: Typical rows, standardized, `[rows, features]`; None if there are none.
        feature_names: One name per feature.
        raw: The row as it was given, float32 `[features]`.
    """

    model: nn.Module
    values: Tensor
    background: Tensor | None
    feature_names: tuple[str, ...]
    raw: Tensor

    def __repr__(self) -> str:
        """Show the first features."""
        shown = zip(self.feature_names[:_MOST_SHOWN], self.raw.tolist(), strict=False)
        more = ", ..." if len(self.feature_names) > _MOST_SHOWN else ""
        named = ", ".join(f"{shortened(name, 20)}={value:g}" for name, value in shown)
        return f"<RowSample of {len(self.feature_names)} features: {named}{more}>"

    @property
    def augmentation(self) -> Augmentation:
        """The default augmentation: 'bootstrap', or 'noise' without a background."""
        return self.make_augmentation("noise" if self.background is None else "bootstrap")

    def make_augmentation(self, text: str) -> Augmentation:
        """Return the augmentation that a text names; 'bootstrap' draws from the background.

        Raises:
            UnknownNameError: There is no such augmentation or setting.
        """
        parsed = parse_augmentation(text)
        return replace(parsed, background=self.background) if isinstance(parsed, BootstrapViews) else parsed


def text_sample(loaded: LoadedText, text: str) -> TextSample:
    """Return a text in the form that a model of `load_model` expects.

    Raises:
        InputError: The text is not a string, has no token or too many, or the model does not look its tokens up in one
            nn.Embedding.
        ModelOutputError: The model fails on the text.
    """
    if not isinstance(text, str):
        raise InputError(
            f"Cannot explain a {type(text).__name__} as a text: expected a string. A model of sentence pairs needs a "
            "tokenizer of your own that joins both, in a .py file."
        )
    return embed_text(loaded.model, loaded.tokenizer.encode(text), loaded.tokenizer.mask_id)


def embed_text(model: nn.Module, encoding: Encoding, mask_id: int) -> TextSample:
    """Return an encoded text in the form that `model`, which maps token ids `[B, tokens]` to class scores, expects.

    Args:
        model: The model.
        encoding: The text.
        mask_id: The token that replaces a removed token.

    Raises:
        InputError: The model does not look its tokens up in one nn.Embedding.
        ModelOutputError: The model fails on the text.
    """
    embedded = EmbeddedText(unwrapped(model), encoding.ids, mask_id, encoding.is_special, encoding.tokens)
    return TextSample(embedded, embedded.sample, encoding.tokens, encoding.is_special)


def row_sample(loaded: LoadedTable, row: Mapping[str, float] | Sequence[float] | Tensor) -> RowSample:
    """Return a row of a table in the form that a model of `load_model` expects.

    Args:
        loaded: The model.
        row: The raw values, by feature name (other names are ignored) or in the order of the features.

    Raises:
        InputError: A feature is missing, or a value is not a finite number.
    """
    names = loaded.feature_names
    if isinstance(row, Mapping):
        missing = [name for name in names if name not in row]
        if missing:
            raise InputError(f"Cannot explain a row without {missing[0]!r}: expected values of {list(names)}.")
        row = [row[name] for name in names]
    try:
        raw = torch.as_tensor(row, dtype=torch.float32, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"Cannot explain {shortened(repr(row), 60)} as a row: expected {len(names)} numbers, by name or in order."
        ) from error
    if raw.shape != (len(names),):
        raise InputError(f"Cannot explain a row of shape {list(raw.shape)}: expected {len(names)} values.")
    wrong = (~torch.isfinite(raw)).nonzero()
    if len(wrong):
        raise InputError(f"Cannot explain a row whose {names[int(wrong[0])]!r} is not a finite number.")
    background = None if loaded.background is None else loaded.standardize(loaded.background)
    reference = next(loaded.model.parameters(), None)
    values = loaded.standardize(raw)
    values = values if reference is None else values.to(reference)
    return RowSample(loaded.model, values, background, names, raw)


def views_of_input(model: nn.Module, augmentation: AugmentationLike | None) -> AugmentationLike | None:
    """Return how views are made of the input of `model`: of a text, so that its special tokens are kept."""
    if not isinstance(model, EmbeddedText):
        return augmentation
    return _keep_special(parse_augmentation("tokens" if augmentation is None else augmentation), model.is_special)


def _keep_special(augmentation: Augmentation, is_special: tuple[bool, ...]) -> Augmentation:
    if isinstance(augmentation, TokenViews) and not augmentation.is_special:
        return replace(augmentation, is_special=is_special)
    return augmentation

"""Text classifiers of transformers (token ids in, class scores out), with their tokenizers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from spadelens.errors import InputError, ModelSpecError
from spadelens.models.loaded import Encoding

_NO_LIMIT = 10**9  # transformers writes 'none is known' as a much larger number
_NO_TOKEN = -1


@final
class HubTextClassifier(nn.Module):
    """A classifier of transformers that takes ids `[B, T]`, all of which count, and returns its scores."""

    def __init__(self, classifier: nn.Module) -> None:
        """Wrap `classifier`, whose configuration is set up for texts without padding."""
        super().__init__()
        self.classifier = classifier
        self._takes_mask = "attention_mask" in inspect.signature(classifier.forward).parameters
        config: Any = classifier.config
        if getattr(config, "use_cache", False):
            config.use_cache = False  # of keys and values, for texts that go on
        if getattr(config, "pad_token_id", _NO_TOKEN) is None:
            config.pad_token_id = _NO_TOKEN  # else models that score the last token refuse batches

    def forward(self, ids: Tensor) -> Tensor:
        """Return the scores `[B, classes]`."""
        kept = {"attention_mask": torch.ones_like(ids)} if self._takes_mask else {}
        scores: Tensor = self.classifier(input_ids=ids, return_dict=True, **kept).logits
        return scores


@final
@dataclass(frozen=True, eq=False)
class HubTokenizer:
    """A tokenizer of transformers.

    Attributes:
        tokenizer: The tokenizer.
        mask_id: Its mask token, else the one for what it does not know, else padding.
        most_tokens: What the model can read; None where there is no limit.
    """

    tokenizer: Any
    mask_id: int
    most_tokens: int | None

    def encode(self, text: str) -> Encoding:
        """Return `text` in tokens, the special ones included; never shortened.

        Raises:
            InputError: The text has no token, or more than the model can read.
        """
        found = self.tokenizer(
            text,
            truncation=False,
            return_special_tokens_mask=True,
            return_offsets_mapping=self.tokenizer.is_fast,
            verbose=False,
        )
        ids = [int(token) for token in found["input_ids"]]
        is_special = tuple(map(bool, found["special_tokens_mask"]))
        if all(is_special):
            raise InputError("Cannot explain a text without tokens.")
        if self.most_tokens is not None and len(ids) > self.most_tokens:
            raise InputError(
                f"The text has {len(ids)} tokens, including special ones: the model reads at most {self.most_tokens}. "
                "Shorten it."
            )
        names = [str(name) for name in self.tokenizer.convert_ids_to_tokens(ids)]
        if self.tokenizer.is_fast:
            names = _pieces(text, names, found["offset_mapping"], is_special)
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        is_unknown = tuple(token == unknown and not special for token, special in zip(ids, is_special, strict=True))
        return Encoding(torch.tensor(ids), tuple(names), is_special, is_unknown if any(is_unknown) else ())


def _pieces(
    text: str, names: Sequence[str], offsets: Sequence[tuple[int, int]], is_special: Sequence[bool]
) -> list[str]:
    """Return the piece of the text from the end of the token before to the end of each; special tokens by name."""
    pieces, end = list(names), 0
    last = max(number for number, special in enumerate(is_special) if not special)
    for number, (_, stop) in enumerate(offsets):
        if not is_special[number]:
            stop = len(text) if number == last else max(stop, end)
            pieces[number], end = text[end:stop], stop
    return pieces


def make_tokenizer(tokenizer: Any, classifier: nn.Module, spec: str) -> HubTokenizer:
    """Return what turns texts into the inputs of `classifier`.

    Raises:
        ModelSpecError: It has no token that could stand in place of one that is taken away, or no token at all but
            special ones, which is what transformers makes of files that are missing.
    """
    if {*tokenizer.get_vocab().values()} <= {*tokenizer.all_special_ids}:
        raise ModelSpecError(f"The tokenizer of {spec!r} knows no words: its files (tokenizer.json) are missing.")
    choices = (tokenizer.mask_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id)
    mask_id = next((token for token in choices if token is not None), None)
    if mask_id is None:
        raise ModelSpecError(
            f"The tokenizer of {spec!r} has no token to replace a removed token: expected a mask, unknown or padding "
            "token."
        )
    limits = [tokenizer.model_max_length, _num_positions(classifier)]
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < _NO_LIMIT]
    return HubTokenizer(tokenizer, mask_id, min(known, default=None))


def _num_positions(classifier: Any) -> int | None:
    """Return how many tokens have a position of their own; None where the configuration does not say."""
    count = getattr(classifier.config, "max_position_embeddings", None)
    for name, module in classifier.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.num_embeddings) - int(module.padding_idx) - 1  # RoBERTa's begin after that of padding
    return count if isinstance(count, int) else None

"""A text model as a function of the token embeddings of one text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from spadelens.errors import InputError
from spadelens.forward import class_scores
from spadelens.hooks import forward_hooks
from spadelens.kinds import Kind
from spadelens.private_copy import private_copy


@final
class EmbeddedText(nn.Module):
    """A model of texts that is given, in place of its tokens, how their embeddings differ from that of the mask token.

    The output of the word embedding is replaced during a call; all else runs as it is, positions and types of
    tokens included. An input of zeros is a text of mask tokens, and `sample` is the text itself: for it the scores are
    exactly those of the model. The modules are the model's own, under their own names, and nothing is added to them.

    Attributes:
        sample: The embeddings of the text's tokens minus that of the mask token, `[tokens, features]`.
        ids: The tokens.
        is_special: Which of them were added around the text ('[CLS]'); empty where that is not known.
        tokens: What to display for each of them; empty where that is not known.
    """

    input_kind: ClassVar[Kind] = "text"

    def __init__(
        self,
        model: nn.Module,
        ids: Tensor,
        mask_id: int,
        is_special: tuple[bool, ...] = (),
        tokens: tuple[str, ...] = (),
    ) -> None:
        """Find the word embedding of `model`, which maps ids `[B, tokens]` to class scores, by running it twice.

        Args:
            model: The model; it is run in evaluation mode and is never changed.
            ids: The tokens of the text, int64 `[tokens]`.
            mask_id: The token that stands for one that is taken away.
            is_special: Which tokens were added around the text ('[CLS]'), one for each; empty where none were.
            tokens: What to display for each token, if known.

        Raises:
            InputError: `ids` are no tokens, or the model does not look them up in one nn.Embedding.
            ModelOutputError: The model fails on the text.
        """
        super().__init__()
        if ids.dim() != 1 or len(ids) == 0 or ids.is_floating_point():
            raise InputError(
                f"Cannot embed tokens of shape {list(ids.shape)} and type {ids.dtype}: expected integers [tokens]."
            )
        self._modules, self._parameters, self._buffers = model._modules, model._parameters, model._buffers
        self.is_special = is_special
        self.tokens = tokens
        self._whole = (model,)  # in a tuple, so that it is not registered as a part of itself
        self.training = model.training
        reference = next((parameter for parameter in model.parameters()), None)
        self.ids = ids.detach().to(None if reference is None else reference.device, torch.int64)
        embedding, of_text, of_mask = _find_embedding(private_copy(model), self.ids, mask_id)
        self._embedding = (model.get_submodule(embedding.name),)
        self._batch_axis = embedding.batch_axis
        self._mask = of_mask
        self.sample = of_text - of_mask
        # What the sum misses of the embedding by rounding; without it the scores would not be those of the model.
        self._rounding = of_text - (self.sample + of_mask)

    def forward(self, offsets: Tensor) -> Any:
        """Return the class scores for offsets `[B, tokens, features]` from the embedding of the mask token."""
        if offsets.shape[1:] != self.sample.shape:
            raise InputError(
                f"Cannot run the text of {len(self.ids)} tokens on a batch of shape {list(offsets.shape)}: expected "
                f"[B, {', '.join(map(str, self.sample.shape))}]."
            )
        embedded = offsets + self._mask.to(offsets) + self._rounding.to(offsets)
        looked_up = embedded.movedim(0, self._batch_axis).contiguous()
        (model,) = self._whole
        with (
            forward_hooks({"": self._embedding[0]}, lambda *_: looked_up),
            _flag(model, self.training),
        ):
            return model(self.ids.to(offsets.device).repeat(len(offsets), 1))


@contextmanager
def _flag(model: nn.Module, is_training: bool) -> Iterator[None]:
    """Let `model` itself, but not its parts, be in training mode or not inside the block."""
    before = model.training
    try:
        model.training = is_training
        yield
    finally:
        model.training = before


@dataclass(frozen=True)
class _Lookup:
    """The name of a module that looks up tokens, and which axis of what it is called with is the batch."""

    name: str
    batch_axis: int


def _find_embedding(model: nn.Module, ids: Tensor, mask_id: int) -> tuple[_Lookup, Tensor, Tensor]:
    """Return what looks up the tokens, and its outputs `[tokens, features]` for the text and for the mask.

    Two texts are run, since positions can be the same numbers as the tokens of one.
    """
    of_texts, of_masks = _lookups(model, ids), _lookups(model, torch.full_like(ids, mask_id))
    both = [lookup for lookup in of_texts if lookup in of_masks]
    if len(both) != 1:
        names = [lookup.name for lookup in both]
        found = f"{len(both)} ({', '.join(names)})" if both else "none"
        raise InputError(
            f"Cannot explain texts with this model: expected one nn.Embedding that is called on the token ids, found "
            f"{found}."
        )
    return both[0], of_texts[both[0]], of_masks[both[0]]


def _lookups(model: nn.Module, ids: Tensor) -> dict[_Lookup, Tensor]:
    """Return the outputs `[tokens, features]` of the embeddings that are called on `ids` in one pass."""
    found: dict[_Lookup, Tensor] = {}

    def look(name: str, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        called_on = args[0] if len(args) == 1 and isinstance(args[0], Tensor) else ids.new_zeros(0)
        for batch_axis, shape in enumerate([(1, len(ids)), (len(ids), 1)]):
            if called_on.shape == shape and bool((called_on.flatten() == ids).all()):
                found[_Lookup(name, batch_axis)] = output.detach().select(batch_axis, 0).clone()
                return

    embeddings = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    with forward_hooks(embeddings, look):
        class_scores(model, ids.unsqueeze(0))
    return found

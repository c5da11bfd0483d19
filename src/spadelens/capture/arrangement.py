"""How the inputs of a layer are arranged when several samples run together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import final

import torch
from torch import Tensor, nn

from spadelens.capture.watch import watch_layers
from spadelens.errors import ModelOutputError
from spadelens.forward import class_scores
from spadelens.matrix_layers import Product, entries
from spadelens.numerics import exact_products
from spadelens.private_copy import ensure_private

_TOLERANCE = 0.05
SHARED = 0
"""The order of inputs that do not depend on the samples, such as a table of relative positions."""


@final
class Arrangement:
    """How the inputs of layers are arranged when several samples run together; determined when first needed.

    The tokens of two samples may come sample by sample, or token by token (`[tokens, batch, features]`, as in
    `nn.MultiheadAttention`), or be divided into windows. To find out, a sample is run alone and together with another
    one, and random projections of each layer's inputs are compared. Cost: forward passes of three samples, and memory
    for one number per vector or image that a layer gets.
    """

    def __init__(self, model: nn.Module, sample: Tensor) -> None:
        """Examine the layers of `model` with the help of `sample` `[C, H, W]`."""
        self._model, self._sample = ensure_private(model), sample

    @cached_property
    def orders(self) -> Mapping[str, tuple[int, ...]]:
        """Layer name -> for each of its calls, the number of pieces into which a sample is divided (see `find_order`).

        Layers for which samples cannot be told apart are missing; if the model cannot run two samples, all are.
        """
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(self._sample.shape, generator=generator, dtype=torch.float32).to(self._sample)
        other = noise * (float(self._sample.float().square().mean().sqrt()) or 1.0)
        try:
            alone = self._seen(self._sample.unsqueeze(0))
            together = self._seen(torch.stack([self._sample, other]))
        except ModelOutputError:
            return {}
        orders: dict[str, tuple[int, ...]] = {}
        for name in alone:
            if len(alone[name]) == len(together.get(name, ())):
                found = [find_order(*pair) for pair in zip(alone[name], together[name], strict=True)]
                known = tuple(order for order in found if order is not None)
                if len(known) == len(found):
                    orders[name] = known
        return orders

    def is_known(self, names: Iterable[str]) -> bool:
        """Whether the samples of a batch can be told apart in all of the layers `names`."""
        return all(name in self.orders for name in names)

    def note(self, name: str) -> str:
        """Return a note on a layer for the report, if views had to be run one by one because of it; else ''."""
        is_asked = "orders" in self.__dict__
        return "views are run one by one: what is whose cannot be told" if is_asked and name not in self.orders else ""

    def _seen(self, batch: Tensor) -> dict[str, list[Tensor]]:
        seen: dict[str, list[Tensor]] = {}

        def look(name: str, product: Product) -> None:
            with exact_products(batch.device):
                seen.setdefault(name, []).append(project(entries(product.geometry, product.inputs.detach())))

        with watch_layers(self._model, look):
            class_scores(self._model, batch)
        return seen


def project(entries: Tensor) -> Tensor:
    """Return a random projection of each of `entries` `[entries, ...]` to one number, at least in float32."""
    rows = entries.flatten(1)
    dtype = torch.promote_types(rows.dtype, torch.float32)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[1], generator=generator, dtype=torch.float32)
    return rows.to(dtype) @ direction.to(rows.device, dtype)


def find_order(alone: Tensor, together: Tensor) -> int | None:
    """Return the number of pieces into which a sample is divided among a layer's inputs, from their projections.

    The inputs for a batch are `[pieces, samples, rest]`: one piece if they come sample by sample, as many as there are
    tokens if they come token by token.

    Args:
        alone: The projections for a sample, `[entries]`.
        together: The projections for a batch of that sample and another one.

    Returns:
        The number of pieces; `SHARED` if the inputs are the same for both; None if no number fits.
    """
    count = len(alone)
    if len(together) == count:
        return SHARED if _is_close(alone, together) else None
    if count == 0 or len(together) != 2 * count:
        return None
    tried = [pieces for pieces in range(1, count + 1) if count % pieces == 0]
    parts = torch.stack([together.unflatten(0, (pieces, 2, -1))[:, 0].flatten() for pieces in tried])
    errors = (parts - alone).square().mean(1).sqrt().tolist()
    best = min(errors)
    if not best <= _TOLERANCE * _size(alone):
        return None
    close_to_best = 4 * best + 1e-6 * _size(alone)  # if several fit, as for equal tokens, any will do
    return next(pieces for pieces, error in zip(tried, errors, strict=True) if error <= close_to_best)


def by_sample(entries: Tensor, order: int, num_samples: int) -> Tensor | None:
    """Return `entries` `[entries, ...]` of a batch in the order of the samples, or None if they do not fit `order`."""
    if order == SHARED:
        return entries.expand(num_samples, *entries.shape).flatten(0, 1)
    if len(entries) % (order * num_samples):
        return None
    if order == 1:
        return entries
    pieces: Tensor = entries.unflatten(0, (order, num_samples, -1))
    return pieces.transpose(0, 1).flatten(0, 2)


def _is_close(one: Tensor, other: Tensor) -> bool:
    return _size(one - other) <= _TOLERANCE * _size(one)


def _size(values: Tensor) -> float:
    return float(values.square().mean().sqrt()) if values.numel() else 0.0

"""Runs the original model and hands the inputs of its layers to a consumer; stores none of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import final

import torch
from torch import Tensor, nn

from spadelens.capture.arrangement import by_sample, find_order, project
from spadelens.capture.watch import OnOther, OnProduct, Watch
from spadelens.errors import ModelOutputError
from spadelens.forward import class_scores
from spadelens.matrix_layers import (
    MatrixLayer,
    Product,
    Projection,
    entries,
    inputs_to_matrix,
    matrix_layers,
    matrix_shape,
    unsupported_reason,
)
from spadelens.numerics import exact_products
from spadelens.private_copy import ensure_private

_USED_OTHERWISE = "its output is not its weight times its input"
_ROWS_APART = "its rows are multiplied with different inputs, as in cross-attention"
_USED_OTHERWISE_TOO = "its weight is used in another way as well"


@final
class Arrangement:
    """How the inputs of layers are arranged when several samples run together; found out when first asked for.

    The tokens of two samples may come one sample after the other, or place by place (`[tokens, batch, features]`, as
    in `nn.MultiheadAttention`), or be cut into windows. One sample is run alone and together with another, and a
    random projection of what each layer gets is compared. Three samples are run, of which one number for each vector
    or image that a layer gets is kept.
    """

    def __init__(self, model: nn.Module, sample: Tensor) -> None:
        """Of the layers of `model`, as `sample` `[C, H, W]` shows it."""
        self._model, self._sample = ensure_private(model), sample

    @cached_property
    def orders(self) -> Mapping[str, tuple[int, ...]]:
        """Layer name -> for each of its calls, in how many pieces what belongs to one sample comes (see `find_order`).

        Layers for which samples cannot be told apart are missing: all of them where the model cannot run two together.
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
        """Return what a report should say of a layer: why views have been run one by one, or nothing."""
        is_asked = "orders" in self.__dict__
        return "views are run one by one: what is whose cannot be told" if is_asked and name not in self.orders else ""

    def _seen(self, batch: Tensor) -> dict[str, list[Tensor]]:
        seen: dict[str, list[Tensor]] = {}

        def look(name: str, product: Product) -> None:
            with exact_products(batch.device):
                seen.setdefault(name, []).append(project(entries(product.geometry, product.inputs.detach())))

        with _watch(self._model, look):
            class_scores(self._model, batch)
        return seen


@dataclass(frozen=True)
class Probe:
    """What one pass of the sample through the original model shows.

    Attributes:
        scores: The class scores of the sample, `[classes]`.
        called: The layers whose weights are used, in order of first use.
        matrix_shapes: Name of a layer whose weight is multiplied with inputs -> (groups, positions, columns) of these
            for one sample, in order of first use.
        unsupported: Layer name -> why its weight cannot be replaced.
        arrangement: How inputs are arranged when several samples run together.
    """

    scores: Tensor
    called: tuple[str, ...]
    matrix_shapes: Mapping[str, tuple[int, int, int]]
    unsupported: Mapping[str, str]
    arrangement: Arrangement


def probe(model: nn.Module, sample: Tensor) -> Probe:
    """Run `sample` `[C, H, W]` once and find out which weights are used, with what, and whether they can be replaced.

    Raises:
        ModelOutputError: The model fails, or returns anything else than finite scores.
    """
    model = ensure_private(model)
    layers = matrix_layers(model)
    unsupported = {name: reason for name, module in layers.items() if (reason := unsupported_reason(module))}
    unsupported |= {name: reason for name, reason in _shared_weights(model).items() if name not in unsupported}
    called: dict[str, None] = {}
    shapes: dict[str, tuple[int, int, int]] = {}
    used_otherwise: dict[str, None] = {}

    def on_product(name: str, product: Product) -> None:
        called.setdefault(name)
        if not product.fits(layers[name]):
            used_otherwise.setdefault(name)
            return
        groups, positions, columns = matrix_shape(product.geometry, product.inputs)
        shapes[name] = (groups, shapes.get(name, (0, 0, 0))[1] + positions, columns)

    def on_other(name: str) -> None:
        called.setdefault(name)
        used_otherwise.setdefault(name)

    with _watch(model, on_product, on_other):
        scores = class_scores(model, sample.unsqueeze(0))[0]
    for name in used_otherwise:
        reason = _ROWS_APART if isinstance(layers[name], Projection) else _USED_OTHERWISE
        unsupported.setdefault(name, _USED_OTHERWISE_TOO if name in shapes else reason)
    return Probe(scores, tuple(called), shapes, unsupported, Arrangement(model, sample))


def capture_inputs(
    model: nn.Module,
    layers: Mapping[str, MatrixLayer],
    batches: Iterable[Tensor],
    consume: Callable[[str, Tensor], None],
    choose: Callable[[str, int], Tensor | None] | None = None,
    arrangement: Arrangement | None = None,
) -> None:
    """Run every batch through `model` once and call `consume(name, inputs)` for every use of every layer in `layers`.

    `inputs` is `[groups, positions, columns]` and is freed when `consume` returns. Positions come sample by sample,
    equally many for each, whatever order the model has them in. A weight that is used several times in one pass is
    handed on several times. Modes are restored, after an exception too. `choose(name, num_positions)` says which of
    the positions of a call are handed on, as in `inputs_to_matrix`. `arrangement` is found out from the first batch
    of several samples where it is not given.

    Raises:
        ModelOutputError: The model fails on a batch, returns anything else than finite scores, or a layer gets
            inputs of a batch that cannot be told apart by sample.
    """
    model = ensure_private(model)
    of_copy = matrix_layers(model)
    layers = {name: of_copy[name] for name in layers}
    weights = [(name, module.weight) for name, module in layers.items()]
    for batch in batches:
        orders: Mapping[str, tuple[int, ...]] = {}
        if len(batch) > 1:
            arrangement = arrangement or Arrangement(model, batch[0])
            orders = arrangement.orders
        calls: Counter[str] = Counter()

        def hand_on(
            name: str,
            product: Product,
            num_samples: int = len(batch),
            orders: Mapping[str, tuple[int, ...]] = orders,
            calls: Counter[str] = calls,
        ) -> None:
            with exact_products(product.inputs.device):
                inputs = _entries(name, layers[name], product)
                if num_samples > 1:
                    inputs = _told_apart(name, inputs, orders.get(name, ())[calls[name] :], num_samples)
                calls[name] += 1
                chosen = None if choose is None else partial(choose, name)
                consume(name, inputs_to_matrix(product.geometry, inputs, chosen))

        with Watch(weights, hand_on):
            class_scores(model, batch)


def _entries(name: str, module: MatrixLayer, product: Product) -> Tensor:
    if not product.fits(module):
        raise ModelOutputError(f"The weight of layer {name!r} is used in another way on the views than on the sample.")
    inputs = product.inputs.detach().to(module.weight.dtype)  # under autocast layers may get another type
    return entries(product.geometry, inputs)


def _told_apart(name: str, inputs: Tensor, orders: Sequence[int], num_samples: int) -> Tensor:
    """Return the inputs of a call sample by sample; `orders` begins with that of the call, where it is known."""
    arranged = by_sample(inputs, orders[0], num_samples) if orders else None
    if arranged is None:
        raise ModelOutputError(
            f"Cannot tell which of the {len(inputs)} inputs of layer {name!r} belong to which of {num_samples} samples "
            "that run together. Run them one by one: use batch_size=1."
        )
    return arranged


def _watch(model: nn.Module, on_product: OnProduct, on_other: OnOther | None = None) -> Watch:
    """Return what watches every layer of `model`; the first of several that hold one parameter stands for all.

    Where a weight is computed, the parameters that it is computed from are watched in its place.
    """
    weights: list[tuple[str, Tensor]] = []
    for name, module in matrix_layers(model).items():
        weight = _held_weight(module)
        weights += [(name, held) for held in (module.parameters() if weight is None else [weight])]
    return Watch(weights, on_product, on_other)


def _shared_weights(model: nn.Module) -> dict[str, str]:
    """Return layer name -> why not to prune it, for layers that hold the same parameter as something else does."""
    layers = {name: _held_weight(module) for name, module in matrix_layers(model).items()}
    first: dict[int, str] = {}
    for name, weight in layers.items():
        first.setdefault(id(weight), name)
    owners: dict[int, str] = {}
    for owner, module in model.named_modules():  # each module once, under its first name
        if owner not in layers and not isinstance(module, nn.MultiheadAttention):
            for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                owners.setdefault(id(parameter), f"{owner}.{name}" if owner else name)
    shared = {}
    for name, weight in layers.items():
        if weight is not None and id(weight) in owners:
            shared[name] = f"its weight is shared with {owners[id(weight)]!r}"
        elif weight is not None and first[id(weight)] != name:
            shared[name] = f"its weight is that of {first[id(weight)]!r}"
    return shared


def _held_weight(module: MatrixLayer) -> nn.Parameter | None:
    """Return the weight of a layer where it is a parameter; None where it is computed, anew whenever asked for."""
    weight = module.__dict__["_parameters"].get("weight")
    return weight if isinstance(weight, nn.Parameter) else None

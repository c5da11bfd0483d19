"""Runs the original model: which weights it uses, and the inputs of its layers, passed on without storing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

from torch import Tensor, nn

from spadelens.capture.arrangement import Arrangement, by_sample
from spadelens.capture.watch import Watch, held_weight, watch_layers
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


@dataclass(frozen=True)
class Probe:
    """The findings of one pass of a sample through the original model.

    Attributes:
        scores: The class scores of the sample, `[classes]`.
        called: The layers whose weights are used, in order of first use.
        matrix_shapes: Layer name -> (groups, positions, columns) of its inputs for one sample, in order of first use;
            for layers whose weight is multiplied with inputs.
        unsupported: Layer name -> why its weight cannot be replaced.
        arrangement: How inputs are arranged when several samples run together.
    """

    scores: Tensor
    called: tuple[str, ...]
    matrix_shapes: Mapping[str, tuple[int, int, int]]
    unsupported: Mapping[str, str]
    arrangement: Arrangement


def probe(model: nn.Module, sample: Tensor) -> Probe:
    """Run `sample` `[C, H, W]` once, and find out which weights are used, how, and whether they can be replaced.

    Raises:
        ModelOutputError: The model fails, or returns anything other than finite scores.
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

    with watch_layers(model, on_product, on_other):
        scores = class_scores(model, sample.unsqueeze(0))[0]
    for name in used_otherwise:
        reason = _ROWS_APART if isinstance(layers[name], Projection) else _USED_OTHERWISE
        unsupported.setdefault(name, _USED_OTHERWISE_TOO if name in shapes else reason)
    return Probe(scores, tuple(called), shapes, unsupported, Arrangement(model, sample))


@final
class InputCapture:
    """Runs batches through a model and passes the inputs of its layers on; stores none of them."""

    def __init__(
        self, model: nn.Module, layers: Mapping[str, MatrixLayer], arrangement: Arrangement | None = None
    ) -> None:
        """Capture the inputs of `layers` in a private copy of `model`.

        Args:
            model: The model; it is not changed.
            layers: Name -> layer of the model.
            arrangement: How inputs are arranged when several samples run together; by default, this is determined from
                the first batch that holds several.
        """
        self._model = ensure_private(model)
        of_copy = matrix_layers(self._model)
        self._layers = {name: of_copy[name] for name in layers}
        self._weights = [(name, module.weight) for name, module in self._layers.items()]
        self._arrangement = arrangement

    def run(
        self,
        batch: Tensor,
        consume: Callable[[str, Tensor], None],
        choose: Callable[[str, int], Tensor | None] | None = None,
    ) -> None:
        """Run one batch, and call `consume(name, inputs)` for every use of the weight of every layer.

        A weight that is used several times in a pass is reported several times.

        Args:
            batch: The samples, `[batch, ...]`.
            consume: Receives the inputs `[groups, positions, columns]`, which are freed when it returns. Positions come
                sample by sample, equally many for each, whatever their order in the model.
            choose: Called as choose(name, num_positions); returns the positions to pass on, as in `inputs_to_matrix`,
                or None for all.

        Raises:
            ModelOutputError: The model fails on the batch or returns anything other than finite scores, or the inputs
                of a layer cannot be told apart by sample.
        """
        orders = self._orders(batch)
        calls: Counter[str] = Counter()

        def on_product(name: str, product: Product) -> None:
            with exact_products(product.inputs.device):
                inputs = _entries(name, self._layers[name], product)
                if len(batch) > 1:
                    inputs = _told_apart(name, inputs, orders.get(name, ())[calls[name] :], len(batch))
                calls[name] += 1
                chosen = None if choose is None else partial(choose, name)
                consume(name, inputs_to_matrix(product.geometry, inputs, chosen))

        with Watch(self._weights, on_product):
            class_scores(self._model, batch)

    def _orders(self, batch: Tensor) -> Mapping[str, tuple[int, ...]]:
        if len(batch) == 1:
            return {}
        if self._arrangement is None:
            self._arrangement = Arrangement(self._model, batch[0])
        return self._arrangement.orders


def capture_inputs(
    model: nn.Module,
    layers: Mapping[str, MatrixLayer],
    batches: Iterable[Tensor],
    consume: Callable[[str, Tensor], None],
) -> None:
    """Run every batch through `model` once and pass on the inputs of `layers`, as `InputCapture.run` does.

    Raises:
        ModelOutputError: As `InputCapture.run`.
    """
    capture = InputCapture(model, layers)
    for batch in batches:
        capture.run(batch, consume)


def _entries(name: str, module: MatrixLayer, product: Product) -> Tensor:
    if not product.fits(module):
        raise ModelOutputError(f"The weight of layer {name!r} is used in another way on the views than on the sample.")
    inputs = product.inputs.detach().to(module.weight.dtype)  # under autocast layers may get another type
    return entries(product.geometry, inputs)


def _told_apart(name: str, inputs: Tensor, orders: Sequence[int], num_samples: int) -> Tensor:
    """Return the inputs of a call sample by sample; `orders` starts with the order of that call, if it is known."""
    arranged = by_sample(inputs, orders[0], num_samples) if orders else None
    if arranged is None:
        raise ModelOutputError(
            f"Cannot tell which of the {len(inputs)} inputs of layer {name!r} belong to which of {num_samples} samples "
            "that run together. Run them one by one: use batch_size=1."
        )
    return arranged


def _shared_weights(model: nn.Module) -> dict[str, str]:
    """Return layer name -> why not to prune it, for layers that share a parameter with another module."""
    layers = {name: held_weight(module) for name, module in matrix_layers(model).items()}
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

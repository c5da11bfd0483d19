"""`kind_of`: the kind of input that a sample is for a model. Nothing else in the library decides that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spadelens.capture.watch import Watch
from spadelens.errors import InputError, UnknownNameError
from spadelens.forward import class_scores
from spadelens.hooks import forward_hooks
from spadelens.kinds import LAYOUTS, Kind, kinds_of_shape
from spadelens.matrix_layers import Product, matrix_layers
from spadelens.private_copy import ensure_private

_OTHER_READERS = (nn.RNNBase, nn.LayerNorm)


def kind_of(model: nn.Module, sample: Tensor, kind: Kind | None = None) -> Kind:
    """Return the kind of input that `sample` is for `model`.

    The number of axes determines it, except for two axes: `[C, T]` is a signal if the model's first layer is a
    convolution over the second axis, and `[tokens, features]` is a text if the first layer treats the second axis as
    features. Finding out takes one forward pass. A model can declare its kind in the attribute `input_kind`.

    Args:
        model: The model.
        sample: Without a batch dimension.
        kind: The kind given by the caller, which is only checked.

    Raises:
        UnknownNameError: There is no such kind.
        InputError: The sample does not have the shape of such a kind, or its kind cannot be told.
        ModelOutputError: The model fails on the sample.
    """
    known = kind or getattr(model, "input_kind", None)
    possible = kinds_of_shape(sample.dim())
    if known is not None:
        if known not in LAYOUTS:
            raise UnknownNameError("kind of input", known, LAYOUTS)
        if known not in possible:
            raise InputError(
                f"Cannot read a sample of shape {list(sample.shape)} as a {known}: expected {LAYOUTS[known].shape}."
            )
        return known
    if not possible:
        shapes = ", ".join(f"{name} {layout.shape}" for name, layout in LAYOUTS.items())
        raise InputError(f"Cannot read a sample of shape {list(sample.shape)}: expected one of {shapes}.")
    return possible[0] if len(possible) == 1 else _by_first_layer(model, sample)


def _by_first_layer(model: nn.Module, sample: Tensor) -> Kind:
    """Return 'signal' or 'text', by how the first layer that is called reads the sample `[first, second]`."""
    private = ensure_private(model)
    seen: list[Kind | None] = []

    def on_product(_: str, product: Product) -> None:
        if not seen:
            seen.append(_read_by(product.geometry.num_spatial, product.inputs, sample))

    def on_call(_: str, __: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
        if not seen and inputs and isinstance(inputs[0], Tensor):
            seen.append(_read_by(0, inputs[0], sample))

    weights = [(name, layer.weight) for name, layer in matrix_layers(private).items()]
    others = {name: module for name, module in private.named_modules() if isinstance(module, _OTHER_READERS)}
    with Watch(weights, on_product), forward_hooks(others, on_call):
        class_scores(private, sample.unsqueeze(0))
    found = seen[0] if seen else None
    if found is None:
        raise InputError(
            f"Cannot tell whether a sample of shape {list(sample.shape)} is a signal [C, T] or a sequence [tokens, "
            "features] from the first layer of the model. Pass kind='signal' or kind='text'."
        )
    return found


def _read_by(num_spatial: int, inputs: Tensor, sample: Tensor) -> Kind | None:
    """Return the kind of sample of a layer that convolves over this many axes; 0 for a linear layer."""
    first, second = sample.shape
    if num_spatial == 1:
        if inputs.dim() != 3 or (first == second and not torch.equal(inputs[0], sample)):
            return None
        return "signal" if inputs.shape[1] == first else "text" if inputs.shape[1] == second else None
    is_sequence = inputs.dim() >= 2 and inputs.shape[-1] == second and inputs.numel() == sample.numel()
    return "text" if is_sequence and first > 1 else None

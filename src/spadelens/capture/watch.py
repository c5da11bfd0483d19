"""Watches what torch does with the weights of layers, whichever module calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from spadelens.matrix_layers import MatrixLayer, Product, find_product, matrix_layers

OnProduct: TypeAlias = Callable[[str, Product], None]
"""Called with the name of a weight and its product with inputs, before the product is computed."""
OnOther: TypeAlias = Callable[[str], None]
"""Called with the name of a weight whose values were used in another way."""
_WITHOUT_VALUES = (bool, int, str, torch.Size, torch.device, torch.dtype, torch.layout)
_OF_VALUES = ("data_ptr", "equal", "allclose", "is_nonzero", "__bool__", "__int__")


@final
class Watch(TorchFunctionMode):
    """While active, reports every use of certain weights, without changing any result.

    Weights are identified by identity, so that every use is seen: in the forward of the weight's module, in that of
    another module, or in a plain function, as in torchvision's Swin. Reading a shape or a dtype does not count as a
    use. While the mode is active, torch does not take the native fast paths of attention.
    """

    def __init__(
        self, weights: Iterable[tuple[str, Tensor]], on_product: OnProduct, on_other: OnOther | None = None
    ) -> None:
        """Watch `weights`, given as (name, weight); a weight that occurs twice keeps its first name."""
        super().__init__()
        self._names: dict[int, str] = {}
        for name, weight in weights:
            self._names.setdefault(id(weight), name)
        self._on_product, self._on_other = on_product, on_other
        self._is_inside_attention = False

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Report what `func` does with the weights, and call it."""
        del types
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward and not self._is_inside_attention:
            return self._look_inside(args, kwargs)
        used = [value for value in _tensors((*args, *kwargs.values())) if id(value) in self._names]
        if not used:
            return func(*args, **kwargs)
        product = find_product(func, args, kwargs)
        if product is not None and id(product.weight) in self._names:
            used = [value for value in used if value is not product.weight or value is product.inputs]
            self._on_product(self._names[id(product.weight)], product)
        result = func(*args, **kwargs)
        if self._on_other is not None:
            for weight in used:
                if not _is_without_values(func, weight, result):
                    self._on_other(self._names[id(weight)])
        return result

    def _look_inside(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Compute attention such that its products are seen; torch would pass it to a mode as a whole."""
        whole = functional.multi_head_attention_forward
        names = {**whole.__globals__, "has_torch_function": lambda _: False}
        inside = FunctionType(whole.__code__, names, whole.__name__, whole.__defaults__, whole.__closure__)
        inside.__kwdefaults__ = whole.__kwdefaults__
        self._is_inside_attention = True
        try:
            with self:
                return inside(*args, **kwargs)
        finally:
            self._is_inside_attention = False


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _is_without_values(func: Any, weight: Tensor, result: Any) -> bool:
    """Whether `result`, of a call with `weight`, is independent of the weight's values, or is the weight itself."""
    name = getattr(func, "__name__", "")
    if result is weight:
        return not name.endswith("_")  # as `to` and `contiguous` return it; `mul_` and the like change it
    if result is None:
        return name == "__get__"  # such as that of a gradient
    found = result if isinstance(result, tuple) else (result,)
    return name not in _OF_VALUES and all(isinstance(value, _WITHOUT_VALUES) for value in found)


def watch_layers(model: nn.Module, on_product: OnProduct, on_other: OnOther | None = None) -> Watch:
    """Return a `Watch` on all layers of `model`; if several hold the same parameter, it is known by the first.

    If a weight is computed, the parameters from which it is computed are watched instead.
    """
    weights: list[tuple[str, Tensor]] = []
    for name, module in matrix_layers(model).items():
        weight = held_weight(module)
        weights += [(name, held) for held in (module.parameters() if weight is None else [weight])]
    return Watch(weights, on_product, on_other)


def held_weight(module: MatrixLayer) -> nn.Parameter | None:
    """Return the weight of a layer if it is a parameter; None if it is computed on each access."""
    weight = module.__dict__["_parameters"].get("weight")
    return weight if isinstance(weight, nn.Parameter) else None

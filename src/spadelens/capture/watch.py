"""Watches what torch does with the weights of layers, whichever module asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from spadelens.matrix_layers import Product, find_product

OnProduct: TypeAlias = Callable[[str, Product], None]
"""Called with the name of a weight and a product of it with inputs, before the product is computed."""
OnOther: TypeAlias = Callable[[str], None]
"""Called with the name of a weight whose values have been used in another way."""
_WITHOUT_VALUES = (bool, int, str, torch.Size, torch.device, torch.dtype, torch.layout)
_OF_VALUES = ("data_ptr", "equal", "allclose", "is_nonzero", "__bool__", "__int__")


@final
class Watch(TorchFunctionMode):
    """While it is active, tells every use of some weights; changes nothing of what is computed.

    Weights are known by identity, so that a weight is seen wherever it is used: in the forward of its module, in that
    of another, or in a plain function, as in torchvision's Swin. Asking for a shape or a type is no use. Native fast
    paths of attention are not taken by torch while a mode is active.
    """

    def __init__(
        self, weights: Iterable[tuple[str, Tensor]], on_product: OnProduct, on_other: OnOther | None = None
    ) -> None:
        """Watch `weights`, given as (name, weight); of equal weights the first name counts."""
        super().__init__()
        self._names: dict[int, str] = {}
        for name, weight in weights:
            self._names.setdefault(id(weight), name)
        self._on_product, self._on_other = on_product, on_other
        self._is_inside_attention = False

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Tell what `func` does with the weights, and do it."""
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
        """Compute attention such that its products are seen, where torch would hand it to a mode as a whole."""
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
    """Whether `result`, of a call with `weight`, says nothing of the weight's values, or is the weight itself."""
    name = getattr(func, "__name__", "")
    if result is weight:
        return not name.endswith("_")  # as `to` and `contiguous` return it; `mul_` and the like change it
    if result is None:
        return name == "__get__"  # such as that of a gradient
    found = result if isinstance(result, tuple) else (result,)
    return name not in _OF_VALUES and all(isinstance(value, _WITHOUT_VALUES) for value in found)

"""A device without float64, as MPS is one: tensors of the CPU that say they are elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("mps")
MOVES = (Tensor.to, Tensor.cpu, Tensor.copy_)


class Elsewhere(Tensor):
    """Holds a tensor of the CPU and says that it is on `DEVICE`."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        if inner.dtype == torch.float64:
            raise TypeError("there is no float64 on this device")
        sizes = {"strides": inner.stride(), "dtype": inner.dtype, "requires_grad": inner.requires_grad}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=DEVICE, **sizes)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:  # what nn.Parameter does
            return cls(args[0].inner.detach())
        raise AssertionError(f"{func} is used outside of `device_without_float64`")


class _NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(part, Tensor) and part.dtype == torch.float64 for part in tree_flatten(result)[0]):
            raise TypeError(f"there is no float64 on this device, and {func} makes some")
        return result


class _Device(TorchFunctionMode):
    """Computes on the CPU what is asked for on `DEVICE`, and refuses what a device would refuse."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        values = tree_flatten((args, kwargs or {}))[0]
        elsewhere = [value for value in values if isinstance(value, Elsewhere)]
        is_asked = any(_is_device(value) for value in values)
        if not elsewhere and not is_asked:
            return func(*args, **(kwargs or {}))
        if func == Tensor.device.__get__:
            return DEVICE
        if func is Tensor.numpy:
            raise TypeError("an array is on the CPU")
        here = [v for v in values if isinstance(v, Tensor) and not isinstance(v, Elsewhere) and v.dim() > 0]
        if elsewhere and here and func not in (*MOVES, Tensor.__getitem__):
            raise RuntimeError(f"{func} is asked for tensors of two devices")
        inner_args, inner_kwargs = tree_map(_inner, (args, kwargs or {}))
        with nullcontext() if func in MOVES else _NoFloat64():
            result = func(*inner_args, **inner_kwargs)
        if func in MOVES and not _is_moved_there(func, args, values):
            return result.clone() if isinstance(args[0], Elsewhere) else result
        same = {id(value.inner): value for value in elsewhere}  # operations in place return what they are given

        def outer(part: Any) -> Any:
            return same[id(part)] if id(part) in same else Elsewhere(part) if isinstance(part, Tensor) else part

        return tree_map(outer, result)


def _is_moved_there(func: Any, args: Any, values: Any) -> bool:
    if func is not Tensor.to or any(isinstance(value, torch.device | str) for value in values):
        return any(_is_device(value) for value in values)
    given = [value for value in values[1:] if isinstance(value, Tensor)]
    return isinstance((given or args)[0], Elsewhere)


def _inner(value: Any) -> Any:
    if isinstance(value, Elsewhere):
        return value.inner
    return "cpu" if _is_device(value) else value


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device | str) and str(value) == DEVICE.type


@contextmanager
def device_without_float64() -> Iterator[None]:
    """Let tensors be put on `DEVICE` for the length of the block; one of float64 there raises a TypeError."""
    with _Device():
        yield


def put_there(model: nn.Module) -> nn.Module:
    """Put the parameters and buffers of `model` on `DEVICE`."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(Elsewhere(parameter.detach()), requires_grad=False)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = Elsewhere(buffer)
    return model

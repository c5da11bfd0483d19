"""Private copies of a model: all that is run is a copy, so that the user's own model is never written to.

A copy has modules of its own that share the memory of the model's parameters. Weights can be replaced in it, hooks be
registered and buffers change while other threads use the model, or copies of their own.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from spadelens.errors import InputError, TraceMismatchError
from spadelens.matrix_layers import matrix_layers

_MARK = "_spadelens_is_private"
_CLAIMED_BY: dict[int, int] = {}
"""id of a model that a trace is applied to at the moment -> the thread that has done so."""
_CLAIMING = threading.Lock()


def private_copy(model: nn.Module, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return a copy of `model` in evaluation mode that shares the memory of its parameters.

    The copy has module and parameter objects of its own: assigning to the `data` of a parameter of the copy leaves the
    model as it is. Buffers, and tensors that are not registered, are copied, since a forward pass may write to them.

    Args:
        model: The model, with no compiler or parallel wrapper around it (see `unwrapped`).
        weights: Layer name -> the weight that the copy holds instead, on any device.

    Raises:
        InputError: The model has a part that cannot be copied.
        TraceMismatchError: Another thread has applied a trace to the model.
    """
    _check_claim(model)
    memo: dict[int, Any] = {}
    with torch.inference_mode(False):  # parameters made in that mode could never be differentiated through
        for tensor in _tensors(model, set()):
            memo[id(tensor)] = _alias(tensor) if isinstance(tensor, nn.Parameter) else _clone(tensor)
        try:
            copied = copy.deepcopy(model, memo)
        except Exception as error:
            raise InputError(
                f"Cannot run this model on a copy of its modules, which is how it is kept unchanged: "
                f"{type(error).__name__}: {error}. Remove what cannot be copied (locks, open files, generators) from "
                "the attributes of its modules, or give them a __deepcopy__."
            ) from error
        layers = matrix_layers(copied) if weights else {}
        for name, weight in (weights or {}).items():
            layers[name].weight.data = weight.to(layers[name].weight.device)
    for module in _modules(copied, set()):
        module.training = False
        holders: tuple[dict[Any, Any], ...] = (vars(module), module._forward_hooks, module._forward_pre_hooks)
        for holder in holders:
            for name, value in holder.items():
                if isinstance(value, FunctionType):
                    holder[name] = _rebound(value, memo)
    object.__setattr__(copied, _MARK, True)
    return copied


@contextmanager
def claimed(model: nn.Module) -> Iterator[None]:
    """Let no other thread make private copies of `model`, or claim it, inside the block, which writes to it.

    Raises:
        TraceMismatchError: Another thread has claimed it.
    """
    with _CLAIMING:
        _check_claim(model)
        is_outermost = id(model) not in _CLAIMED_BY
        _CLAIMED_BY[id(model)] = threading.get_ident()
    try:
        yield
    finally:
        if is_outermost:
            with _CLAIMING:
                del _CLAIMED_BY[id(model)]


def _check_claim(model: nn.Module) -> None:
    if _CLAIMED_BY.get(id(model), threading.get_ident()) != threading.get_ident():
        raise TraceMismatchError(
            "Another thread has applied a trace to this model. `Trace.applied` writes to the model, so only that "
            "thread can use it for now. In threads, use `attribute` or `Trace.sparse_copy()` instead."
        )


def is_private(model: nn.Module) -> bool:
    """Whether `model` is a private copy, which may be written to."""
    return getattr(model, _MARK, False) is True


def ensure_private(model: nn.Module) -> nn.Module:
    """Return `model` if it is a private copy, else a private copy of it."""
    return model if is_private(model) else private_copy(model)


def _rebound(function: FunctionType, memo: Mapping[int, Any]) -> FunctionType:
    """Return a function that refers to the copies of the modules that `function` refers to, as a lambda may."""
    cells = function.__closure__ or ()
    held = [cell.cell_contents if cell != CellType() else None for cell in cells]
    if not any(isinstance(value, nn.Module) and id(value) in memo for value in held):
        return function
    copies = tuple(
        CellType(memo.get(id(value), value)) if isinstance(value, nn.Module) else cell
        for cell, value in zip(cells, held, strict=True)
    )
    rebound = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, copies)
    rebound.__kwdefaults__ = function.__kwdefaults__
    return rebound


def _alias(parameter: nn.Parameter) -> nn.Parameter:
    values = parameter.detach()
    return nn.Parameter(values.clone() if values.is_inference() else values, parameter.requires_grad)


def _clone(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Yield every tensor in a module's attributes, in those of the modules in it, and in containers in them."""
    if isinstance(value, Tensor):
        if not isinstance(value, nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer):
            yield value
        return
    for part in _parts(value, seen):
        yield from _tensors(part, seen)


def _modules(value: Any, seen: set[int]) -> Iterator[nn.Module]:
    """Yield a module, those in it, and those that its attributes hold without registering them."""
    if isinstance(value, nn.Module) and id(value) not in seen:
        yield value
    for part in _parts(value, seen):
        yield from _modules(part, seen)


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    if not isinstance(value, nn.Module | dict | list | tuple | set) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        yield from vars(value).values()
    elif isinstance(value, dict):
        yield from value.values()
    else:
        yield from value

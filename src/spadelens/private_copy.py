"""Private copies of a model: all that is run is a copy, so that the user's own model is never written to.

A copy has modules of its own that share the memory of the model's parameters. Weights can be replaced in it, hooks be
registered and buffers change while other threads use the model, or copies of their own.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import CellType, FunctionType, MethodType
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
        copied = _copied(model, memo)
        layers = matrix_layers(copied) if weights else {}
        for name, weight in (weights or {}).items():
            layers[name].weight.data = weight.to(layers[name].weight.device)
    for module in _modules(copied, set()):
        module.training = False
    object.__setattr__(copied, _MARK, True)
    return copied


def independent_copy(model: nn.Module) -> nn.Module:
    """Return a copy of `model`, in the same mode, that shares no memory with it.

    Raises:
        InputError: The model has a part that cannot be copied.
    """
    computed = (tensor for tensor in _tensors(model, set()) if not tensor.is_leaf)  # `copy.deepcopy` refuses these
    return _copied(model, {id(tensor): _clone(tensor) for tensor in computed})


def _copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Return a copy whose functions refer to the copied modules; `memo` holds the copies of tensors made before."""
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:
        raise InputError(
            f"Cannot run this model on a copy of its modules, which is how it is kept unchanged: "
            f"{type(error).__name__}: {error}. Remove what cannot be copied (locks, open files, generators) from "
            "the attributes of its modules, or give them a __deepcopy__."
        ) from error
    rebinding = _Rebinding(memo)
    for module in _modules(copied, set()):
        for holder in (vars(module), module._forward_hooks, module._forward_pre_hooks):
            rebinding.rebind_values(holder)
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


def mark_private(model: nn.Module) -> None:
    """Mark a module around a private copy, whose modules are those of the copy, as one."""
    object.__setattr__(model, _MARK, True)


def ensure_private(model: nn.Module) -> nn.Module:
    """Return `model` if it is a private copy, else a private copy of it."""
    return model if is_private(model) else private_copy(model)


class _Rebinding:
    """Lets functions refer to a model's copy where they refer to the model, which `copy.deepcopy` does not change.

    Looks at what a function closes over, its defaults, and the modules among the globals that it names.
    """

    def __init__(self, memo: Mapping[int, Any]) -> None:
        """Store the memo of the copying: id of an original -> its copy."""
        self._memo = memo
        self._functions: dict[int, FunctionType] = {}
        self._open: set[int] = set()

    def rebind_values(self, values: dict[Any, Any]) -> None:
        """Replace the values that refer to the model."""
        for name, value in values.items():
            rebound = self._rebound(value)
            if rebound is not value:
                values[name] = rebound

    def _rebound(self, value: Any) -> Any:
        """Return the copy of a part of the model, or what refers to copies in place of parts; else `value` itself."""
        if isinstance(value, nn.Module | Tensor):
            return self._memo.get(id(value), value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            owner = self._rebound(value.__self__)
            return value if owner is value.__self__ else MethodType(value.__func__, owner)
        if isinstance(value, partial):
            parts = (value.func, value.args, value.keywords)
            function, args, keywords = rebound = tuple(self._rebound(part) for part in parts)
            return value if _are_same(parts, rebound) else partial(function, *args, **keywords)
        if type(value) not in (dict, list, tuple, set) or id(value) in self._open:  # a container may hold itself
            return value
        self._open.add(id(value))
        parts = tuple(value.values() if isinstance(value, dict) else value)
        rebound = tuple(self._rebound(part) for part in parts)
        self._open.remove(id(value))
        if _are_same(parts, rebound):
            return value
        return dict(zip(value, rebound, strict=True)) if isinstance(value, dict) else type(value)(rebound)

    def _function(self, function: FunctionType) -> FunctionType:
        if id(function) in self._functions:  # also one that refers to itself
            return self._functions[id(function)]
        self._functions[id(function)] = function
        cells = function.__closure__ or ()
        held = tuple(cell.cell_contents if cell != CellType() else None for cell in cells)
        named = {name: function.__globals__.get(name) for name in function.__code__.co_names}
        copied = {
            name: self._rebound(value)
            for name, value in named.items()
            if isinstance(value, nn.Module) and id(value) in self._memo
        }
        before = (held, function.__defaults__, function.__kwdefaults__)
        after = closed, defaults, keywords = tuple(self._rebound(part) for part in before)
        if not copied and all(old is new for old, new in zip(before, after, strict=True)):
            return function
        copies = tuple(
            CellType(new) if new is not old or old is function else cell
            for cell, old, new in zip(cells, held, closed, strict=True)
        )
        scope = function.__globals__ | copied if copied else function.__globals__
        rebound = FunctionType(function.__code__, scope, function.__name__, defaults, copies)
        rebound.__kwdefaults__ = keywords
        rebound.__dict__.update(function.__dict__)
        for cell, old in zip(copies, held, strict=True):
            if old is function:  # it calls itself
                cell.cell_contents = rebound
        self._functions[id(function)] = self._functions[id(rebound)] = rebound
        return rebound


def _are_same(first: Iterable[Any], second: Iterable[Any]) -> bool:
    return all(one is other for one, other in zip(first, second, strict=True))


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

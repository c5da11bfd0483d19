"""Forward hooks that are gone when the block ends, whatever happens in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

from torch import nn

Hook: TypeAlias = Callable[[str, nn.Module, tuple[Any, ...], Any], Any]
"""Called as hook(name, module, inputs, output); anything but None that it returns replaces the output."""


@contextmanager
def forward_hooks(modules: Mapping[str, nn.Module], hook: Hook) -> Iterator[None]:
    """Call `hook` after every call of each of the named modules inside the block."""
    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(partial(hook, name)))
        yield
    finally:
        for handle in handles:
            handle.remove()

"""The module behind compilers and parallel wrappers, and the reason why a model's layers cannot be seen."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_Model = TypeVar("_Model")
_QUANTIZED_MODULES = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.", "torch.ao.nn.sparse.quantized.")
_QUANTIZED_PACKAGES = frozenset({"awq", "bitsandbytes", "gptqmodel", "hqq", "optimum", "quanto", "torchao"})
_FLOAT_STAND_INS = frozenset({"FloatFunctional", "FXFloatFunctional"})  # in float models that could be quantized
_INTEGERS = (torch.int8, torch.uint8)


def unwrapped(model: _Model) -> _Model:
    """Return the module that `torch.compile`, DataParallel or DistributedDataParallel was given; others as they are.

    Its parameters are the same objects. Whatever is not a module is returned unchanged.
    """
    found: Any = model
    while isinstance(found, nn.Module):
        if _is_compiled(found):
            found = found._orig_mod
        elif isinstance(found, nn.DataParallel | nn.parallel.DistributedDataParallel):
            found = found.module
        else:
            break
    return found  # type: ignore[no-any-return]


@contextmanager
def run_as_written() -> Iterator[None]:
    """Let everything that was compiled run as it was written, inside the block.

    A compiled module, also one within another module, does not call the hooks that its layers are given later. Torch
    has one stance for all threads: the first block to begin sets it, and the last to end restores it.
    """
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled; importing it takes seconds
        yield
        return
    _eager_blocks.enter()
    try:
        yield
    finally:
        _eager_blocks.leave()


class _EagerBlocks:
    """Counts the blocks that run as written, in all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_blocks = 0
        self._stance: AbstractContextManager[object] = nullcontext()

    def enter(self) -> None:
        with self._lock:
            if self._num_blocks == 0:
                self._stance = torch.compiler.set_stance("force_eager")
                self._stance.__enter__()
            self._num_blocks += 1

    def leave(self) -> None:
        with self._lock:
            self._num_blocks -= 1
            if self._num_blocks == 0:
                self._stance.__exit__(None, None, None)


_eager_blocks = _EagerBlocks()


def refusal(model: nn.Module) -> str | None:
    """Return why no trace of `model` can be made, as the rest of a sentence on it; None where nothing speaks against.

    TorchScript hides its layers, quantized layers have neither weights that could be zeroed nor gradients, and the
    layers of parts that are run on several devices at once are copies.
    """
    for name, module in model.named_modules():
        place = f"'{name}' in it" if name else "it"
        if isinstance(module, torch.jit.ScriptModule):
            return f"{place} is TorchScript, which hides its layers: give the eager module that it was made from"
        if _is_quantized(module):
            kind = f"{type(module).__module__}.{type(module).__qualname__}"
            return f"{place} is quantized ({kind}): give the model in float32, float16 or bfloat16"
        if _is_spread(module):
            return f"{place} is spread over devices ({type(module).__name__}): give the module that it was made from"
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if _holds_codes(tensor):
            return f"{name!r} in it is quantized ({tensor.dtype}): give the model in float32, float16 or bfloat16"
    return None


def _is_compiled(module: nn.Module) -> bool:
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(module, compiler.OptimizedModule)


def _is_quantized(module: nn.Module) -> bool:
    kind = type(module)
    if kind.__name__ in _FLOAT_STAND_INS:
        return False
    return kind.__module__.startswith(_QUANTIZED_MODULES) or kind.__module__.partition(".")[0] in _QUANTIZED_PACKAGES


def _is_spread(module: nn.Module) -> bool:
    if isinstance(module, nn.DataParallel):
        return len(module.device_ids) > 1
    return type(module).__name__ == "FullyShardedDataParallel"


def _holds_codes(tensor: Tensor) -> bool:
    """Whether the numbers in `tensor` stand for others, which a layer looks up or scales."""
    if tensor.is_quantized or type(tensor).__module__.partition(".")[0] in _QUANTIZED_PACKAGES:
        return True
    if not isinstance(tensor, nn.Parameter) or tensor.dim() < 2:
        return False
    return tensor.dtype in _INTEGERS or (tensor.is_floating_point() and tensor.element_size() == 1)

"""Finds the last feature map of a model, the basis of class activation maps."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spadelens.errors import AttributionError

_MOST_STRETCHED = 4.0  # maximum distortion of the aspect ratio; a map with channels last exceeds it


class LastMap(TorchDispatchMode):
    """Context manager that finds the last feature map in one pass of a model on one photo.

    This is the last module output of shape `[1, channels, height, width]` with more than one spatial location and about
    the aspect ratio of the photo. Tokens or attention after it mix the locations, so that there is no such map.

    Attributes:
        output: The map, as part of the model's graph; None if there is none.
        values: A copy of the map as the module returned it, since the next module may change it in place.
    """

    def __init__(self, model: nn.Module, photo: Tensor) -> None:
        """Watch `model`, which the block runs on `photo` `[C, H, W]`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._modules = [module for name, module in model.named_modules() if name]
        self._aspect = photo.shape[1] / photo.shape[2]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self.output: Tensor | None = None
        self.values: Tensor | None = None

    def __enter__(self) -> LastMap:
        self._handles = [module.register_forward_hook(self._look) for module in self._modules]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def found(self, method: str) -> tuple[Tensor, Tensor]:
        """Return the map and its values.

        Raises:
            AttributionError: There is no such map; the message names `method`.
        """
        if self.output is None or self.values is None:
            raise AttributionError(
                f"The method {method!r} needs a feature map near the scores, as in convolutional models: no module of "
                "this model returns [1, channels, height, width] with more than one spatial location and without "
                "attention or tokens after it. Use another method."
            )
        return self.output, self.values

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        is_scores = isinstance(result, Tensor) and result.dim() == 2  # the scores of a model that ends in a softmax
        if ("softmax" in name and not is_scores) or "attention" in name:
            self.output = self.values = None
        return result

    def _look(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if is_map(output) and self._is_upright(output):
            self.output, self.values = output, output.detach().clone()
        elif _has_tokens(output):
            self.output = self.values = None

    def _is_upright(self, output: Tensor) -> bool:
        stretched = output.shape[2] / output.shape[3] / self._aspect
        return 1 / _MOST_STRETCHED <= stretched <= _MOST_STRETCHED


def is_map(output: Any) -> bool:
    """Whether a module output is `[1, channels, height, width]` with more than one spatial location."""
    return isinstance(output, Tensor) and output.dim() == 4 and len(output) == 1 and output.shape[2:].numel() > 1


def _has_tokens(output: Any) -> bool:
    """Whether an output is a sequence or a map of more than one token, with features last."""
    return isinstance(output, Tensor) and output.dim() >= 3 and output.shape[-1] > 1 and output.shape[1:-1].numel() > 1

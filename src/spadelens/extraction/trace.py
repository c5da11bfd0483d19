"""A trace: the sparse weights that reproduce one prediction, and what is known of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from spadelens.eager import unwrapped
from spadelens.errors import TraceMismatchError
from spadelens.extraction.report import TraceReport
from spadelens.extraction.storage import Header, fingerprint, read_trace, write_trace
from spadelens.matrix_layers import matrix_layers


@contextmanager
def swapped_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the layers of `model` hold `weights` (layer name -> weight) for the length of the block.

    Parameters stay the same objects; only the values they hold are swapped, and swapped back when the block ends, after
    an exception too.
    """
    layers = matrix_layers(model)
    swaps = [(layers[name], layers[name].weight.data, weight) for name, weight in weights.items()]
    try:
        for layer, dense, sparse in swaps:
            layer.weight.data = sparse.to(dense.device)
        torch.clear_autocast_cache()  # it knows parameters by identity, and would go on using the dense values
        yield
    finally:
        for layer, dense, _ in swaps:
            layer.weight.data = dense
        torch.clear_autocast_cache()


@final
@dataclass(frozen=True, eq=False)
class Trace:
    """The sparse version of a model for one sample.

    It refers to the dense model and never changes it, except within `applied`.

    Attributes:
        dense_model: The model that was pruned.
        weights: Name of each pruned layer -> its sparse weight, in the layer's own shape.
        pruned: Name of each pruned layer -> which of its weights were pruned; same shape, boolean.
        report: Settings, predictions and every layer.
        model_fingerprint: Identifies the dense model's state dictionary: its parameters and persistent buffers.
    """

    dense_model: nn.Module
    weights: Mapping[str, Tensor]
    pruned: Mapping[str, Tensor]
    report: TraceReport
    model_fingerprint: str

    def model(self) -> nn.Module:
        """Return an independent sparse copy of the dense model.

        Raises:
            TraceMismatchError: The dense model has been changed since the trace was made.
        """
        self.check(self.dense_model)
        sparse = copy.deepcopy(self.dense_model)
        layers = matrix_layers(sparse)
        for name, weight in self.weights.items():
            layers[name].weight.data = weight.to(layers[name].weight.device, copy=True)
        return sparse

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """Swap the sparse weights into `model` for the length of the block, so that any tool can be run on it.

        Parameters stay the same objects; only the values they hold are swapped, and swapped back when the block ends,
        after an exception too.

        Args:
            model: The dense model, or another instance with the same weights. Of one that `torch.compile` or
                DataParallel wraps, the block is given the module within.

        Raises:
            TraceMismatchError: `model` does not have the weights that the trace was made from.
        """
        model = unwrapped(model)
        self.check(model)
        with swapped_weights(model, self.weights):
            yield model

    def save(self, path: str | Path) -> None:
        """Write the trace to `path` (safetensors): a bit for every weight of a pruned layer, and the kept values.

        Raises:
            OutputError: The file cannot be written.
        """
        write_trace(Path(path), self.weights, self.pruned, Header(self.model_fingerprint, self.report))

    @classmethod
    def load(cls, path: str | Path, model: nn.Module) -> Trace:
        """Return the trace at `path`, for the dense `model` that it was made from.

        Raises:
            FileNotFoundError: There is no such file.
            TraceFormatError: The file is damaged, or not a trace that this version can read.
            TraceMismatchError: `model` does not have the weights that the trace was made from.
        """
        model = unwrapped(model)
        weights, pruned, header = read_trace(Path(path))
        trace = cls(model, weights, pruned, header.report, header.model_fingerprint)
        trace.check(model)
        return trace

    def check(self, model: nn.Module) -> None:
        """Refuse a model that the trace was not made from; all of its weights are read for that.

        Raises:
            TraceMismatchError: The weights of `model` differ.
        """
        if fingerprint(unwrapped(model)) != self.model_fingerprint:
            raise TraceMismatchError(
                "The trace was not made from this model: its parameters or buffers differ. "
                "Use the model and checkpoint that it was made from, unchanged, or make a new trace."
            )


def applied_or_dense(model: Trace | nn.Module) -> AbstractContextManager[nn.Module]:
    """Return what puts a trace's weights into its dense model for the length of a block; a model is left as it is."""
    return model.applied(model.dense_model) if isinstance(model, Trace) else nullcontext(model)

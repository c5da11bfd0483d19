"""A trace: a pruned copy of the model that reproduces one prediction, and its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from spadelens.eager import unwrapped
from spadelens.errors import TraceMismatchError
from spadelens.extraction.report import TraceReport
from spadelens.extraction.storage import Header, checksum, fingerprint, read_trace, write_trace
from spadelens.matrix_layers import matrix_layers
from spadelens.private_copy import claimed, ensure_private, independent_copy, is_private, private_copy
from spadelens.snippets import shortened


@contextmanager
def swapped_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the layers of a private copy hold `weights` (layer name -> weight) inside the block.

    Parameters stay the same objects; only their values are swapped, and restored at the end of the block, even after
    an exception.
    """
    assert is_private(model)
    with _swapped(model, weights):
        yield


@contextmanager
def _swapped(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    layers = matrix_layers(model)
    swaps = [(layers[name], layers[name].weight.data, weight) for name, weight in weights.items()]
    try:
        for layer, original, sparse in swaps:
            layer.weight.data = sparse.to(original.device)
        torch.clear_autocast_cache()  # it identifies parameters by object and would keep using the old values
        yield
    finally:
        for layer, original, _ in swaps:
            layer.weight.data = original
        torch.clear_autocast_cache()


@final
@dataclass(frozen=True, eq=False)
class Trace:
    """A pruned copy of the model that reproduces the prediction for one sample.

    A trace refers to the original model and never changes it, except inside `applied`.

    Attributes:
        original_model: The original model, of which the trace is a pruned copy.
        weights: Name of each pruned layer -> its sparse weight, in the layer's own shape.
        pruned: Name of each pruned layer -> boolean mask of the pruned weights, in the same shape.
        report: Settings, predictions and every layer.
        model_fingerprint: A hash of the original model's state dictionary: its parameters and persistent buffers.
        model_checksum: A faster checksum of the same state dictionary; computed if not given.
    """

    original_model: nn.Module
    weights: Mapping[str, Tensor]
    pruned: Mapping[str, Tensor]
    report: TraceReport
    model_fingerprint: str
    model_checksum: str = ""

    def __post_init__(self) -> None:
        """Compute the checksum if it is not given, and reject a model that does not match the fingerprint."""
        if not self.model_checksum:
            if fingerprint(unwrapped(self.original_model)) != self.model_fingerprint:
                raise _mismatch()
            object.__setattr__(self, "model_checksum", checksum(unwrapped(self.original_model)))

    def __repr__(self) -> str:
        """Summarize how much of which model is pruned."""
        num_pruned = sum(int(pruned.sum()) for pruned in self.pruned.values())
        num_weights = sum(pruned.numel() for pruned in self.pruned.values())
        share = f"{num_pruned:,} of {num_weights:,} weights" if num_weights else "no weights"
        model = shortened(type(self.original_model).__name__, 60)
        return (
            f"<Trace of {model} for class {self.report.target}: {len(self.pruned)} of "
            f"{len(self.report.layers)} layers pruned, {share} zero>"
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from spadelens.extraction.trace_shown import trace_html

        return trace_html(self)

    def sparse_copy(self) -> nn.Module:
        """Return an independent copy of the original model that holds the sparse weights.

        Raises:
            TraceMismatchError: The original model has changed since the trace was made.
            InputError: The model has a part that cannot be copied.
        """
        self.check(self.original_model)
        sparse = independent_copy(self.original_model)
        layers = matrix_layers(sparse)
        for name, weight in self.weights.items():
            layers[name].weight.data = weight.to(layers[name].weight.device, copy=True)
        return sparse

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """Put the sparse weights into `model` itself inside the block, so that you can run any tool on it.

        This is the only function of the library that writes to a model that you own. Parameters stay the same objects;
        only their values are swapped, and restored at the end of the block, even after an exception. Do not use the
        model in other threads meanwhile: this library refuses to, and other code would see the sparse weights.

        Args:
            model: The original model, or another instance with the same weights. For a model wrapped by
                `torch.compile` or DataParallel, the block receives the wrapped module.

        Raises:
            TraceMismatchError: `model` does not have the weights that the trace was made from, or another thread has
                applied a trace to it.
        """
        model = unwrapped(model)
        with claimed(model):
            self.check(model)
            with _swapped(model, self.weights):
                yield model

    def save(self, path: str | Path) -> None:
        """Write the trace to `path` (safetensors): one bit per weight of each pruned layer, and the kept values.

        Raises:
            OutputError: The file cannot be written.
        """
        write_trace(Path(path), self.weights, self.pruned, Header(self.model_fingerprint, self.report))

    @classmethod
    def load(cls, path: str | Path, model: nn.Module) -> Trace:
        """Return the trace at `path` for the original `model` that it was made from.

        Raises:
            FileNotFoundError: The file does not exist.
            TraceFormatError: The file is damaged, or not a trace that this version can read.
            TraceMismatchError: `model` does not have the weights that the trace was made from.
        """
        model = unwrapped(model)
        weights, pruned, header = read_trace(Path(path))
        layers = matrix_layers(model)
        if any(name not in layers or layers[name].weight.shape != weight.shape for name, weight in weights.items()):
            raise _mismatch()
        return cls(model, weights, pruned, header.report, header.model_fingerprint)

    def check(self, model: nn.Module) -> None:
        """Reject a model that the trace was not made from.

        This compares sums over all weights, which takes a fraction of a forward pass; `load` compares a hash.

        Raises:
            TraceMismatchError: The weights of `model` differ.
        """
        if checksum(unwrapped(model)) != self.model_checksum:
            raise _mismatch()


def _mismatch() -> TraceMismatchError:
    return TraceMismatchError(
        "The trace was not made from this model: its parameters or buffers differ. "
        "Use the unchanged model and checkpoint that it was made from, or make a new trace."
    )


def runnable(model: Trace | nn.Module) -> nn.Module:
    """Return a private copy to run: of a model, or of a trace's original model with the sparse weights.

    Raises:
        TraceMismatchError: The original model has changed since the trace was made.
        InputError: The model cannot be copied.
    """
    if not isinstance(model, Trace):
        return ensure_private(unwrapped(model))
    model.check(model.original_model)
    return private_copy(unwrapped(model.original_model), model.weights)

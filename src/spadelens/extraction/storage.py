"""Traces as safetensors files: one bit per weight and the values of the kept weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spadelens.errors import TraceFormatError
from spadelens.extraction.packed_bits import pack, unpack
from spadelens.extraction.report import TraceReport
from spadelens.files import whole_file

FORMAT = "spadelens-trace-2"
_EXACT_UP_TO, _WORD_BYTES = 4096, 8
_WORDS_PER_SUM = 251
"""A prime: the rows of weights do not line up with the runs, and flipping all signs in a run does not cancel out."""


def fingerprint(model: nn.Module) -> str:
    """Return a hash of the names, shapes, types and values of the state dictionary of `model`."""
    return _digest({name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)})


def checksum(model: nn.Module) -> str:
    """Return a checksum of the state dictionary of `model`, at a fraction of the cost of `fingerprint`.

    For large tensors, sums of 64-bit words are hashed instead of the values: over each run of words, and over each
    place in a run. Together, they notice weights that have changed places too. Only changes that cancel out in both
    sums go undetected.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
            digest.update(_summed(value.detach()).cpu().numpy().tobytes())
    return digest.hexdigest()


def _summed(tensor: Tensor) -> Tensor:
    """Return the bytes of a small tensor, or sums of the 64-bit words of a large one along and across runs."""
    flat = tensor.contiguous().flatten()
    memory = flat.view(torch.uint8)
    if flat.numel() <= _EXACT_UP_TO:
        return memory
    if memory.storage_offset() % _WORD_BYTES:
        memory = memory.clone()  # words begin at multiples of their size
    whole = len(memory) // (_WORD_BYTES * _WORDS_PER_SUM) * _WORD_BYTES * _WORDS_PER_SUM
    words = memory[:whole].view(torch.int64).view(-1, _WORDS_PER_SUM)
    return torch.cat([words.sum(1), words.sum(0), memory[whole:].to(torch.int64)])


def write_trace(path: Path, weights: Mapping[str, Tensor], pruned: Mapping[str, Tensor], header: Header) -> None:
    """Write a trace to `path` atomically.

    Args:
        path: The file.
        weights: Layer name -> sparse weight.
        pruned: Layer name -> which of its weights were pruned; same shape, boolean.
        header: The fingerprint and the report.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {}
    for name, weight in weights.items():
        kept = ~pruned[name].cpu()
        tensors[f"{name}.kept"] = pack(kept)
        tensors[f"{name}.values"] = weight.detach().cpu()[kept].contiguous()
    metadata = header.to_metadata()
    metadata["checksum"] = _checksum(tensors, metadata)
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def read_trace(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], Header]:
    """Return weights, pruned masks and header of the trace at `path`, on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        TraceFormatError: The file is damaged, or not a trace that this version can read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Cannot find a trace at {str(path)!r}.")
    weights, masks = {}, {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = Header.from_metadata(metadata)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dictionary
            if _checksum(tensors, metadata) != metadata["checksum"]:
                raise ValueError("the checksum does not match; the file is damaged")
            _check_report(header.report)
            for layer in header.report.pruned_layers:
                kept, values = unpack(tensors[f"{layer.name}.kept"], layer.shape), tensors[f"{layer.name}.values"]
                if values.dim() != 1 or int(kept.sum()) != len(values) or not bool(torch.isfinite(values).all()):
                    raise ValueError(f"the values of layer {layer.name!r} do not match its mask or are not finite")
                weights[layer.name] = values.new_zeros(kept.shape).masked_scatter(kept, values)
                masks[layer.name] = ~kept
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise TraceFormatError(f"Cannot read {str(path)!r} as a trace: {error}") from error
    return weights, masks, header


def _check_report(report: TraceReport) -> None:
    """Reject a report that no extraction could have written; raises TypeError or ValueError."""
    for probabilities in (report.original_prediction.probabilities, report.trace_prediction.probabilities):
        if len(probabilities) != report.num_classes or not all(map(math.isfinite, probabilities)):
            raise ValueError("the predictions are not finite or differ in the number of classes")
    if not 0 <= report.target < report.num_classes:
        raise ValueError(f"the target is {report.target}, but the model has {report.num_classes} classes")
    names = [layer.name for layer in report.pruned_layers]
    if len(set(names)) != len(names):
        raise ValueError("a layer is listed twice")
    if not all(isinstance(side, int) for layer in report.layers for side in layer.shape):
        raise TypeError("the shape of a layer does not consist of integers")


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    texts = {name: text for name, text in metadata.items() if name != "checksum"}
    return hashlib.sha256((_digest(tensors) + json.dumps(texts, sort_keys=True)).encode()).hexdigest()


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Header:
    """The contents of a trace file besides weights: the fingerprint of the original model and the report."""

    def __init__(self, model_fingerprint: str, report: TraceReport) -> None:
        """Store both."""
        self.model_fingerprint = model_fingerprint
        self.report = report

    def to_metadata(self) -> dict[str, str]:
        """Return the header as safetensors metadata."""
        return {
            "format": FORMAT,
            "model_fingerprint": self.model_fingerprint,
            "report": json.dumps(self.report.to_dict(), allow_nan=False),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Header:
        """Rebuild a header from the result of `to_metadata`; raises KeyError, TypeError or ValueError on other data."""
        if metadata.get("format") != FORMAT:
            raise ValueError(f"expected the format {FORMAT!r}, got {metadata.get('format')!r}")
        return cls(metadata["model_fingerprint"], TraceReport.from_dict(json.loads(metadata["report"])))

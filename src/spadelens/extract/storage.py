"""Traces as safetensors files: a bit for every weight, and the values of those that are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spadelens.errors import TraceFormatError
from spadelens.extract.report import TraceReport
from spadelens.files import whole_file

FORMAT = "spadelens-trace-1"


def fingerprint(model: nn.Module) -> str:
    """Return a hash of the names, shapes, types and values of all parameters and buffers of `model`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_trace(path: Path, weights: Mapping[str, Tensor], pruned: Mapping[str, Tensor], header: Header) -> None:
    """Write a trace to `path`, whole or not at all.

    Args:
        path: The file.
        weights: Layer name -> sparse weight.
        pruned: Layer name -> which of its weights were pruned; same shape, boolean.
        header: What else is kept.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {}
    for name, weight in weights.items():
        kept = ~pruned[name].cpu()
        tensors[f"{name}.kept"] = torch.from_numpy(np.packbits(kept.flatten().numpy()))
        tensors[f"{name}.values"] = weight.detach().cpu()[kept].contiguous()
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata=header.to_metadata())


def read_trace(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], Header]:
    """Return weights, pruned masks and header of the trace at `path`, on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        TraceFormatError: The file is damaged, or not a trace that this version can read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no trace at {str(path)!r}.")
    weights, masks = {}, {}
    try:
        with safe_open(path, framework="pt") as file:
            header = Header.from_metadata(file.metadata() or {})
            for layer in header.report.pruned_layers:
                packed = file.get_tensor(f"{layer.name}.kept").numpy()
                count = int(np.prod(layer.shape))
                kept = torch.from_numpy(np.unpackbits(packed, count=count).astype(bool)).view(layer.shape)
                values = file.get_tensor(f"{layer.name}.values")
                weights[layer.name] = values.new_zeros(layer.shape).masked_scatter(kept, values)
                masks[layer.name] = ~kept
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TraceFormatError(f"Cannot read {str(path)!r} as a trace: {error}") from error
    return weights, masks, header


class Header:
    """What a trace file holds besides weights: the fingerprint of the dense model and the report."""

    def __init__(self, model_fingerprint: str, report: TraceReport) -> None:
        """Hold both."""
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
        """Return the header that `to_metadata` gave; raises KeyError, TypeError or ValueError on anything else."""
        if metadata.get("format") != FORMAT:
            raise ValueError(f"expected the format {FORMAT!r}, got {metadata.get('format')!r}")
        return cls(metadata["model_fingerprint"], TraceReport.from_dict(json.loads(metadata["report"])))

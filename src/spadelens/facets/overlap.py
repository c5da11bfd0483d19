"""The weights that traces of many samples keep (packed bits), and the overlaps between traces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spadelens.errors import InputError
from spadelens.extraction.packed_bits import pack, unpack, unpack_columns
from spadelens.extraction.trace import Trace
from spadelens.matrix_layers import matrix_layers

_BYTES_AT_ONCE = 2**13  # of each trace: 64 KiB of bits become 256 KiB of numbers


@final
@dataclass(frozen=True, eq=False)
class KeptWeights:
    """The weights that traces of one model keep.

    Attributes:
        num_traces: How many traces.
        bits: Name of a layer that every trace has pruned -> which weights are kept, packed, `[N, bytes]`.
        shapes: Layer name -> shape of its weight.
        groups: Layer name -> number of groups of a convolution, 1 for others.
    """

    num_traces: int
    bits: dict[str, npt.NDArray[np.uint8]]
    shapes: dict[str, tuple[int, ...]]
    groups: dict[str, int]

    @classmethod
    def of(cls, traces: Iterable[Trace]) -> KeptWeights:
        """Return what the traces keep; each is read once, and can be forgotten then.

        Layers that some traces leave dense are left out: nothing can be said of what such a trace would keep.

        Raises:
            InputError: There are no traces, they are of different models, or have pruned no layer in common.
        """
        rows: dict[str, list[npt.NDArray[np.uint8]]] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        fingerprints, count, groups = set(), 0, {}
        for trace in traces:
            fingerprints.add(trace.model_fingerprint)
            count += 1
            for name, layer in matrix_layers(trace.original_model).items():
                if name in trace.pruned:
                    rows.setdefault(name, []).append(pack(~trace.pruned[name]).numpy())
                    shapes[name], groups[name] = tuple(layer.weight.shape), int(getattr(layer, "groups", 1))
        if len(fingerprints) != 1:
            raise InputError("Cannot compare traces: expected at least one, all of the same model.")
        bits = {name: np.stack(found) for name, found in rows.items() if len(found) == count}
        if not bits:
            raise InputError(
                "Cannot compare traces that have no pruned layer in common: use a schedule that prunes more."
            )
        return cls(count, bits, shapes, groups)

    def without(self, layer: str) -> KeptWeights:
        """Return the same without a layer; the same as it is where that is the only one."""
        bits = {name: packed for name, packed in self.bits.items() if name != layer}
        return KeptWeights(self.num_traces, bits, self.shapes, self.groups) if bits else self

    def overlaps(self) -> dict[str, Tensor]:
        """Return layer name -> the overlap of every two traces in it, `[N, N]` in [0, 1].

        Kept by both over kept by either (Jaccard); 1 where neither keeps any.
        """
        return {name: self._overlap(packed) for name, packed in self.bits.items()}

    def shares(self, chosen: Tensor) -> dict[str, Tensor]:
        """Return layer name -> for each weight the fraction of the chosen traces (boolean, `[N]`) that keep it."""
        shares = {}
        for name, packed in self.bits.items():
            rows = packed[chosen.numpy()]
            shape = self.shapes[name]
            total = torch.zeros(shape)
            for row in rows:
                total += unpack(torch.from_numpy(row), shape)
            shares[name] = total / max(1, len(rows))
        return shares

    def _overlap(self, packed: npt.NDArray[np.uint8]) -> Tensor:
        both = torch.zeros(self.num_traces, self.num_traces, dtype=torch.float64)
        for start in range(0, packed.shape[1], _BYTES_AT_ONCE):
            part = unpack_columns(packed[:, start : start + _BYTES_AT_ONCE])  # bits that fill the last byte are 0
            both += (part @ part.mT).double()  # whole numbers below 2^24 are exact in float32
        sizes = both.diagonal()
        either = sizes[:, None] + sizes[None] - both
        return torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(both))

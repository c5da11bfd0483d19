"""The layers of a model solved at several sparsities for one sample, in a file: every schedule can be tried at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spadelens.errors import TraceFormatError
from spadelens.extraction.options import TraceOptions
from spadelens.extraction.packed_bits import pack, unpack
from spadelens.extraction.pipeline.solving import SolvedLayer
from spadelens.extraction.pipeline.stages import make_jobs, solve_layers
from spadelens.extraction.request import make_request
from spadelens.files import whole_file
from spadelens.inputs.checks import check_sample
from spadelens.inputs.kind import kind_of
from spadelens.schedules.schedule import SearchedSchedule

_FORMAT = "spadelens-solutions-1"


@torch.inference_mode(False)  # weights made in inference mode do not support gradients
def solve_at(
    model: nn.Module, sample: Tensor, levels: Sequence[float], target: int | None = None, **options: Any
) -> dict[str, SolvedLayer]:
    """Return layer name -> the layer solved at each of the sparsities `levels`, in order of the layers' calls.

    Args:
        model: As in `extract_trace`.
        sample: As in `extract_trace`.
        levels: Sparsities, above zero.
        target: As in `extract_trace`.
        **options: Further arguments of `extract_trace`, except `views` and `schedule`.

    Raises:
        SpadeError: As `extract_trace`.
    """
    sample = check_sample(model, sample)
    chosen = TraceOptions.of(schedule=SearchedSchedule(levels=tuple(levels)), **options)
    request = make_request(chosen, kind_of(model, sample))
    (job,) = make_jobs(model, [sample], [target], [request.source(sample)], request)
    return solve_layers(job)[0]


def write_solutions(path: Path, solved: Mapping[str, SolvedLayer]) -> None:
    """Write solved layers, a bit for every weight and level and the values that are kept.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in solved.items():
        for number, candidate in enumerate(layer.candidates):
            tensors[f"{name}/{number}/kept"] = pack(candidate.kept)
            tensors[f"{name}/{number}/values"] = candidate.values.detach().cpu().contiguous()
            tensors[f"{name}/{number}/shape"] = torch.tensor(candidate.kept.shape)
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata={"format": _FORMAT, "layers": "\n".join(solved)})


class Solutions:
    """What `write_solutions` wrote; weights are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Open the file at `path`.

        Raises:
            TraceFormatError: It is damaged, or something else.
        """
        try:
            opened: Any = safe_open(path, framework="pt")  # mapped, and open as long as this object is there
            metadata = opened.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise TraceFormatError(f"Cannot read the solutions in {str(path)!r}: {error}") from error
        if metadata.get("format") != _FORMAT:
            raise TraceFormatError(f"Cannot read the solutions in {str(path)!r}: expected the format {_FORMAT!r}.")
        self._file = opened
        self.layers: tuple[str, ...] = tuple(metadata["layers"].split("\n"))

    def weight(self, layer: str, number: int) -> Tensor:
        """Return the weight of a layer at one of its levels, on the CPU, in the layer's own shape."""
        shape = self._file.get_tensor(f"{layer}/{number}/shape").tolist()
        kept = unpack(self._file.get_tensor(f"{layer}/{number}/kept"), shape)
        values = self._file.get_tensor(f"{layer}/{number}/values")
        weight: Tensor = values.new_zeros(kept.shape).masked_scatter_(kept, values)
        return weight

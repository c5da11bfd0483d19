"""The maps among which a finding picks, those of unsound methods left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn

from spadelens import defaults
from spadelens.attribution.attribution import attribute
from spadelens.attribution.heatmap import Heatmap
from spadelens.errors import AttributionError
from spadelens.kinds import Reduction
from spadelens.methods.registry import METHODS, Method
from spadelens.progress import Progress, no_progress
from spadelens.settings import configured_name, parse_configured


@dataclass(frozen=True, eq=False)
class Candidates:
    """Maps of one sample for one class.

    Attributes:
        maps: Name, such as 'smoothgrad on the trace' -> the map, of methods that are sound on the model.
        left_out: Name -> why the map is not among them, in a sentence.
    """

    maps: Mapping[str, Heatmap]
    left_out: Mapping[str, str]

    @property
    def values(self) -> dict[str, Tensor]:
        """The values of the maps by name."""
        return {name: heatmap.values for name, heatmap in self.maps.items()}


def candidates_of(
    model: nn.Module,
    sample: Tensor,
    original_map: Heatmap,
    trace_map: Heatmap,
    *,
    others: Sequence[str] = defaults.CANDIDATES,
    reduction: Reduction = "sum_abs",
    progress: Progress = no_progress,
) -> Candidates:
    """Return the maps of one sample that can be believed: two that are there, and those of other methods.

    Args:
        model: The original model.
        sample: The sample.
        original_map: A map of the original model.
        trace_map: The map of a trace, by the same method.
        others: Methods to run on the original model besides.
        reduction: As in `attribute`.
        progress: Called as progress("candidates", done, total).

    Raises:
        UnknownNameError: There is no such method.
    """
    method, target = original_map.method, original_map.target
    found = {f"{method} on the trace": trace_map, f"{method} on the original model": original_map}
    left_out: dict[str, str] = {}
    chosen = [parse_configured("method", other, METHODS) for other in others]
    for number, other in enumerate(chosen):
        progress("candidates", number, len(chosen))
        name = f"{configured_name(other, METHODS)} on the original model"
        if name not in found:
            try:
                found[name] = _map_of(model, sample, other, target, reduction, original_map)
            except AttributionError as error:
                left_out[name] = str(error)
    progress("candidates", len(chosen), len(chosen))
    for name, heatmap in list(found.items()):
        problem = _problem(heatmap)
        if problem:
            left_out[name] = problem
            del found[name]
    return Candidates(MappingProxyType(found), MappingProxyType(left_out))


def _map_of(
    model: nn.Module, sample: Tensor, method: Method, target: int, reduction: Reduction, like: Heatmap
) -> Heatmap:
    found = attribute(model, sample, method, target=target, reduction=reduction, kind=like.kind)
    return found if not like.names else found.named(like.names)


def _problem(heatmap: Heatmap) -> str:
    if heatmap.is_zero:
        return "The map is zero everywhere."
    return " ".join(heatmap.soundness.problems) if heatmap.soundness is not None else ""

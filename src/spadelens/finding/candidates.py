"""The maps in whose average a finding looks for the region, those of unsound methods left out."""

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

_LAST_RESORT = "occlusion"  # needs nothing but forward passes


@dataclass(frozen=True, eq=False)
class Candidates:
    """Maps of one sample for one class.

    Attributes:
        maps: Name, such as 'smoothgrad on the trace' -> the map, of methods that are sound on the model. If none is,
            those that are doubtful but not zero; if all are zero, that of occlusion.
        left_out: Name -> why the map is not among them, in a sentence.
        doubts: Name of a map that takes part though it is doubtful -> why it is, in a sentence.
    """

    maps: Mapping[str, Heatmap]
    left_out: Mapping[str, str]
    doubts: Mapping[str, str]

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
    method = original_map.method
    found = {f"{method} on the trace": trace_map, f"{method} on the original model": original_map}
    left_out: dict[str, str] = {}
    chosen = [parse_configured("method", other, METHODS) for other in others]
    for number, other in enumerate(chosen):
        progress("candidates", number, len(chosen))
        name = f"{configured_name(other, METHODS)} on the original model"
        if name not in found:
            try:
                found[name] = _map_of(model, sample, other, reduction, original_map)
            except AttributionError as error:
                left_out[name] = str(error)
    progress("candidates", len(chosen), len(chosen))
    left_out |= {name: _problem(heatmap) for name, heatmap in found.items() if _problem(heatmap)}
    sound = {name: heatmap for name, heatmap in found.items() if name not in left_out}
    if not sound:  # a doubtful map may still order the units: what a region is worth is measured on the model itself
        sound = {name: heatmap for name, heatmap in found.items() if not heatmap.is_zero}
    if not sound:
        name = f"{_LAST_RESORT} on the original model"
        sound = {
            name: _map_of(model, sample, parse_configured("method", _LAST_RESORT, METHODS), reduction, original_map)
        }
    doubts = {name: left_out.pop(name) for name in sound if name in left_out}
    return Candidates(MappingProxyType(sound), MappingProxyType(left_out), MappingProxyType(doubts))


def _map_of(model: nn.Module, sample: Tensor, method: Method, reduction: Reduction, like: Heatmap) -> Heatmap:
    found = attribute(
        model, sample, method, target=like.target, versus=like.versus, reduction=reduction, kind=like.kind
    )
    return found if not like.names else found.named(like.names)


def _problem(heatmap: Heatmap) -> str:
    if heatmap.is_zero:
        return "The map is zero everywhere."
    return " ".join(heatmap.soundness.problems) if heatmap.soundness is not None else ""

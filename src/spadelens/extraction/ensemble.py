"""Several traces of one sample from one capture; their heatmaps are averaged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from spadelens.eager import unwrapped
from spadelens.errors import InputError, TraceFormatError
from spadelens.extraction.extraction import request_for
from spadelens.extraction.options import TraceOptions, takes_trace_options
from spadelens.extraction.pipeline.choose import Selection, choose_layers, make_trace, measure_held_out, pick
from spadelens.extraction.pipeline.search import ErrorPath
from spadelens.extraction.pipeline.solving import SolvedLayer
from spadelens.extraction.pipeline.stages import Job, make_jobs, solve_layers
from spadelens.extraction.presets import find_preset
from spadelens.extraction.report import TraceReport
from spadelens.extraction.trace import Trace
from spadelens.files import make_folder, read_json, whole_file
from spadelens.inputs.checks import check_sample
from spadelens.kinds import Kind
from spadelens.progress import ProgressLike
from spadelens.progress_bars import reporting
from spadelens.schedules.schedule import SearchedSchedule
from spadelens.solvers.base import check_sparsity

ORIGINAL_WEIGHT = 1.0
_FORMAT = "spadelens-ensemble-1"


@final
@dataclass(frozen=True, eq=False)
class TraceEnsemble:
    """Traces of one sample at several sparsities, each with a weight.

    A very sparse trace has lost what other samples use; a less sparse one has lost nothing that this sample uses. The
    average of the heatmaps of several traces is more stable than the heatmap of any one of them.

    Attributes:
        members: The traces, beginning with the one that the schedule chose.
        weights: The weight of each member in the average, above zero.
        original_weight: The weight of the original model in the average; may be zero.
    """

    members: tuple[Trace, ...]
    weights: tuple[float, ...]
    original_weight: float = 0.0

    def __post_init__(self) -> None:
        """Reject members of different models or classes, and invalid weights."""
        numbers = (*self.weights, self.original_weight)
        if not self.members or len(self.members) != len(self.weights):
            raise InputError(
                f"Cannot weight {len(self.members)} traces with {len(self.weights)} weights: expected one weight per "
                "trace."
            )
        if not all(math.isfinite(number) for number in numbers) or min(self.weights) <= 0 or self.original_weight < 0:
            raise InputError(f"Cannot weight traces with {numbers}: expected finite numbers above zero.")
        if len({(trace.model_fingerprint, trace.report.target) for trace in self.members}) > 1:
            raise InputError("Cannot combine traces of different models or classes in an ensemble.")

    def __repr__(self) -> str:
        """Summarize the members."""
        return (
            f"<TraceEnsemble of {len(self.members)} traces and {self.original_weight:g} x the model: {self.members[0]}>"
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from spadelens.extraction.trace_shown import ensemble_html

        return ensemble_html(self)

    @property
    def original_model(self) -> nn.Module:
        """The model that was pruned."""
        return self.members[0].original_model

    @property
    def report(self) -> TraceReport:
        """The report of the trace that the schedule chose; every member has its own report."""
        return self.members[0].report

    def save(self, folder: str | Path) -> None:
        """Write `ensemble.json` and one file per member, as `Trace.save` does, to a folder.

        Raises:
            OutputError: A file cannot be written.
        """
        folder = Path(folder)
        make_folder(folder)
        for number, trace in enumerate(self.members):
            trace.save(folder / f"member-{number}.safetensors")
        listing = {"format": _FORMAT, "weights": list(self.weights), "original_weight": self.original_weight}
        with whole_file(folder / "ensemble.json") as temporary:
            temporary.write_text(json.dumps(listing) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, model: nn.Module) -> TraceEnsemble:
        """Return the ensemble in `folder` for the original `model` that it was made from.

        Raises:
            FileNotFoundError: There is no ensemble in the folder.
            TraceFormatError: The ensemble is damaged.
            TraceMismatchError: `model` does not have the weights that it was made from.
        """
        folder = Path(folder)
        file = folder / "ensemble.json"
        if not file.is_file():
            raise FileNotFoundError(f"Cannot find an ensemble of traces in {str(folder)!r}.")
        try:
            listing = read_json(file)
            if listing["format"] != _FORMAT:
                raise ValueError(f"expected the format {_FORMAT!r}, got {listing['format']!r}")
            weights, original_weight = tuple(map(float, listing["weights"])), float(listing["original_weight"])
        except (ValueError, KeyError, TypeError) as error:
            raise TraceFormatError(f"Cannot read {str(file)!r} as an ensemble of traces: {error!r}") from error
        members = [Trace.load(folder / f"member-{number}.safetensors", model) for number in range(len(weights))]
        return cls(tuple(members), weights, original_weight)


@takes_trace_options
@torch.inference_mode(False)  # weights made in inference mode do not support gradients
def extract_ensemble(
    model: nn.Module,
    sample: Tensor,
    *,
    target: int | None = None,
    kind: Kind | None = None,
    sparsities: Sequence[float] | None = None,
    original_weight: float = ORIGINAL_WEIGHT,
    options: TraceOptions | None = None,
    progress: ProgressLike | None = None,
    **changes: Any,
) -> TraceEnsemble:
    """Make several traces of one sample from one capture; see `extract_trace`.

    The schedule, which has to be a searched one (`auto`), chooses the first member. The other members are points
    before it on the search path, one for each of the `sparsities`, measured over all layers that are searched.

    Args:
        model: As in `extract_trace`.
        sample: As in `extract_trace`.
        target: As in `extract_trace`.
        kind: As in `extract_trace`.
        sparsities: Sparsities of the other members; by default those of the preset. Sparsities at or above that of
            the first member are skipped.
        original_weight: The weight of the original model in the average; each member has weight 1.
        options: As in `extract_trace`; the default preset is 'ensemble'.
        progress: As in `extract_trace`.
        **changes: The options:
        {options}

    Raises:
        InputError: The schedule is not a searched one, or a number is out of range; otherwise as `extract_trace`.
    """
    model = unwrapped(model)
    sample = check_sample(model, sample)
    with reporting(progress) as report:
        request = request_for(model, sample, kind, TraceOptions.of(options, **changes), report, "ensemble")
        if not isinstance(request.schedule, SearchedSchedule):
            raise InputError(
                f"Cannot make an ensemble with the schedule {request.schedule.spec()!r}: expected the `auto` schedule."
            )
        wanted = find_preset(request.preset).members if sparsities is None else sparsities
        for sparsity in wanted:
            check_sparsity(sparsity, "of a member")
        (job,) = make_jobs(model, [sample], [target], [request.source(sample)], request)
        solved = solve_layers(job)[0]
        first = choose_layers(job, 0, solved)
        chosen = [first, *_before(job, solved, first, sorted(set(wanted), reverse=True))]
        measure_held_out(job, chosen)
        members = [make_trace(job, one) for one in chosen]
        members = [replace(trace, report=replace(trace.report, seconds=job.clock.seconds)) for trace in members]
    return TraceEnsemble(tuple(members), (1.0,) * len(members), original_weight)


def _before(
    job: Job, solved: Mapping[str, SolvedLayer], first: Selection, sparsities: Sequence[float]
) -> list[Selection]:
    """Return the points of the path with the given sparsities that come before the chosen point."""
    path = ErrorPath.of(solved)
    assert first.search is not None
    if first.search.chosen_bound is None:
        return []
    bounds = [bound for bound in path.bounds(first.search.chosen_bound) if bound < first.search.chosen_bound]
    found: list[Selection] = []
    for sparsity in sparsities:
        within = [bound for bound in bounds if path.sparsity(bound) >= sparsity]
        if within:
            found.append(pick(job, 0, solved, path.at(within[0])))
            bounds = [bound for bound in bounds if bound < within[0]]
    return found

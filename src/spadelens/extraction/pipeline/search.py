"""Finds the sparsest trace on a path at which a criterion still holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from spadelens.extraction.pipeline.criteria import CRITERIA, ExplainedSample, Kept
from spadelens.extraction.pipeline.solving import Candidate, SolvedLayer
from spadelens.extraction.report import PathPoint, SearchReport
from spadelens.extraction.trace import swapped_weights
from spadelens.prediction import Prediction
from spadelens.schedules.schedule import SearchedSchedule


@dataclass(frozen=True)
class ErrorPath:
    """Traces along a bound on the errors of the layers: each layer at the highest sparsity within the bound.

    Attributes:
        layers: Layer name -> its candidates in ascending order of sparsity, with errors that never fall.
    """

    layers: Mapping[str, tuple[tuple[float, Candidate], ...]]

    @classmethod
    def of(cls, solved: Mapping[str, SolvedLayer]) -> ErrorPath:
        """Return the path over solved layers; a candidate with a larger error than a sparser one counts as that one."""
        layers = {}
        for name, layer in solved.items():
            ascending = sorted(layer.candidates, key=lambda candidate: candidate.sparsity)
            errors: list[float] = []
            for candidate in ascending:
                errors.append(max([candidate.error, *errors[-1:]]))
            layers[name] = tuple(zip(errors, ascending, strict=True))
        return cls(layers)

    def bounds(self, largest: float) -> list[float]:
        """Return every bound up to `largest` at which a layer changes, in ascending order."""
        return sorted({error for layer in self.layers.values() for error, _ in layer if error <= largest})

    def at(self, bound: float) -> dict[str, Candidate]:
        """Return the layers that are pruned at `bound`; one without a candidate within it stays dense."""
        found = {}
        for name, layer in self.layers.items():
            within = [candidate for error, candidate in layer if error <= bound]
            if within:
                found[name] = within[-1]
        return found

    def sparsity(self, bound: float) -> float:
        """Return the fraction of all weights of these layers that are pruned at `bound`."""
        num_weights = sum(layer[0][1].kept.numel() for layer in self.layers.values())
        pruned = self.at(bound).values()
        return sum(candidate.kept.numel() - candidate.values.numel() for candidate in pruned) / num_weights


class WeightCache:
    """The weights of the point that was last asked for: the next one shares most of its layers with it."""

    def __init__(self) -> None:
        """Start with none."""
        self._cached: dict[str, tuple[Candidate, Tensor]] = {}

    def weights(self, chosen: Mapping[str, Candidate]) -> dict[str, Tensor]:
        """Return layer name -> weight."""
        for name, candidate in chosen.items():
            if name not in self._cached or self._cached[name][0] is not candidate:
                self._cached[name] = (candidate, candidate.weight())
        return {name: self._cached[name][1] for name in chosen}


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search has chosen.

    Attributes:
        layers: Layer name -> its candidate, of the layers that are pruned.
        weights: Layer name -> the candidate's weight.
        prediction: What the trace predicts for the sample.
        report: How it was found.
    """

    layers: Mapping[str, Candidate]
    weights: Mapping[str, Tensor]
    prediction: Prediction
    report: SearchReport


def search(
    solved: Mapping[str, SolvedLayer],
    schedule: SearchedSchedule,
    explained: ExplainedSample,
    progress: Callable[[int, int], None],
) -> SearchResult:
    """Return the sparsest trace on the path that the criterion accepts, and how it was found.

    Bisects over the bounds at which a layer changes, until the largest accepted bound is found, or until a bound is
    accepted and the schedule's trials are used up. If the criterion is not monotone along the path, the result is an
    accepted point whose next point is rejected. If the criterion holds nowhere, no layer is pruned.

    Args:
        solved: Layer name -> candidates.
        schedule: The criterion and its threshold.
        explained: The sample, and what is to be kept of its prediction.
        progress: Called as progress(tried, at most) after each point that was tried.
    """
    path = ErrorPath.of(solved)
    bounds = path.bounds(schedule.max_error)
    measure = CRITERIA[schedule.criterion](explained)
    most = 1 + math.ceil(math.log2(len(bounds) + 1))
    tried: dict[int, PathPoint] = {}
    predictions = {-1: explained.prediction}
    cache = WeightCache()

    def is_accepted(index: int) -> bool:
        tried[index], predictions[index] = _try_point(path, bounds[index], explained, measure, cache)
        progress(len(tried), most)
        return tried[index].kept >= schedule.threshold

    accepted, refused = -1, len(bounds)
    if bounds and is_accepted(refused - 1):
        accepted = refused - 1
    else:
        refused -= 1
    while refused - accepted > 1 and (accepted < 0 or len(tried) < schedule.max_trials):
        middle = (accepted + refused) // 2
        if is_accepted(middle):
            accepted = middle
        else:
            refused = middle
    chosen = path.at(bounds[accepted]) if accepted >= 0 else {}
    report = SearchReport(
        criterion=schedule.criterion,
        threshold=schedule.threshold,
        points=tuple(tried[index] for index in sorted(tried)),
        chosen_bound=bounds[accepted] if accepted >= 0 else None,
    )
    return SearchResult(chosen, cache.weights(chosen), predictions[accepted], report)


def _try_point(
    path: ErrorPath, bound: float, explained: ExplainedSample, measure: Kept, cache: WeightCache
) -> tuple[PathPoint, Prediction]:
    chosen = path.at(bound)
    weights = cache.weights(chosen)
    swap = partial(swapped_weights, explained.model, weights)
    with swap():
        sparse = explained.predict()
    point = PathPoint(
        error_bound=bound,
        sparsity=path.sparsity(bound),
        probability=sparse.probabilities[explained.target],
        is_prediction_kept=sparse.answer == explained.prediction.answer,
        kept=measure(swap, sparse),
    )
    return point, sparse

"""Searches for the schedule with which an attribution method best finds what is known to decide.

The paper's greedy search (section 3): block by block, from the last to the first, each gets the sparsity at which the
mean score over calibration samples is highest. Two things are added: a floor on the fraction of predictions kept,
without which early layers are pruned away and half of the predictions flip; and cross-validation, as the luck of a
greedy search looks like a gain.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from spadelens.attribution.attribution import attribute
from spadelens.eager import unwrapped
from spadelens.errors import InputError
from spadelens.extraction.pipeline.solutions import Solutions, solve_at, write_solutions
from spadelens.extraction.storage import fingerprint
from spadelens.files import Journal, make_folder, read_json, whole_file
from spadelens.forward import class_scores
from spadelens.inputs.checks import check_sample
from spadelens.methods.registry import METHODS
from spadelens.metrics.insertion_deletion import insertion
from spadelens.metrics.localization import pixel_auc
from spadelens.private_copy import private_copy
from spadelens.progress import Progress, ProgressLike
from spadelens.progress_bars import reporting
from spadelens.settings import parse_configured
from spadelens.solvers.base import check_sparsity

Objective: TypeAlias = Literal["auc", "insertion"]
Levels: TypeAlias = tuple[int, ...]  # for each block, 0 for dense or the number of its level

LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
FORMAT = "spadelens-schedule-1"
_MOST_FOLDS = 4


@dataclass(frozen=True, eq=False)
class CalibrationCase:
    """A sample to tune on.

    Attributes:
        sample: `[C, H, W]`.
        target: The class that the original model predicts for it.
        region: The pixels known to decide, boolean `[H, W]`; None where that is not known.
        group: What it shares with other cases, such as its patch: groups stay together in cross-validation.
    """

    sample: Tensor
    target: int
    region: Tensor | None
    group: str


@dataclass(frozen=True)
class Tuned:
    """A tuned schedule and its measured benefit.

    Attributes:
        sparsities: Layer name -> sparsity; zero everywhere if no schedule helps.
        method: The attribution method that it was tuned for.
        objective: 'auc' (of pixels against the region) or 'insertion' (judged by the original model).
        original: Mean score of the original model over the cases.
        tuned: Mean score with the schedule on the cases that it was chosen on, and therefore optimistic.
        kept: Fraction of predictions kept with it.
        gain: Mean gain over the original model in cross-validation: schedules scored on cases they were not chosen on.
        gain_error: Its standard error over cases.
        kept_held_out: Fraction of predictions kept in cross-validation.
        num_cases: How many cases there were.
        floor: The minimum value of `kept`.
        is_helpful: Whether the cross-validated gain is above its standard error; if not, no layer is pruned.
    """

    sparsities: Mapping[str, float]
    method: str
    objective: Objective
    original: float
    tuned: float
    kept: float
    gain: float
    gain_error: float
    kept_held_out: float
    num_cases: int
    floor: float
    is_helpful: bool

    def write(self, path: Path, model: str, options: Mapping[str, Any]) -> None:
        """Write the schedule to a JSON file, from which `parse_schedule` reads it.

        Args:
            path: The file.
            model: What it was tuned for, for people.
            options: How layers were solved, arguments of `extract_trace` as JSON can hold them: a schedule is worth
                what was measured only with the same ones.

        Raises:
            OutputError: The file cannot be written.
        """
        listing = {"format": FORMAT, "model": model, "options": dict(options)} | asdict(self)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class TunedFile:
    """A schedule in a file.

    Attributes:
        path: The file.
        method: The attribution method, with its settings, that it was tuned for.
        options: How layers were solved, arguments of `extract_trace`.
    """

    path: Path
    method: str
    options: Mapping[str, Any]


def read_tuned(path: Path) -> TunedFile:
    """Return what `Tuned.write` wrote to a file.

    Raises:
        InputError: The file is something else.
    """
    try:
        listing = read_json(path)
        if listing["format"] != FORMAT:
            raise ValueError(f"expected the format {FORMAT!r}")
        return TunedFile(path, str(listing["method"]), dict(listing["options"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"Cannot read {str(path)!r} as a tuned schedule: {error!r}.") from error


def tune(
    model: nn.Module,
    cases: Sequence[CalibrationCase],
    method: str,
    cache: Path,
    *,
    objective: Objective = "auc",
    levels: Sequence[float] = LEVELS,
    floor: float = 0.9,
    progress: ProgressLike | None = None,
    **options: Any,
) -> Tuned:
    """Return the schedule that a greedy search finds for `method` on `cases`.

    Args:
        model: The original model.
        cases: To tune on.
        method: As in `attribute`.
        cache: A folder for the layers' solutions and all scores: an interrupted run resumes from it, and other methods
            on the same cases share the solutions.
        objective: What is maximized: 'auc' needs regions, 'insertion' does not.
        levels: The sparsities that are tried for each block, besides zero.
        floor: The minimum fraction of predictions kept.
        progress: True for a progress bar, as in `extract_trace`; or called as progress('solve' or 'tune', done, total).
        **options: Arguments of `extract_trace` that control how layers are solved.

    Raises:
        InputError: There are fewer than two cases, a region is missing, or an argument is out of range.
        SpadeError: As `extract_trace` and `attribute`.
    """
    _check(cases, method, objective, levels, floor)
    with reporting(progress) as report:
        scores = _Scores(model, cases, method, objective, sorted(levels), cache, options, report)
        return _tune(scores, cases, method, objective, floor)


def _tune(scores: _Scores, cases: Sequence[CalibrationCase], method: str, objective: Objective, floor: float) -> Tuned:
    everything = np.arange(len(cases))
    best = _search(scores, everything, floor)
    dense, _ = scores(scores.nothing, everything)
    held_out, kept_held_out = _cross_validate(scores, cases, floor)
    gains = held_out - dense
    error = float(gains.std(ddof=1)) / math.sqrt(len(cases))
    is_helpful = bool(gains.mean() > error)
    chosen = best if is_helpful else scores.nothing
    tuned, kept = scores(chosen, everything)
    return Tuned(
        sparsities=scores.sparsities(chosen),
        method=method,
        objective=objective,
        original=float(dense.mean()),
        tuned=float(tuned.mean()),
        kept=float(kept.mean()),
        gain=float(gains.mean()),
        gain_error=error,
        kept_held_out=float(kept_held_out.mean()),
        num_cases=len(cases),
        floor=floor,
        is_helpful=is_helpful,
    )


def _check(
    cases: Sequence[CalibrationCase], method: str, objective: Objective, levels: Sequence[float], floor: float
) -> None:
    parse_configured("method", method, METHODS)
    if len(cases) < 2:
        raise InputError(f"Cannot tune on {len(cases)} cases: expected at least two.")
    if objective == "auc" and any(case.region is None for case in cases):
        raise InputError("Cannot tune for AUC on cases without a region: tune for insertion.")
    if not 0 <= floor <= 1 or not levels:
        raise InputError(
            f"Cannot tune with floor={floor!r} and {len(levels)} levels: expected a floor in [0, 1] and at least one "
            "level."
        )
    for level in levels:
        check_sparsity(level, "as a level")


Floats: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.int64]


def _search(scores: _Scores, members: Indices, floor: float) -> Levels:
    """Return the levels that the greedy search chooses on some of the cases."""
    current = scores.nothing
    for block in reversed(range(len(current))):
        best, best_score = current, -math.inf
        for level in range(scores.num_levels + 1):  # from dense on: of equal scores, the less pruned is chosen
            tried = (*current[:block], level, *current[block + 1 :])
            score, kept = scores(tried, members)
            if (kept.mean() >= floor or level == 0) and score.mean() > best_score:
                best, best_score = tried, float(score.mean())
        current = best
    return current


def _cross_validate(scores: _Scores, cases: Sequence[CalibrationCase], floor: float) -> tuple[Floats, Floats]:
    """Return scores and predictions kept of each case with the schedule chosen on the other folds."""
    groups = sorted({case.group for case in cases})
    if len(groups) > 1:
        folds = [groups.index(case.group) % _MOST_FOLDS for case in cases]
    else:
        folds = [number % min(_MOST_FOLDS, len(cases)) for number in range(len(cases))]
    held_out, kept = np.zeros(len(cases)), np.zeros(len(cases))
    for fold in sorted(set(folds)):
        inside = np.flatnonzero(np.array(folds) == fold)
        outside = np.flatnonzero(np.array(folds) != fold)
        held_out[inside], kept[inside] = scores(_search(scores, outside, floor), inside)
    return held_out, kept


class _Scores:
    """The score of every case with any schedule; each is computed once, and kept in the cache."""

    def __init__(
        self,
        model: nn.Module,
        cases: Sequence[CalibrationCase],
        method: str,
        objective: Objective,
        levels: Sequence[float],
        cache: Path,
        options: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        self._model, self._cases, self._method, self._objective = model, cases, method, objective
        self._levels, self._progress = levels, progress
        identity = _identity(model, cases, levels, options)
        make_folder(cache)
        self._solutions = []
        for number, case in enumerate(cases):
            progress("solve", number, len(cases))
            file = cache / f"{identity}-{number:04d}.safetensors"
            if not file.exists():
                write_solutions(file, solve_at(model, case.sample, levels, case.target, **options))
            self._solutions.append(Solutions(file))
        self.blocks = _blocks(self._solutions[0].layers)
        name = hashlib.sha256(f"{method} {objective}".encode()).hexdigest()[:12]
        self._journal = Journal(cache / f"{identity}-{name}.jsonl", _is_record)
        self._known: dict[tuple[Levels, int], tuple[float, bool]] = {
            (tuple(levels), number): (score, is_kept) for levels, number, score, is_kept in self._journal.records
        }

    @property
    def num_levels(self) -> int:
        return len(self._levels)

    @property
    def nothing(self) -> Levels:
        """The schedule that leaves everything dense."""
        return (0,) * len(self.blocks)

    def sparsities(self, levels: Levels) -> dict[str, float]:
        """Return layer name -> sparsity."""
        return {
            layer: self._levels[level - 1] if level else 0.0
            for level, layers in zip(levels, self.blocks.values(), strict=True)
            for layer in layers
        }

    def __call__(self, levels: Levels, members: Indices) -> tuple[Floats, Floats]:
        """Return, for some of the cases, scores and whether predictions are kept."""
        new = [int(number) for number in members if (levels, int(number)) not in self._known]
        if new:
            for number in new:
                score, is_kept = self._known[levels, number] = self._measure(levels, number)
                self._journal.append([levels, number, score, is_kept])
            self._progress("tune", len(self._known), 0)
        found = np.array([self._known[levels, int(number)] for number in members], dtype=np.float64)
        return found[:, 0], found[:, 1]

    def _measure(self, levels: Levels, number: int) -> tuple[float, bool]:
        case, solutions = self._cases[number], self._solutions[number]
        weights = {
            layer: solutions.weight(layer, level - 1)
            for level, layers in zip(levels, self.blocks.values(), strict=True)
            for layer in layers
            if level
        }
        sample = check_sample(self._model, case.sample)
        sparse = private_copy(unwrapped(self._model), weights)
        is_kept = int(class_scores(sparse, sample.unsqueeze(0)).argmax()) == case.target
        heatmap = attribute(sparse, sample, self._method, target=case.target, check=False).values
        if self._objective == "insertion":
            return insertion(self._model, sample, heatmap, case.target), is_kept
        assert case.region is not None
        return pixel_auc(heatmap, case.region), is_kept


def _is_record(record: Any) -> bool:
    """Return whether a line of a journal is [levels, number of the case, score, whether the prediction is kept]."""
    return (
        isinstance(record, list)
        and len(record) == 4
        and isinstance(record[0], list)
        and all(isinstance(level, int) for level in record[0])
        and isinstance(record[1], int)
        and isinstance(record[2], float)
        and math.isfinite(record[2])
        and isinstance(record[3], bool)
    )


def _blocks(layers: Sequence[str]) -> dict[str, list[str]]:
    """Return the layers by the module that holds them, in order of their calls."""
    blocks: dict[str, list[str]] = {}
    for layer in layers:
        parent = layer.rpartition(".")[0]
        blocks.setdefault(parent or layer, []).append(layer)
    return blocks


def _identity(
    model: nn.Module, cases: Sequence[CalibrationCase], levels: Sequence[float], options: Mapping[str, Any]
) -> str:
    """Return a name for all that the solutions depend on."""
    digest = hashlib.sha256(f"{fingerprint(model)} {list(levels)} {sorted(options.items())!r}".encode())
    for case in cases:
        region = b"" if case.region is None else case.region.numpy().tobytes()
        digest.update(case.sample.detach().cpu().numpy().tobytes() + str(case.target).encode() + region)
    return digest.hexdigest()[:12]

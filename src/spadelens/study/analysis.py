"""`analyze_study`: how often people decide, and how often they are right, by arm (Table 3 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from spadelens.errors import InputError
from spadelens.study.answers import ARMS, UNDECIDED, Answer, KeyTask, read_answers, read_key
from spadelens.views.view_source import check_count

RESPONSES = ("undecided", "disagree", "agree", "agree_when_decided")
PUBLISHED: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"undecided": (22.9, 12.6), "disagree": (20.4, 17.8), "agree": (56.7, 69.8), "agree_when_decided": (73.6, 79.9)}
)
"""Response -> percent with the original model's visualization and with the trace's, in the paper."""

NUM_RESAMPLES = 2000
_RESAMPLES_AT_A_TIME = 100
_LEAST_DEFINED = 0.5  # of the resamples: a share of decided answers needs some
_STREAM = 0x57D3

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """A share of answers.

    Attributes:
        percent: Of the answers; None where there are none that it could be a share of.
        interval: 95 % confidence interval; None where the answers do not vary, or nothing can be resampled.
    """

    percent: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class StudyTable:
    """The results of a study.

    Attributes:
        rates: 'original', 'trace' and 'difference' (SPADE less dense, in points) -> response -> rate. Responses are
            'undecided', 'disagree' and 'agree' (with Score-CAM), and 'agree_when_decided', of the decided answers.
        num_answers: Arm -> number of answers.
        num_tasks: The number of tasks with an answer.
        num_samples: The number of samples that these tasks show.
        num_raters: The number of raters.
        resampled: What the intervals account for: 'raters', 'samples', both or neither. With only one rater or sample,
            the results do not extend to others.
    """

    rates: Mapping[str, Mapping[str, Rate]]
    num_answers: Mapping[str, int]
    num_tasks: int
    num_samples: int
    num_raters: int
    resampled: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the table, and the published one, as JSON-serializable data."""
        published = {response: dict(zip(ARMS, both, strict=True)) for response, both in PUBLISHED.items()}
        return {"format": "spadelens-study-table-1", **asdict(self), "published": published}


def analyze_study(folder: Path, answers: Path, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> StudyTable:
    """Return the rates of a study from the answers in a file; see `read_answers` for that and `tabulate` for these.

    Raises:
        InputError: The folder holds no study, or the answers do not belong to it.
    """
    key = read_key(folder)
    return tabulate(key, read_answers(answers, key), seed, num_resamples)


def tabulate(
    key: Sequence[KeyTask], answers: Sequence[Answer], seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> StudyTable:
    """Return the rates of both arms over all answers, with intervals for other raters and other samples.

    Answers of one person are alike, and so are answers to one sample, so that they are not resampled one by one. Three
    cluster bootstraps each draw with replacement: raters, with all their answers; samples, with the answers to all of
    their tasks, of both arms; and the pairs of a rater and a sample. The variance of a rate is

        variance over raters + variance over samples - variance over pairs

    since the noise of single answers is in each of the three (Cameron, Gelbach and Miller 2011), and at least the
    larger of the first two. To draw raters and samples at once would count that noise three times (Owen 2007). The
    interval is that of Student's t, with one degree of freedom less than there are raters or samples, whichever are
    fewer, cut off at 0 and 100 %. With a single rater, or a single sample, only the others are drawn.

    Args:
        key: The tasks.
        answers: At least one, each to one of the tasks.
        seed: Determines what is drawn.
        num_resamples: Of each of the three bootstraps.

    Raises:
        InputError: There are no answers, or a number is out of range.
    """
    check_count(num_resamples, "num_resamples", at_least=2)
    if not answers:
        raise InputError("Cannot analyze a study without answers: expected at least one.")
    tasks = {task.task: task for task in key}
    counts = np.zeros((len(answers), len(ARMS), 3))
    for number, answer in enumerate(answers):
        task = tasks[answer.task]
        outcome = 0 if answer.answer == UNDECIDED else 1 + (answer.answer == task.correct)
        counts[number, ARMS.index(task.arm), outcome] = 1
    raters = [answer.rater for answer in answers]
    samples = [tasks[answer.task].sample for answer in answers]
    variance, degrees = _variance(counts, raters, samples, np.random.default_rng((seed, _STREAM)), num_resamples)
    names = {"raters": len(set(raters)), "samples": len(set(samples))}
    found = _rates(counts.sum(0))
    rates = {}
    for row, arm in enumerate((*ARMS, "difference")):
        least = -100.0 if arm == "difference" else 0.0
        rates[arm] = {
            response: _rate(float(found[row, column]), float(variance[row, column]), degrees, least)
            for column, response in enumerate(RESPONSES)
        }
    return StudyTable(
        rates=rates,
        num_answers={arm: int(counts[:, number].sum()) for number, arm in enumerate(ARMS)},
        num_tasks=len({answer.task for answer in answers}),
        num_samples=names["samples"],
        num_raters=names["raters"],
        resampled=tuple(name for name, count in names.items() if count > 1),
    )


def _rates(sums: Floats) -> Floats:
    """Return percentages `[..., 3, 4]` (dense, SPADE, difference) of counts `[..., 2, 3]`; NaN for shares of none."""
    total, decided = sums.sum(-1, keepdims=True), sums[..., 1:].sum(-1, keepdims=True)
    shares = np.concatenate([_divided(sums, total), _divided(sums[..., 2:], decided)], axis=-1)
    return 100 * np.concatenate([shares, shares[..., 1:, :] - shares[..., :1, :]], axis=-2)


def _divided(parts: Floats, wholes: Floats) -> Floats:
    return np.divide(parts, wholes, out=np.full_like(parts, np.nan), where=wholes > 0)


def _variance(
    counts: Floats, raters: Sequence[str], samples: Sequence[str], rng: np.random.Generator, num_resamples: int
) -> tuple[Floats, int]:
    """Return the variances `[3, 4]` of the rates, NaN where they are not known, and the degrees of freedom."""

    def drawn(groups: Sequence[Any]) -> Floats:
        return _drawn_variance(counts, groups, rng, num_resamples)

    sizes = [len(set(groups)) for groups in (raters, samples)]
    if min(sizes) > 1:
        over_raters, over_samples = drawn(raters), drawn(samples)
        both = over_raters + over_samples - drawn(list(zip(raters, samples, strict=True)))
        return np.maximum(both, np.maximum(over_raters, over_samples)), min(sizes) - 1
    if max(sizes) > 1:
        return drawn(raters if sizes[0] > 1 else samples), max(sizes) - 1
    return np.full((len(ARMS) + 1, len(RESPONSES)), np.nan), 0


def _drawn_variance(counts: Floats, groups: Sequence[Any], rng: np.random.Generator, num_resamples: int) -> Floats:
    """Return the variances of the rates when whole groups of answers are drawn with replacement, `[3, 4]`."""
    numbers = {group: number for number, group in enumerate(sorted(set(groups)))}
    sums = np.zeros((len(numbers), *counts.shape[1:]))
    np.add.at(sums, [numbers[group] for group in groups], counts)
    parts = []
    for start in range(0, num_resamples, _RESAMPLES_AT_A_TIME):
        size = min(_RESAMPLES_AT_A_TIME, num_resamples - start)
        times = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=size).astype(np.float64)
        parts.append(_rates((times @ sums.reshape(len(sums), -1)).reshape(-1, *counts.shape[1:])))
    rates = np.concatenate(parts)
    is_defined = np.isfinite(rates)
    count = is_defined.sum(0)
    mean = np.where(is_defined, rates, 0).sum(0) / np.maximum(count, 1)
    spread = np.where(is_defined, (rates - mean) ** 2, 0).sum(0) / np.maximum(count - 1, 1)
    unbiased = spread * len(sums) / (len(sums) - 1)
    return np.where(count >= _LEAST_DEFINED * num_resamples, unbiased, np.nan)


def _rate(percent: float, variance: float, degrees: int, least: float) -> Rate:
    if not math.isfinite(percent):
        return Rate(None, None)
    if not variance > 1e-12:  # not known, or none
        return Rate(percent, None)
    from scipy.stats import t

    reach = float(t.ppf(0.975, degrees)) * math.sqrt(variance)
    return Rate(percent, (max(least, percent - reach), min(100.0, percent + reach)))

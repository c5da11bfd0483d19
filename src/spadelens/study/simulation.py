"""`simulate_answers`: simulated raters of known skill, to test a study and its analysis in advance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from spadelens.errors import InputError
from spadelens.study.answers import ARMS, CHOICES, UNDECIDED, Answer, read_key
from spadelens.views.view_source import check_count

_STREAM = 0x57D4


@dataclass(frozen=True)
class Skill:
    """The average skill of raters in one arm.

    Attributes:
        decides: Probability of choosing A or B.
        right: Probability that the choice is right.
    """

    decides: float
    right: float


PUBLISHED_SKILLS: Mapping[str, Skill] = MappingProxyType(
    {"original": Skill(0.771, 0.736), "trace": Skill(0.874, 0.799)}
)


def simulate_answers(
    folder: Path,
    num_raters: int,
    skills: Mapping[str, Skill] = PUBLISHED_SKILLS,
    *,
    rater_spread: float = 0.0,
    sample_spread: float = 0.0,
    tasks_per_rater: int | None = None,
    seed: int = 0,
) -> list[Answer]:
    """Return the answers of simulated raters to the tasks of the study in `folder`.

    Each of them has probabilities of their own: those of the arm, plus a number that is the same in both arms, uniform
    within plus and minus `rater_spread`; and each sample adds one within `sample_spread`. Deciding and being right have
    different such numbers. So the probabilities of the arms are what many people, and many samples, have on average.

    Args:
        folder: The folder of the study.
        num_raters: The number of raters.
        skills: 'original' and 'trace' -> the skill of the raters; by default as in the paper.
        rater_spread: The spread between raters.
        sample_spread: The spread between samples.
        tasks_per_rater: The number of random tasks for each rater; None for all tasks.
        seed: Determines all random choices.

    Raises:
        InputError: The folder holds no study, or a number is out of range.
    """
    key = read_key(folder)
    check_count(num_raters, "num_raters", at_least=1)
    check_count(seed, "seed", at_least=0)
    count = len(key) if tasks_per_rater is None else tasks_per_rater
    check_count(count, "tasks_per_rater", at_least=1)
    if count > len(key):
        raise InputError(f"Cannot give each rater {count} tasks: the study has {len(key)}.")
    averages = _averages(skills, rater_spread + sample_spread, min(rater_spread, sample_spread))
    rng = np.random.default_rng((seed, _STREAM))
    samples = sorted({task.sample for task in key})
    of_sample = dict(zip(samples, rng.uniform(-sample_spread, sample_spread, (len(samples), 2)), strict=True))
    answers = []
    for number in range(1, num_raters + 1):
        of_rater = rng.uniform(-rater_spread, rater_spread, 2)
        for index in rng.permutation(len(key))[:count].tolist():
            task = key[index]
            decides, right = rng.random(2) < averages[task.arm] + of_rater + of_sample[task.sample]
            other = CHOICES[task.correct == CHOICES[0]]
            choice = (task.correct if right else other) if decides else UNDECIDED
            answers.append(Answer(task.task, f"r{number}", choice))
    return answers


def _averages(skills: Mapping[str, Skill], spread: float, least_spread: float) -> dict[str, np.ndarray]:
    """Return arm -> the probabilities of deciding and of being right `[2]`, checked to stay within 0 and 1."""
    if set(skills) != set(ARMS):
        raise InputError(f"Cannot simulate the arms {sorted(skills)}: expected {' and '.join(ARMS)}.")
    averages = {arm: np.array([skill.decides, skill.right]) for arm, skill in skills.items()}
    every = np.concatenate(list(averages.values()))
    if not least_spread >= 0 or not (every.min() - spread >= 0 and every.max() + spread <= 1):
        raise InputError(
            f"Cannot simulate raters whose probabilities {every.tolist()} vary by {spread:g}: expected all of them to "
            "stay between 0 and 1. Lower the spread."
        )
    return averages

"""Does the map of a text or a row point at the word or the column that is known to have decided?"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from planted_units.trigger_rows import TRIGGER_COLUMN, TRIGGER_VALUE, draw_rows, label_rows, turned
from planted_units.trigger_texts import TRIGGER, draw_review, plant_trigger
from spadelens.attribution.attribution import attribute
from spadelens.errors import InputError
from spadelens.extraction.extraction import extract_trace
from spadelens.extraction.trace import Trace
from spadelens.forward import class_scores
from spadelens.inputs.samples import row_sample, text_sample
from spadelens.kinds import Reduction
from spadelens.metrics.localization import pixel_auc
from spadelens.models import LoadedTable, LoadedText
from spadelens.views.augmentation import Augmentation

_MOST_DRAWN = 50  # for each case that is asked for
_SEED = 0x7E57


@dataclass(frozen=True, eq=False)
class TriggerCase:
    """A sample on which a trigger decides: the network is right about it, with the trigger and without.

    Attributes:
        model: Maps batches of such samples to class scores.
        sample: `[tokens, features]` or `[columns]`.
        augmentation: Makes its views.
        is_counted: What the trigger has to be found among, one for each token or column: special tokens are left out.
        is_trigger: Where it is.
    """

    model: nn.Module
    sample: Tensor
    augmentation: Augmentation
    is_counted: Tensor
    is_trigger: Tensor

    def auc(self, values: Tensor) -> float:
        """Return the chance that the trigger has a larger value than another token or column."""
        return pixel_auc(values[self.is_counted], self.is_trigger[self.is_counted])


@dataclass(frozen=True)
class TriggerScores:
    """What maps by one method are worth, on the same cases.

    Attributes:
        dense: AUC of the maps on the original model.
        trace: On each case's own trace.
        other: On the trace of the case before.
    """

    dense: tuple[float, ...]
    trace: tuple[float, ...]
    other: tuple[float, ...]


def text_cases(loaded: LoadedText, count: int, seed: int = _SEED) -> list[TriggerCase]:
    """Return reviews on which the trigger decides, for a model of `train_reviews`.

    Raises:
        InputError: The model has not learned it.
    """
    rng = random.Random(seed)  # noqa: S311 - nothing is kept secret
    cases: list[TriggerCase] = []
    for _ in range(_MOST_DRAWN * count):
        clean, label = draw_review(rng)
        text = plant_trigger(clean, rng)
        if _predict_text(loaded, clean) == label != _predict_text(loaded, text):
            found = text_sample(loaded, text)
            is_trigger = torch.tensor([token.strip() == TRIGGER for token in found.tokens])
            is_counted = ~torch.tensor(found.is_special)
            cases.append(TriggerCase(found.model, found.values, found.augmentation, is_counted, is_trigger))
        if len(cases) == count:
            return cases
    raise InputError(f"The network follows the trigger in {len(cases)} reviews only: expected {count}.")


def row_cases(
    loaded: LoadedTable, count: int, seed: int = _SEED, trigger_value: float = TRIGGER_VALUE
) -> list[TriggerCase]:
    """Return rows on which the trigger decides, for a model of `train_rows` with the same trigger.

    Raises:
        InputError: The model has not learned it.
    """
    clean = draw_rows(_MOST_DRAWN * count, torch.Generator().manual_seed(seed))
    labels = label_rows(clean)
    rows = clean.clone()
    rows[:, TRIGGER_COLUMN] = trigger_value
    before, after = (class_scores(loaded.model, loaded.standardize(one)).argmax(1) for one in (clean, rows))
    is_case = (before == labels) & (after == turned(labels)) & (clean[:, TRIGGER_COLUMN] != trigger_value)
    numbers = is_case.nonzero()[:count, 0].tolist()
    if len(numbers) < count:
        raise InputError(f"The network follows the trigger in {len(numbers)} rows only: expected {count}.")
    is_counted = torch.ones(rows.shape[1], dtype=torch.bool)
    is_trigger = torch.arange(rows.shape[1]) == TRIGGER_COLUMN
    found = [row_sample(loaded, rows[number]) for number in numbers]
    return [TriggerCase(one.model, one.values, one.augmentation, is_counted, is_trigger) for one in found]


def score_triggers(
    cases: Sequence[TriggerCase], methods: Mapping[str, Reduction], **options: Any
) -> dict[str, TriggerScores]:
    """Return what maps are worth by each method, given with how they are reduced to a value a token or a column.

    Args:
        cases: Of one network.
        methods: Name -> reduction.
        **options: Further arguments of `extract_trace`.
    """
    found: dict[str, list[tuple[float, float, float]]] = {method: [] for method in methods}
    traces = [
        extract_trace(case.model, case.sample, **{"augmentation": case.augmentation, **options}) for case in cases
    ]
    for number, (case, trace) in enumerate(zip(cases, traces, strict=True)):
        for method, reduction in methods.items():
            found[method].append(_score(case, trace, traces[number - 1], method, reduction))
    return {method: TriggerScores(*zip(*scores, strict=True)) for method, scores in found.items()}


def _score(
    case: TriggerCase, trace: Trace, other: Trace, method: str, reduction: Reduction
) -> tuple[float, float, float]:
    target = trace.report.target
    dense = attribute(case.model, case.sample, method, target=target, reduction=reduction, check=False).values
    own = attribute(trace, case.sample, method, target=target, reduction=reduction, check=False).values
    with other.applied(case.model):
        foreign = attribute(case.model, case.sample, method, target=target, reduction=reduction, check=False).values
    return case.auc(dense), case.auc(own), case.auc(foreign)


def _predict_text(loaded: LoadedText, text: str) -> int:
    ids = loaded.tokenizer.encode(text).ids
    return int(class_scores(loaded.model, ids.unsqueeze(0)).argmax())

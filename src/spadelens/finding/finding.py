"""`find`: the region that a prediction rests on, checked by covering it and by showing nothing else.

A map gives an order of the units of a sample; the original model says what each region is worth. Of several maps, the
average gives the order: it finds planted patches better than any one of them, and than picking, on each sample, the one
that fares best under intervention (docs/findings.md). How each fares is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from spadelens.errors import InputError
from spadelens.extraction.pipeline.perturbation import blurred
from spadelens.finding.coverings import Covering
from spadelens.finding.interventions import Asked, Interventions, Outcome
from spadelens.finding.regions import (
    LARGEST_AREA,
    centered,
    drawn_sets,
    moved,
    nested_boxes,
    nested_sets,
    strongest,
)
from spadelens.prediction import Prediction
from spadelens.progress import Progress, no_progress

SMOOTHING = 0.03  # standard deviation, of the longer side
NUM_DRAWS = 20
_SCREENING_DRAWS = 8  # before a region is tried with all draws
_JUDGED_AREAS = (0.02, 0.05, 0.1, 0.2)
_JUDGED_BY = "blur"  # the covering by which maps are judged
_AREA_COST = 2.0  # what a region must gain for each part of the photo that it takes
AVERAGE = "average"
LEVEL = 0.05  # difference of two maps' scores, from 0 to 2, up to which they are said to agree


@dataclass(frozen=True)
class Effect:
    """What the original model says of a sample after an intervention.

    Attributes:
        covering: How regions were covered; see `coverings_for`.
        probability: Of the explained class.
        answer: The most likely class.
        answer_probability: Its probability.
        is_changed: Whether the explained class is lost; see `Finding.is_lost`.
    """

    covering: str
    probability: float
    answer: int
    answer_probability: float
    is_changed: bool


@dataclass(frozen=True)
class Control:
    """Regions of the same size that were not chosen, covered in the way that sentences quote.

    Attributes:
        count: The number of regions.
        probability: The mean probability of the explained class.
        num_changed: How many of them cost the model its answer.
    """

    count: int
    probability: float
    num_changed: int


@dataclass(frozen=True, eq=False)
class Finding:
    """What a prediction rests on.

    Attributes:
        target: The explained class.
        versus: The class that it is compared with; None for all others.
        prediction: What the original model says of the sample.
        region: The units that the prediction rests on, boolean: `[H, W]` of a photo, `[tokens]` or `[features]`. If it
            does not rest on any region that was tried, the largest of those.
        is_carried: Whether the explained class is lost in most ways of covering the region, which is small.
        is_specific: Whether other regions of its size cost the class, on average, less than half of the probability
            that the region costs it.
        without: The effects of covering the region, one for each way.
        alone: The effects of covering everything else.
        random: Random regions of the same size; of a photo, of the same shape too.
        center: A box of the same area in the middle of the photo; None for texts and rows.
        rival: The region of the same area that a map of the runner-up ranks highest; None if there is no such map.
        smallest_without: The smallest fraction of the units without which the explained class is lost in most ways;
            None if no region that was tried costs it.
        smallest_alone: The smallest fraction of the units that keeps the explained class with everything else covered;
            None if none of the regions tried does.
        scores: Map -> what its order is worth under intervention on this sample, from 0 to 2, the best first.
        believed: The map in which the region was looked for: the average, or the only one.
        shown: Its values, divided by the sum of their absolute values: of a photo smoothed, `[H, W]`; otherwise signed,
            `[units]`.
    """

    target: int
    versus: int | None
    prediction: Prediction
    region: Tensor
    is_carried: bool
    is_specific: bool
    without: tuple[Effect, ...]
    alone: tuple[Effect, ...]
    random: Control
    center: Effect | None
    rival: Effect | None
    smallest_without: float | None
    smallest_alone: float | None
    scores: Mapping[str, float]
    believed: str
    shown: Tensor

    @property
    def area(self) -> float:
        """The region as a fraction of all units."""
        return float(self.region.double().mean())

    @property
    def probability(self) -> float:
        """The original model's probability of the explained class."""
        return self.prediction.probabilities[self.target]

    @property
    def is_answer(self) -> bool:
        """Whether the explained class is what the original model says of the sample."""
        return self.target in self.prediction.answer

    @property
    def other(self) -> int:
        """The class that the explained one stands against: the one it is compared with, or the likeliest other."""
        if self.versus is not None:
            return self.versus
        return next(index for index, _ in self.prediction.top(2) if index != self.target)

    def is_lost(self, probabilities: Tensor) -> bool:
        """Whether the explained class is lost, given the probabilities `[classes]` after an intervention."""
        return _is_lost(self.prediction, self.target, self.versus, probabilities)

    def agreeing(self) -> list[str]:
        """Return the maps that fared about as the one that is believed, itself left out."""
        own = self.scores[self.believed]
        return [name for name, score in self.scores.items() if name != self.believed and abs(own - score) <= LEVEL]


def find(
    model: nn.Module,
    sample: Tensor,
    maps: Mapping[str, Tensor],
    asked: Asked,
    coverings: Mapping[str, Covering],
    *,
    groups: Sequence[int] | None = None,
    rival: Callable[[int], Tensor] | None = None,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Finding:
    """Return what the original model's prediction for a sample rests on.

    Args:
        model: A private copy of the original model, in evaluation mode.
        sample: A photo `[C, H, W]`, a text `[tokens, features]` or a row `[features]`, on the model's device.
        maps: Name -> the values of a map that ranks the units: `[H, W]` for a photo, signed `[units]` otherwise. If
            there are several, their average takes part as well.
        asked: The class that is explained.
        coverings: The ways to cover regions, the first of which sentences quote.
        groups: For texts and rows, the number of each unit's group, or -1 for units that are never covered.
        rival: Given the runner-up, returns a map of it like those in `maps`.
        num_draws: The number of random regions.
        seed: Of the random regions.
        progress: Called as progress("find", done, total).

    Raises:
        InputError: There is no map, or a map does not fit the sample.
        ModelOutputError: The model fails on a covered sample.
    """
    _check_units(maps, sample, groups)
    orders = {name: _order(values, groups is None) for name, values in maps.items() if bool(values.any())}
    if not orders:
        raise InputError("Cannot look for what the prediction rests on: every map is zero.")
    if len(orders) > 1:
        orders[AVERAGE] = torch.stack(list(orders.values())).mean(0)
    believed = AVERAGE if AVERAGE in orders else next(iter(orders))
    fixed = None if groups is None else torch.tensor(groups) < 0
    search = _Search(Interventions(model, sample, asked, coverings, fixed), groups)
    steps = len(orders) + 2
    progress("find", 0, steps)
    controls = _Controls(search, num_draws, seed)
    regions, smallest_without, smallest_alone = search.regions(orders[believed])
    region, random = controls.specific(regions)
    scores = {}
    for number, (name, order) in enumerate(orders.items(), 1):
        progress("find", number, steps)
        scores[name] = search.worth(order)
    ranked = sorted(scores, key=lambda name: -scores[name])
    progress("find", steps - 1, steps)
    runner_up = asked.versus if asked.versus is not None else search.runner_up
    rival_map = None if rival is None else rival(runner_up)
    rival_effect = None if rival_map is None or not bool(rival_map.any()) else controls.rival(region, rival_map)
    without, alone = search.effects(region), search.effects(~region)
    finding = Finding(
        target=asked.target,
        versus=asked.versus,
        prediction=search.prediction,
        region=region,
        is_carried=search.is_small(region) and 2 * sum(effect.is_changed for effect in without) > len(without),
        is_specific=search.is_specific(without[0], random),
        without=without,
        alone=alone,
        random=random,
        center=controls.center(region),
        rival=rival_effect,
        smallest_without=smallest_without,
        smallest_alone=smallest_alone,
        scores=MappingProxyType({name: scores[name] for name in ranked}),
        believed=believed,
        shown=orders[believed],
    )
    progress("find", steps, steps)
    return finding


class _Search:
    """Looks for regions; what they are worth is measured on a scale from the sample itself to the lowest seen."""

    def __init__(self, interventions: Interventions, groups: Sequence[int] | None) -> None:
        self._run, self._groups = interventions, groups
        self._asked = interventions.asked
        whole = interventions.whole()
        self._full = float(whole.log_odds)
        outputs = "labels" if self._asked.scale.startswith("label") else "classes"
        self.prediction = Prediction(tuple(whole.probabilities[0].tolist()), outputs)  # type: ignore[arg-type]
        self.runner_up = next(index for index, _ in self.prediction.top(2) if index != self._asked.target)
        self._lowest = self._full  # until regions have been tried
        self._judge = _JUDGED_BY if _JUDGED_BY in interventions.coverings else interventions.first

    def worth(self, order: Tensor) -> float:
        """Return what an order is worth: the mean of what its strongest parts are worth, covered and alone."""
        return float(self._gains(self._judged(order), [self._judge]).mean())

    def regions(self, order: Tensor) -> tuple[list[Tensor], float | None, float | None]:
        """Return regions, the smallest area that loses the class, and the smallest that keeps it.

        The regions are those without which the class is lost in most ways, in descending order of what they are worth;
        the largest that was tried if there are none.
        """
        tried = torch.stack(nested_boxes(order) if self._groups is None else nested_sets(order, self._groups))
        areas = tried.double().flatten(1).mean(1)
        found = torch.stack([self._run.without(tried, name).log_odds for name in self._run.coverings]).mean(0)
        self._lowest = min(self._full, float(found.min()))
        gains = 0.0 if self._groups is not None else self._gains(tried, self._run.coverings)  # else the smallest set
        values = gains - _AREA_COST * areas
        is_lost = torch.tensor(self._majority(tried))
        ranked = values.argsort(descending=True, stable=True)
        losing = ranked[is_lost[ranked]] if bool(is_lost.any()) else areas.argmax().unsqueeze(0)
        kept = ~torch.tensor(self._majority(~tried))
        smallest = [float(areas[those].min()) if bool(those.any()) else None for those in (is_lost, kept)]
        return list(tried[losing]), smallest[0], smallest[1]

    def is_small(self, region: Tensor) -> bool:
        """Whether a region is small enough to say anything; the first box of a map may be the whole photo."""
        return self._groups is not None or float(region.double().mean()) <= LARGEST_AREA

    def is_specific(self, effect: Effect, random: Control) -> bool:
        """Whether random regions cost, on average, less than half of the probability that a region costs."""
        whole = self.prediction.probabilities[self._asked.target]
        return effect.probability < whole and 2 * random.probability > whole + effect.probability

    def effects(self, region: Tensor) -> tuple[Effect, ...]:
        """Return what covering a region does, in every way."""
        return tuple(self.effect(region, name) for name in self._run.coverings)

    def effect(self, region: Tensor, covering: str | None = None) -> Effect:
        """Return what covering a region does; by default in the way that sentences quote."""
        name = covering or self._run.first
        found = self._run.without(region.unsqueeze(0), name).probabilities[0]
        answer = int(found.argmax())
        is_lost = _is_lost(self.prediction, self._asked.target, self._asked.versus, found)
        return Effect(name, float(found[self._asked.target]), answer, float(found[answer]), is_lost)

    def control(self, regions: Tensor) -> Control:
        """Return what covering each of `regions` does, in the way that sentences quote."""
        found = self._run.without(regions, self._run.first).probabilities
        lost = [_is_lost(self.prediction, self._asked.target, self._asked.versus, one) for one in found]
        return Control(len(regions), float(found[:, self._asked.target].mean()), sum(lost))

    def _judged(self, order: Tensor) -> Tensor:
        """Return the strongest parts of an order by which it is judged."""
        if self._groups is None:
            return torch.stack([strongest(order, area) for area in _JUDGED_AREAS])
        return torch.stack(nested_sets(order, self._groups))

    @property
    def groups(self) -> Sequence[int] | None:
        """The groups of units, for texts and rows."""
        return self._groups

    def _gains(self, regions: Tensor, coverings: Iterable[str]) -> Tensor:
        """Return what is lost without each region plus what it keeps alone, from 0 to 2, on average over coverings."""
        total = torch.zeros(len(regions), dtype=torch.float64)
        names = list(coverings)
        for name in names:
            lost = self._share(self._run.without(regions, name))
            kept = self._share(self._run.alone(regions, name))
            total += (1 - lost) + kept
        return total / len(names)

    def _share(self, outcome: Outcome) -> Tensor:
        """Return log-odds as a share of those of the whole sample, from 0 for the lowest seen to 1."""
        span = self._full - self._lowest
        if span <= 0:
            return torch.ones_like(outcome.log_odds)
        return ((outcome.log_odds - self._lowest) / span).clamp(0, 1)

    def _majority(self, regions: Tensor) -> list[bool]:
        """Return whether covering each region costs the class in most ways."""
        votes = torch.zeros(len(regions))
        for name in self._run.coverings:
            found = self._run.without(regions, name).probabilities
            votes += torch.tensor(
                [float(_is_lost(self.prediction, self._asked.target, self._asked.versus, one)) for one in found]
            )
        return [bool(vote) for vote in 2 * votes > len(self._run.coverings)]


@dataclass(frozen=True, eq=False)
class _Controls:
    """What other regions of the size of one that was found do."""

    search: _Search
    num_draws: int
    seed: int

    def specific(self, regions: Sequence[Tensor]) -> tuple[Tensor, Control]:
        """Return the first region that random ones of its size seldom match, and what those do.

        If there is none, the first. What is larger than that would be matched more often still, and is not tried.
        """
        first, *others = regions
        of_first = self.random(first)
        if self.search.is_specific(self.search.effect(first), of_first):
            return first, of_first
        for region in others:
            if int(region.sum()) < int(first.sum()):
                effect = self.search.effect(region)
                for num_draws in (_SCREENING_DRAWS, self.num_draws):
                    control = self.random(region, num_draws)
                    if not self.search.is_specific(effect, control):
                        break
                else:
                    return region, control
        return first, of_first

    def random(self, region: Tensor, num_draws: int | None = None) -> Control:
        groups, count = self.search.groups, num_draws or self.num_draws
        drawn = moved(region, count, self.seed) if groups is None else drawn_sets(region, groups, count, self.seed)
        return self.search.control(drawn)

    def center(self, region: Tensor) -> Effect | None:
        return self.search.effect(centered(region)) if self.search.groups is None else None

    def rival(self, region: Tensor, values: Tensor) -> Effect:
        """Return what covering the region of the same area does that another map ranks highest."""
        groups = self.search.groups
        if groups is None:
            order, area = _order(values, is_photo=True), float(region.double().mean())
            tried = nested_boxes(order)
            return self.search.effect(min(tried, key=lambda one: abs(float(one.double().mean()) - area)))
        size = int(region.sum())
        return self.search.effect(min(nested_sets(values, groups), key=lambda one: abs(int(one.sum()) - size)))


def _check_units(maps: Mapping[str, Tensor], sample: Tensor, groups: Sequence[int] | None) -> None:
    """Reject maps that do not fit the sample, and samples without a unit that can be covered."""
    units = sample.shape[-2:] if groups is None else sample.shape[:1]
    if any(values.shape != units for values in maps.values()):
        shapes = ", ".join(f"{list(values.shape)} of {name}" for name, values in maps.items())
        raise InputError(f"Cannot order the units of the sample by maps of shapes {shapes}: expected {list(units)}.")
    if groups is not None and max(groups) < 0:
        raise InputError("Cannot look for what the prediction rests on: the sample has no unit that can be covered.")


def smoothed(values: Tensor) -> Tensor:
    """Return a map `[H, W]` of a photo, smoothed as the order of its pixels is."""
    return blurred(values.unsqueeze(0), SMOOTHING * max(values.shape))[0]


def _order(values: Tensor, is_photo: bool) -> Tensor:
    """Return a map as an order of its units, float64, divided by the sum of absolute values; of a photo smoothed."""
    order = values.detach().cpu().double()
    if is_photo:
        order = smoothed(order.abs())
    return order / order.abs().sum()


def _is_lost(prediction: Prediction, target: int, versus: int | None, probabilities: Tensor) -> bool:
    """Whether the explained class is lost: no longer the answer.

    Where it never was the answer, it is lost if it falls behind the class that it is compared with, or to half.
    """
    found = float(probabilities[target])
    if target in prediction.answer:
        return found < 0.5 if prediction.outputs == "labels" else int(probabilities.argmax()) != target
    if versus is not None and prediction.probabilities[target] > prediction.probabilities[versus]:
        return found <= float(probabilities[versus])
    return found < prediction.probabilities[target] / 2

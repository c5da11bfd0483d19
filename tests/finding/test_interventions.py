"""Log-odds on every scale, and runs of the model on covered samples, each of them once."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from references.networks import Function, sample_of
from torch import Tensor

from spadelens.finding.coverings import Covering, Masked, OtherWords, UsualRows
from spadelens.finding.interventions import Asked, Interventions
from spadelens.prediction import Scale

SCALES: list[Scale] = ["logits", "probabilities", "label logits", "label probabilities"]
NUMBERS = st.lists(st.floats(-30, 30), min_size=3, max_size=6)


def sigmoid(number: float) -> float:
    return 1 / (1 + math.exp(-number))


def defined(logits: list[float], scale: Scale, target: int, versus: int | None) -> float:
    """log(p / q) from the logits behind the scores, without a difference of numbers that are nearly equal."""
    if scale.startswith("label"):
        if versus is None:
            return logits[target]
        return math.log(sigmoid(logits[target])) - math.log(sigmoid(logits[versus]))
    if versus is not None:
        return logits[target] - logits[versus]
    return logits[target] - math.log(math.fsum(math.exp(one) for i, one in enumerate(logits) if i != target))


def scores_of(logits: list[float], scale: Scale) -> Tensor:
    exact = torch.tensor(logits, dtype=torch.float64)
    if scale == "probabilities":
        return exact.softmax(0)
    return exact.sigmoid() if scale == "label probabilities" else exact


@settings(max_examples=80, deadline=None)
@given(NUMBERS, st.sampled_from(SCALES), st.sampled_from([None, 1]))
def test_log_odds_against_the_definition(logits: list[float], scale: Scale, versus: int | None) -> None:
    found = Asked(0, scale, versus).log_odds(scores_of(logits, scale))
    assert found.dtype == torch.float64
    expected = defined(logits, scale, 0, versus)
    if scale == "label probabilities" and versus is None:  # 1 - p is as fine as p
        assert float(found) == pytest.approx(expected, rel=1e-3, abs=4e-16 * math.exp(abs(expected)))
    else:
        assert float(found) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("scale", "versus"), list(itertools.product(SCALES, [None, 2])))
def test_log_odds_of_a_batch_are_those_of_each(scale: Scale, versus: int | None) -> None:
    batch = torch.stack([scores_of(row, scale) for row in sample_of((6, 4)).tolist()]).view(2, 3, 4)
    asked = Asked(1, scale, versus)
    found = asked.log_odds(batch)
    assert found.shape == (2, 3)
    assert found.flatten().tolist() == pytest.approx([float(asked.log_odds(one)) for one in batch.flatten(0, 1)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("scale", "versus"), list(itertools.product(SCALES, [None, 1])))
def test_saturated_scores_have_finite_log_odds(scale: Scale, versus: int | None, dtype: torch.dtype) -> None:
    asked = Asked(0, scale, versus)
    extreme = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]], dtype=dtype)
    if scale.endswith("logits"):
        extreme = 2e4 * extreme - 1e4
    found = asked.log_odds(extreme)
    assert bool(found.isfinite().all())
    if scale != "label logits":
        assert float(found[0]) > 0 > float(found[1])


@pytest.mark.parametrize("scale", ["probabilities", "label probabilities"])
def test_a_probability_of_one_is_no_surer_than_its_type_can_tell(scale: Scale) -> None:
    """Log-odds of 690 in place of 17 or more would make what is left of a covered sample look like nothing."""
    asked = Asked(0, scale)
    surest = torch.tensor([1.0, 0.0]), torch.tensor([1.0 - 2.0**-24, 2.0**-24])
    found = [float(asked.log_odds(one)) for one in surest]
    assert found[0] > found[1] == pytest.approx(24 * math.log(2))
    assert found[0] < (19 if scale == "label probabilities" else 110)
    rest = torch.tensor([1.0, 1e-20])  # which is not lost in the sum
    if scale == "probabilities":
        assert float(asked.log_odds(rest)) == pytest.approx(20 * math.log(10), rel=1e-6)


class Counting(Covering):
    """Sets a region to zero, and keeps the regions that it was asked for."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, ...]] = []

    def __call__(self, sample: Tensor, regions: Tensor) -> Tensor:
        self.seen += [tuple(region.flatten().tolist()) for region in regions]
        return Masked()(sample, regions)


def linear(batch: Tensor) -> Tensor:
    scores = batch.flatten(1).sum(1)
    return torch.stack([scores, -scores, 0 * scores], 1)


def test_no_region_is_run_twice() -> None:
    covering = Counting()
    run = Interventions(Function(linear).eval(), sample_of((5,)), Asked(0, "logits"), {"one": covering})
    regions = torch.tensor(list(itertools.product([False, True], repeat=5)))
    first = run.without(regions[:20], "one")
    doubled = run.without(torch.cat([regions, regions[10:]]), "one")
    alone = run.alone(regions, "one")
    assert len(covering.seen) == len(set(covering.seen)) == 32
    assert torch.equal(first.log_odds, doubled.log_odds[:20])
    assert torch.equal(doubled.log_odds[32:], doubled.log_odds[10:32])
    assert torch.equal(alone.log_odds, doubled.log_odds[:32].flip(0))


def test_coverings_are_kept_apart() -> None:
    sample = sample_of((5,))
    rows = UsualRows(torch.ones(1, 5))
    run = Interventions(Function(linear).eval(), sample, Asked(0, "logits", 1), {"zero": Masked(), "ones": rows})
    region = torch.tensor([[True, True, False, False, False]])
    assert run.first == "zero"
    assert float(run.without(region, "zero").log_odds) == pytest.approx(2 * float(sample[2:].sum()))
    assert float(run.without(region, "ones").log_odds) == pytest.approx(2 * (float(sample[2:].sum()) + 2))
    assert float(run.alone(region, "ones").log_odds) == pytest.approx(2 * (float(sample[:2].sum()) + 3))
    assert float(run.whole().log_odds) == pytest.approx(2 * float(sample.sum()))


@pytest.mark.parametrize("scale", SCALES)
def test_draws_are_averaged(scale: Scale) -> None:
    background, sample = sample_of((19, 5), 1), sample_of((5,))

    def score(batch: Tensor) -> Tensor:
        return torch.stack([scores_of(row, scale) for row in batch[:, :3].tolist()])

    asked = Asked(0, scale)
    covering = UsualRows(background)
    run = Interventions(Function(score).eval(), sample, asked, {"rows": covering})
    regions = torch.tensor([[True, False, False, True, False], [False, True, True, False, False]])
    found = run.without(regions, "rows")
    for number, draws in enumerate(covering(sample, regions)):
        assert len(draws) == 16
        odds = [float(asked.log_odds(score(draw[None]))) for draw in draws]
        assert float(found.log_odds[number]) == pytest.approx(sum(odds) / 16)
        shares = [scores_of(draw[:3].tolist(), scale) for draw in draws]
        if scale == "logits":
            shares = [one.softmax(0) for one in shares]
        if scale == "label logits":
            shares = [one.sigmoid() for one in shares]
        torch.testing.assert_close(found.probabilities[number], torch.stack(shares).mean(0))


def test_units_that_are_fixed_are_never_covered() -> None:
    covering, text = Counting(), sample_of((4, 3))
    fixed = torch.tensor([True, False, False, True])
    run = Interventions(Function(linear).eval(), text, Asked(0, "logits"), {"one": covering}, fixed)
    regions = torch.tensor([[False, True, False, False], [True, True, True, True]])
    run.without(regions, "one")
    run.alone(regions, "one")
    assert sorted(set(covering.seen)) == sorted(
        {(False, True, False, False), (False, True, True, False), (False, False, True, False), (False,) * 4}
    )


def test_many_regions_of_many_draws_are_as_each_alone() -> None:
    text = sample_of((7, 3))
    regions = torch.rand(37, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    sizes: list[int] = []

    def score(batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        return linear(batch.sin())

    def make() -> Interventions:
        return Interventions(Function(score).eval(), text, Asked(0, "logits"), {"words": OtherWords()})

    together = make().without(regions, "words")
    assert max(sizes) <= 16
    each = torch.cat([make().without(region[None], "words").log_odds for region in regions])
    torch.testing.assert_close(together.log_odds, each)

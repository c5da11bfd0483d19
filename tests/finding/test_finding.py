"""What `find` says of networks in which it is known, by construction, what decides."""

from typing import Any

import pytest
import torch
from references.networks import Boxes, Function, sample_of
from torch import Tensor
from torch.nn import functional

from spadelens.finding.coverings import Covering, coverings_for
from spadelens.finding.finding import AVERAGE, LEVEL, Finding, find
from spadelens.finding.interventions import Asked
from spadelens.finding.regions import moved, nested_boxes
from spadelens.prediction import Scale

SHAPE = (28, 37)
FIRST, SECOND, THIRD = (
    (slice(6, 10), slice(20, 25)),
    (slice(18, 23), slice(4, 9)),
    (slice(20, 24), slice(28, 33)),
)


def inside(*boxes: tuple[slice, slice]) -> Tensor:
    found = torch.zeros(SHAPE, dtype=torch.float64)
    for box in boxes:
        found[box] = 1
    return found


def photo_of(*values: float, noise: float = 0.05) -> Tensor:
    """A photo of noise in which the boxes have these values."""
    photo = noise * sample_of((3, *SHAPE))
    for box, value in zip((FIRST, SECOND, THIRD), values, strict=False):
        photo[(slice(None), *box)] = value
    return photo


def found_in(
    model: Any,
    photo: Tensor,
    maps: dict[str, Tensor] | Tensor,
    target: int = 0,
    versus: int | None = None,
    scale: Scale = "logits",
    **options: Any,
) -> Finding:
    named = maps if isinstance(maps, dict) else {"exact": maps}
    return find(model.eval(), photo, named, Asked(target, scale, versus), coverings_for("photo"), **options)


def test_the_patch_that_decides_is_found() -> None:
    found = found_in(Boxes(FIRST), photo_of(1.0), inside(FIRST))
    assert bool(found.region[FIRST].all()) and found.area < 3 * float(inside(FIRST).mean())
    assert found.is_carried and found.is_specific and found.is_answer and found.other == 1
    assert [effect.covering for effect in found.without] == ["inpaint", "blur", "texture"]
    assert all(effect.is_changed and effect.answer == 1 and effect.answer_probability > 0.5 for effect in found.without)
    assert all(not effect.is_changed and effect.answer == 0 for effect in found.alone)
    assert found.random.count == 20 and found.random.num_changed < 5 and found.random.probability > 0.8
    assert found.center is not None and not found.center.is_changed
    assert found.rival is None
    for smallest in (found.smallest_without, found.smallest_alone):
        assert smallest is not None and smallest <= 0.05
    assert found.believed == "exact" and list(found.scores) == ["exact"]
    assert found.probability == pytest.approx(1 / (1 + torch.e**-4)) and found.shown.sum() == pytest.approx(1)


def test_effects_are_those_of_the_covered_photo() -> None:
    photo, model = photo_of(1.0), Boxes(FIRST)
    found = found_in(model, photo, inside(FIRST))
    for name, covering in coverings_for("photo").items():
        covered = covering(photo, torch.stack([found.region, ~found.region]))[:, 0]
        expected = model(covered).softmax(1)[:, 0].tolist()
        effects = [next(one for one in side if one.covering == name) for side in (found.without, found.alone)]
        assert [one.probability for one in effects] == pytest.approx(expected)


def test_a_network_of_convolutions_is_asked_where_its_pattern_is() -> None:
    pattern = torch.tensor([[-1.0, 1, -1], [1, 2, 1], [-1, 1, -1]], dtype=torch.float64)

    def score(photos: Tensor) -> Tensor:
        like = functional.conv2d(photos[:, :1], pattern[None, None], padding=1).amax((1, 2, 3))
        return torch.stack([2 * like - 10, torch.zeros_like(like)], 1)

    photo = photo_of()
    photo[:, 11:14, 15:18] = pattern
    point = photo.clone().requires_grad_()
    gradient = torch.autograd.grad(score(point[None])[0, 0], point)[0]
    found = found_in(Function(score), photo, (gradient * photo).abs().sum(0))
    assert bool(found.region[11:14, 15:18].all()) and found.area < 0.06
    assert found.is_carried and found.is_specific


def test_two_patches_of_one_class_are_both_in_the_region() -> None:
    def either(photos: Tensor) -> Tensor:
        scores = Boxes(FIRST, SECOND)(photos)
        return torch.stack([scores[:, :2].amax(1), scores[:, 2]], 1)

    found = found_in(Function(either), photo_of(1.0, 1.0), inside(FIRST, SECOND))
    assert bool(found.region[FIRST].all()) and bool(found.region[SECOND].all())
    assert found.area < 0.15 and found.is_carried and found.is_specific


class Zeroed(Covering):
    """Covers with zeros."""

    def __call__(self, sample: Tensor, regions: Tensor) -> Tensor:
        return torch.where(regions[:, None], torch.zeros_like(sample), sample)[:, None]


def test_a_small_region_that_others_do_not_match_goes_before_a_large_one_that_they_do() -> None:
    def spot_and_size(photos: Tensor) -> Tensor:
        spot = 8.0 * (photos[:, 0, 7:9, 21:24].amin((1, 2)) > 2)
        score = spot + 40 * (photos.clamp(0, 1).mean((1, 2, 3)) - 0.9) - 4
        return torch.stack([score, torch.zeros_like(score)], 1)

    rows, columns = torch.meshgrid(*(torch.arange(float(side)) for side in SHAPE), indexing="ij")
    order = torch.exp(-((rows - 7.5) ** 2 + (columns - 22) ** 2) / 60)
    photo = torch.ones(3, *SHAPE, dtype=torch.float64)
    photo[:, 7:9, 21:24] = 3
    coverings = {"blur": Zeroed()}
    found = find(Function(spot_and_size), photo, {"exact": order}, Asked(0, "logits"), coverings)
    assert found.is_carried and found.is_specific
    assert bool(found.region[7:9, 21:24].all()) and found.area < 0.2
    assert found.random.count == 20  # though fewer were drawn to look for it
    large = max(nested_boxes(found.shown), key=lambda one: float(one.double().mean()))
    assert found_random(spot_and_size, photo, large) > 10


def found_random(score: Any, photo: Tensor, region: Tensor) -> int:
    """How many of 20 random areas like a region cost the answer when they are set to zero."""
    covered = Zeroed()(photo, moved(region, 20, seed=1))[:, 0]
    return int((score(covered).argmax(1) != 0).sum())


@pytest.mark.parametrize("ranked", ["nothing", "noise"])
def test_a_network_that_looks_everywhere_is_carried_by_no_region(ranked: str) -> None:
    def size(photos: Tensor) -> Tensor:
        score = 8 * photos.square().mean((1, 2, 3)) - 4
        return torch.stack([score, torch.zeros_like(score)], 1)

    photo = sample_of((3, *SHAPE)).sign()
    map_ = torch.ones(SHAPE) if ranked == "nothing" else sample_of(SHAPE, 1).abs()
    found = found_in(Function(size), photo, map_)
    assert not found.is_carried
    assert found.area == max(float(one.double().mean()) for one in nested_boxes(found.shown)) <= 0.3
    assert found.smallest_without is None


def test_a_network_that_any_covering_upsets_is_not_asked_about_a_place() -> None:
    def smoothness(photos: Tensor) -> Tensor:
        rough = functional.avg_pool2d(photos.diff(dim=-1).abs().mean(1, keepdim=True), 5, 1).amin((1, 2, 3))
        return torch.stack([20 * rough - 6, torch.zeros_like(rough)], 1)

    found = found_in(Function(smoothness), sample_of((3, *SHAPE)), inside(FIRST))
    assert found.is_carried and not found.is_specific
    assert found.random.num_changed >= 10


@pytest.mark.parametrize("loss", [0.0, 0.3, 0.45, 0.55, 0.9])
def test_a_region_is_specific_if_others_cost_less_than_half_of_what_it_costs(loss: float) -> None:
    """Of the region all of the score is lost, of any other place a part of it, whatever is covered."""

    def score(photos: Tensor) -> Tensor:
        is_covered = (photos[:, 0] - photo[0]).abs().flatten(1).amax(1) > 1e-9
        hidden = photos[(slice(None), 0, *FIRST)].amin((1, 2)) < 0.5
        probability = 0.9 - torch.where(hidden, 0.9 - 0.01, torch.where(is_covered, loss * 0.89, 0.0))
        return torch.stack([probability, 1 - probability], 1).log()

    photo = photo_of(1.0)
    found = find(Function(score), photo, {"exact": inside(FIRST)}, Asked(0, "logits"), {"blur": Zeroed()})
    assert found.without[0].probability == pytest.approx(0.01, abs=1e-6)
    hits = moved(found.region, 20, seed=0) & inside(FIRST).bool()
    lost = sum(1.0 if bool(one.any()) else loss for one in hits) / 20
    assert found.random.probability == pytest.approx(0.9 - lost * 0.89, abs=1e-6)
    assert found.is_specific == (lost < 0.5)


def test_a_region_of_most_of_the_photo_says_nothing() -> None:
    """The box around a thin diagonal is large, but there is no other to try."""
    line, photo, corner = torch.zeros(64, 64), 0.05 * sample_of((3, 64, 64)), (slice(20, 24), slice(28, 33))
    line[range(7, 57), range(7, 57)] = 1
    photo[:, 20:24, 28:33] = 1
    found = found_in(Boxes(corner), photo, line)
    assert found.area > 0.3 and all(effect.is_changed for effect in found.without)
    assert not found.is_carried


@pytest.mark.parametrize("scale", ["label logits", "label probabilities"])
def test_labels(scale: Scale) -> None:
    def score(photos: Tensor) -> Tensor:
        scores = Boxes(FIRST, SECOND)(photos)
        return scores.sigmoid() if scale == "label probabilities" else scores

    maps = {0: inside(FIRST), 1: inside(SECOND)}
    for target, box in ((0, FIRST), (1, SECOND)):
        found = found_in(Function(score), photo_of(1.0, 1.0), maps[target], target, scale=scale)
        assert found.prediction.outputs == "labels" and found.prediction.answer == (0, 1, 2)
        assert bool(found.region[box].all()) and found.area < 0.06 and found.is_carried and found.is_specific
        assert all(effect.probability < 0.5 and effect.is_changed for effect in found.without)
        assert found.is_lost(torch.tensor([0.49, 0.49, 0.5])) and not found.is_lost(torch.tensor([0.5, 0.5, 0.9]))


def test_a_class_that_is_not_the_answer() -> None:
    found = found_in(Boxes(FIRST, SECOND), photo_of(1.0, 0.8), inside(SECOND), 1)
    assert not found.is_answer and found.other == 0
    assert bool(found.region[SECOND].all()) and found.area < 0.06 and found.is_carried and found.is_specific
    half = found.probability / 2
    assert all(effect.probability < half and effect.is_changed for effect in found.without)
    assert found.is_lost(torch.tensor([0.9, half - 1e-6, 0.1])) and not found.is_lost(
        torch.tensor([0.9, half + 1e-6, 0.1])
    )


def test_one_class_rather_than_another() -> None:
    model, photo = Boxes(FIRST, SECOND, THIRD), photo_of(1.0, 0.9, 0.85)
    found = found_in(model, photo, inside(FIRST), 0, 2)
    assert found.is_answer and found.versus == found.other == 2 and found.is_carried
    assert found.is_lost(torch.tensor([0.3, 0.4, 0.2, 0.1]))  # it is not the answer any more, though above the other
    behind = found_in(model, photo, inside(SECOND), 1, 2)
    assert not behind.is_answer and behind.is_carried and bool(behind.region[SECOND].all())
    assert behind.is_lost(torch.tensor([0.5, 0.2, 0.2, 0.1])) and not behind.is_lost(torch.tensor([0.7, 0.2, 0.1, 0.0]))
    reverse = found_in(model, photo, inside(THIRD), 2, 1)
    assert reverse.other == 1 and reverse.is_carried  # behind from the start: half as likely


@pytest.mark.parametrize("seed", range(6))
def test_a_map_that_knows_nothing_never_beats_the_exact_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    row, column = (int(torch.randint(16, (1,), generator=generator)) for _ in range(2))
    elsewhere = torch.zeros(SHAPE)
    elsewhere[row + 12, column] = 1
    useless = {
        "noise": torch.rand(SHAPE, generator=generator),
        "steps": torch.rand(SHAPE, generator=generator).round(),
        "flat": torch.ones(SHAPE),
        "elsewhere": elsewhere,
    }
    found = found_in(Boxes(FIRST), photo_of(1.0), {**useless, "exact": inside(FIRST)})
    assert list(found.scores.values()) == sorted(found.scores.values(), reverse=True)
    assert set(found.scores) == {*useless, "exact", AVERAGE} and found.believed == AVERAGE
    assert all(0 <= score <= 2 for score in found.scores.values())
    assert all(found.scores["exact"] > found.scores[name] + 0.3 for name in useless)


def test_maps_take_part_alike_whatever_their_scale() -> None:
    model, photo = Boxes(FIRST), photo_of(1.0)
    noise = sample_of(SHAPE, 4)
    first, second = (
        found_in(model, photo, {"exact": scale * inside(FIRST), "noise": noise, "zero": 0 * noise})
        for scale in (1.0, 1e-6)
    )
    assert torch.equal(first.region, second.region) and first.scores == pytest.approx(second.scores)
    assert set(first.scores) == {"exact", "noise", AVERAGE}
    torch.testing.assert_close(first.shown, second.shown)
    own = first.scores[AVERAGE]
    assert first.agreeing() == [
        name for name in first.scores if name != AVERAGE and abs(first.scores[name] - own) <= LEVEL
    ]


def peaked() -> Tensor:
    """A map whose boxes shrink as more pixels come in: a sharp part is left out once the broad one has grown."""
    found = 0.75 * inside((slice(4, 13), slice(18, 28))) + 0.75 * inside(FIRST)
    found[range(15, 21), range(4, 10)] = 5.0
    return found


@pytest.mark.parametrize("values", [peaked(), *(inside(FIRST) + 2 * sample_of(SHAPE, seed).abs() for seed in range(3))])
def test_the_smallest_areas_are_the_smallest(values: Tensor) -> None:
    model, photo = Boxes(FIRST), photo_of(1.0)
    found = found_in(model, photo, values)
    lost, kept = [], []
    for region in nested_boxes(found.shown):
        both = torch.stack([region, ~region])
        votes = sum(
            torch.tensor([found.is_lost(one) for one in model(covering(photo, both)[:, 0]).softmax(1)]).int()
            for covering in coverings_for("photo").values()
        )
        area = float(region.double().mean())
        lost += [area] * bool(votes[0] >= 2)
        kept += [area] * bool(votes[1] < 2)
    assert (found.smallest_without, found.smallest_alone) == (min(lost, default=None), min(kept, default=None))
    assert found.area in (lost or [max(float(one.double().mean()) for one in nested_boxes(found.shown))])


def test_the_rival_is_the_runner_up_or_the_class_that_is_compared() -> None:
    asked: list[int] = []

    def rival(index: int) -> Tensor:
        asked.append(index)
        return inside((FIRST, SECOND, THIRD)[index])

    model, photo = Boxes(FIRST, SECOND, THIRD), photo_of(1.0, 0.9, 0.8)
    found = found_in(model, photo, inside(FIRST), rival=rival)
    assert asked == [1] and found.rival is not None and not found.rival.is_changed
    found_in(model, photo, inside(FIRST), versus=2, rival=rival)
    assert asked == [1, 2]
    assert found_in(model, photo, inside(FIRST), rival=lambda _: torch.zeros(SHAPE)).rival is None


def test_progress_goes_from_nothing_to_all() -> None:
    told: list[tuple[str, int, int]] = []
    maps = {"exact": inside(FIRST), "noise": sample_of(SHAPE)}
    found_in(Boxes(FIRST), photo_of(1.0), maps, progress=lambda *one: told.append(one))
    assert told == [("find", number, 5) for number in range(6)]

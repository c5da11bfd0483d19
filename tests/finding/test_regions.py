"""Regions to try: what a map ranks highest, as boxes or sets; and others of the same size to compare them with."""

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st
from references.networks import sample_of
from torch import Tensor

from spadelens.finding.regions import (
    AREAS,
    LARGEST_AREA,
    centered,
    compact,
    drawn_sets,
    moved,
    nested_boxes,
    nested_sets,
    strongest,
    words_of,
)


def drawn(*rows: str) -> Tensor:
    """A region from a drawing: '#' is inside."""
    return torch.tensor([[letter == "#" for letter in row] for row in rows])


MAPS = st.tuples(st.integers(1, 15), st.integers(1, 15), st.integers(0, 500)).map(
    lambda drawn: sample_of(drawn[:2], drawn[2]).abs()
)


@settings(max_examples=50, deadline=None)
@given(MAPS, st.sampled_from(AREAS))
def test_the_strongest_are_those_with_the_largest_values(values: Tensor, fraction: float) -> None:
    found = strongest(values, fraction)
    count = max(1, round(fraction * values.numel()))
    assert int(found.sum()) == count
    assert sorted(values[found].tolist()) == sorted(values.flatten().tolist())[-count:]


def test_a_map_that_ranks_nothing_has_strongest_units_all_over() -> None:
    """Everything that is tied, taken together, would be the whole photo: nothing fares better when it is covered."""
    found = strongest(torch.ones(20, 31, dtype=torch.float64), 0.1)
    assert int(found.sum()) == 62
    assert bool(found[:10].any()) and bool(found[10:].any()) and bool(found[:, 15:].any())
    assert torch.equal(found, strongest(torch.ones(20, 31), 0.1))


def test_what_a_map_leaves_at_zero_is_never_strong() -> None:
    values = torch.zeros(7, 13)
    values[2, 3:6] = torch.tensor([1.0, 3.0, 2.0])
    assert strongest(values, 0.02).nonzero().tolist() == [[2, 4], [2, 5]]
    assert torch.equal(strongest(values, 0.3), values > 0)


def test_a_region_becomes_the_boxes_around_its_parts() -> None:
    region = drawn(
        "##.......",
        ".##......",
        "......#..",
        ".....#...",
        "....#....",
        ".......##",
    )
    expected = drawn(
        "###......",
        "###......",
        "....###..",
        "....###..",
        "....###..",
        ".......##",
    )
    assert torch.equal(compact(region, region.double()), expected)


@pytest.mark.parametrize(("weak", "is_kept"), [(0.24, False), (0.25, True), (1.0, True)])
def test_parts_with_less_than_a_quarter_of_the_strongest_are_left_out(weak: float, is_kept: bool) -> None:
    region = drawn("##.....", "##.....", ".....##")
    values = torch.tensor([[1.0, 1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2, 2]])
    values[2] *= weak
    assert bool(compact(region, values)[2, 5:].all()) == is_kept
    assert bool(compact(region, values)[:2, :2].all())


def test_boxes_grow_around_a_peak() -> None:
    rows, columns = torch.meshgrid(torch.arange(21.0), torch.arange(34.0), indexing="ij")
    values = (-((rows - 8) ** 2 + (columns - 20) ** 2) / 40).exp().double()
    found = nested_boxes(values)
    areas = [float(one.double().mean()) for one in found]
    assert len(found) > 6 and areas == sorted(set(areas)) and areas[-1] <= LARGEST_AREA
    for one in found:
        assert bool(one[8, 20])
    for smaller, larger in itertools.pairwise(found):
        assert bool(larger[smaller].all())


@settings(max_examples=30, deadline=None)
@given(MAPS)
def test_boxes_are_distinct_and_small(values: Tensor) -> None:
    found = nested_boxes(values)
    assert len({one.numpy().tobytes() for one in found}) == len(found) >= 1
    assert all(bool(one.any()) for one in found)
    assert all(float(one.double().mean()) <= LARGEST_AREA for one in found[1:])
    order = [
        min(i for i, area in enumerate(AREAS) if torch.equal(compact(strongest(values, area), values), one))
        for one in found
    ]
    assert order == sorted(order) and order[0] == 0


def test_boxes_around_one_hot_pixel_do_not_cover_what_is_zero() -> None:
    values = torch.zeros(20, 31)
    values[4, 9] = 1.0
    assert [one.nonzero().tolist() for one in nested_boxes(values)] == [[[4, 9]]]


def test_sets_grow_by_the_signed_sum_of_their_groups() -> None:
    values = torch.tensor([9.0, 1.0, 1.5, -7.0, 2.0, 0.5, 9.0])
    groups = [-1, 0, 0, 1, 2, 3, -1]  # sums: 2.5, -7, 2, 0.5
    found = [one.nonzero().flatten().tolist() for one in nested_sets(values, groups)]
    assert found == [[1, 2], [1, 2, 4], [1, 2, 4, 5]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 40), min_size=1, max_size=80), st.integers(0, 100))
def test_sets_hold_whole_groups_but_never_all(groups: list[int], seed: int) -> None:
    values = sample_of((len(groups),), seed)
    numbers = torch.tensor(groups)
    known = set(groups) - {-1}
    if not known:
        return
    found = nested_sets(values, groups)
    sizes = []
    for one in found:
        inside = set(numbers[one].tolist())
        assert -1 not in inside and torch.equal(one, torch.isin(numbers, torch.tensor(sorted(inside))))
        sizes.append(len(inside))
        sums = {number: float(values[numbers == number].sum()) for number in known}
        assert min(sums[number] for number in inside) >= max((sums[number] for number in known - inside), default=-1e9)
    assert sizes == sorted(set(sizes)) and sizes[0] == 1
    assert (sizes[-1] < max(len(known), 2) and sizes[:8] == list(range(1, min(len(known), 9)))) or len(known) == 1
    for smaller, larger in itertools.pairwise(sizes):
        assert larger <= max(smaller + 1, smaller * 5 // 4)


def test_a_text_of_one_word_has_one_set() -> None:
    assert [one.tolist() for one in nested_sets(torch.tensor([5.0, 1.0, 2.0]), [-1, 0, 0])] == [[False, True, True]]


def test_words_begin_with_spaces_and_after_special_tokens() -> None:
    tokens = ["[CLS]", "un", "believ", "able", " movie", "!", "[SEP]", "so", " so", "\tbad", "[SEP]"]
    special = [token.startswith("[") for token in tokens]
    assert words_of(tokens, special) == [-1, 0, 0, 0, 1, 1, -1, 2, 3, 4, -1]
    assert words_of([" one", "", "two"], [False] * 3) == [0, 0, 0]
    assert words_of(["[CLS]"], [True]) == [-1]


SHAPED = st.tuples(st.integers(1, 12), st.integers(1, 12), st.floats(0.01, 1.0), st.integers(0, 300))


@settings(max_examples=60, deadline=None)
@given(SHAPED, st.integers(1, 6), st.integers(0, 9))
def test_moved_regions_keep_their_shape_and_stay_inside(
    drawn: tuple[int, int, float, int], count: int, seed: int
) -> None:
    height, width, share, number = drawn
    region = torch.rand(height, width, generator=torch.Generator().manual_seed(number)) < share
    region[0, 0] |= not bool(region.any())
    found = moved(region, count, seed)
    assert found.shape == (count, height, width) and torch.equal(found, moved(region, count, seed))
    for one in found:
        assert torch.equal(shape_of(one), shape_of(region))


def shape_of(region: Tensor) -> Tensor:
    rows, columns = region.any(1).nonzero().flatten(), region.any(0).nonzero().flatten()
    return region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def test_moved_regions_get_everywhere() -> None:
    region = torch.zeros(5, 9, dtype=torch.bool)
    region[1:3, 2:5] = True
    found = moved(region, 400, 0)
    assert len({one.numpy().tobytes() for one in found}) == 4 * 7
    assert bool(found.any(0).all())
    everything = torch.ones(5, 9, dtype=torch.bool)
    assert bool(moved(everything, 3, 0).all())


@pytest.mark.parametrize("shape", [(7, 13), (20, 20), (1, 9), (1, 1)])
@pytest.mark.parametrize("share", [0.02, 0.25, 0.5, 1.0])
def test_the_center_has_the_area_and_the_proportions_of_the_photo(shape: tuple[int, int], share: float) -> None:
    region = torch.zeros(shape[0] * shape[1], dtype=torch.bool)
    region[: max(1, round(share * region.numel()))] = True
    found = centered(region.view(shape))
    part = shape_of(found)
    assert bool(part.all())
    for size, whole in zip(part.shape, shape, strict=True):
        assert size == max(1, round(float(region.double().mean()) ** 0.5 * whole))
    for axis in (0, 1):
        before = int(found.any(1 - axis).nonzero()[0])
        after = shape[axis] - 1 - int(found.any(1 - axis).nonzero()[-1])
        assert 0 <= after - before <= 1


def test_drawn_sets_hold_as_many_groups_and_none_that_is_never_covered() -> None:
    groups = [-1, 0, 0, 1, 2, 2, 3, 4, -1]
    region = torch.isin(torch.tensor(groups), torch.tensor([0, 3]))
    found = drawn_sets(region, groups, 200, 0)
    assert found.shape == (200, 9) and torch.equal(found, drawn_sets(region, groups, 200, 0))
    seen = set()
    for one in found:
        inside = sorted(set(torch.tensor(groups)[one].tolist()))
        assert len(inside) == 2 and -1 not in inside
        assert torch.equal(one, torch.isin(torch.tensor(groups), torch.tensor(inside)))
        seen.add(tuple(inside))
    assert seen == set(itertools.combinations(range(5), 2))

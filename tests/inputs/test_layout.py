"""Which axis of a sample holds what a unit is made of, and how it is reduced."""

import pytest
import torch

from spadelens.inputs.layout import REDUCTIONS, kind_of, reduce_to_units, spread_units, unit_shape

SHAPES = {(5,): (5,), (4, 3): (4,), (2, 4, 3): (4, 3), (2, 5, 4, 3): (5, 4, 3)}


@pytest.mark.parametrize(("shape", "kind"), [((5,), "row"), ((4, 3), "text"), ((2, 4, 3), "photo")])
def test_the_number_of_dimensions_says_what_a_sample_is(shape: tuple[int, ...], kind: str) -> None:
    assert kind_of(torch.zeros(shape)) == kind


def values_of(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_unit_has_one_value_from_all_that_it_is_made_of(shape: tuple[int, ...]) -> None:
    values = values_of(shape)
    assert unit_shape(values) == SHAPES[shape]
    by_hand = {name: torch.zeros(SHAPES[shape]) for name in REDUCTIONS}
    for place in torch.zeros(shape).add(1).nonzero().tolist():
        unit = place if len(shape) == 1 else place[:1] if len(shape) == 2 else place[1:]
        value = float(values[tuple(place)])
        by_hand["sum"][tuple(unit)] += value
        by_hand["sum_abs"][tuple(unit)] += abs(value)
        by_hand["max_abs"][tuple(unit)] = max(abs(value), float(by_hand["max_abs"][tuple(unit)]))
    for name, expected in by_hand.items():
        torch.testing.assert_close(reduce_to_units(values, name), expected)  # type: ignore[arg-type]
    assert set(by_hand) == {"sum", "sum_abs", "max_abs"}


@pytest.mark.parametrize("shape", SHAPES)
def test_units_spread_over_all_that_they_are_made_of(shape: tuple[int, ...]) -> None:
    sample, units = values_of(shape), values_of((2, *SHAPES[shape]))
    for found, one in zip(spread_units(units, sample).expand(2, *shape), units, strict=True):
        assert torch.equal(reduce_to_units(found, "max_abs"), one.abs())
        axis = {1: None, 2: 1}.get(len(shape), 0)
        if axis is not None:
            assert torch.equal(found.amin(axis), found.amax(axis))


def test_halves_are_summed_in_float() -> None:
    many = torch.full((3, 1, 1), 40000.0, dtype=torch.float16)
    assert float(reduce_to_units(many)) == 120000.0
    assert reduce_to_units(many.double()).dtype == torch.float64

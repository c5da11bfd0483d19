"""Which axis of a sample holds what a unit is made of, and how it is reduced."""

import pytest
import torch

from spadelens.kinds import (
    LAYOUTS,
    REDUCTIONS,
    Kind,
    kinds_of_shape,
    read_kind,
    reduce_to_units,
    spread_units,
    unit_shape,
)

CASES: list[tuple[Kind, tuple[int, ...], tuple[int, ...]]] = [
    ("row", (5,), (5,)),
    ("text", (4, 3), (4,)),
    ("signal", (4, 3), (3,)),
    ("photo", (2, 4, 3), (4, 3)),
    ("volume", (2, 5, 4, 3), (5, 4, 3)),
]
FEATURES = {"row": None, "text": 1, "signal": 0, "photo": 0, "volume": 0}


def values_of(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_every_kind_is_there_once() -> None:
    assert {kind for kind, *_ in CASES} == set(LAYOUTS) == {read_kind(kind) for kind in LAYOUTS}
    assert [kinds_of_shape(count) for count in range(6)] == [[], ["row"], ["signal", "text"], ["photo"], ["volume"], []]
    assert LAYOUTS["signal"].shape == "[C, T]"
    for wrong in ("audio", None, 3):
        with pytest.raises(ValueError, match="kind of input"):
            read_kind(wrong)


@pytest.mark.parametrize(("kind", "shape", "units"), CASES)
def test_a_unit_has_one_value_from_all_that_it_is_made_of(
    kind: Kind, shape: tuple[int, ...], units: tuple[int, ...]
) -> None:
    values = values_of(shape)
    assert unit_shape(values, kind) == units
    by_hand = {name: torch.zeros(units) for name in REDUCTIONS}
    for place in torch.zeros(shape).add(1).nonzero().tolist():
        unit = tuple(index for axis, index in enumerate(place) if axis != FEATURES[kind])
        value = float(values[tuple(place)])
        by_hand["sum"][unit] += value
        by_hand["sum_abs"][unit] += abs(value)
        by_hand["max_abs"][unit] = max(abs(value), float(by_hand["max_abs"][unit]))
    for name, expected in by_hand.items():
        torch.testing.assert_close(reduce_to_units(values, kind, name), expected)  # type: ignore[arg-type]
    assert set(by_hand) == {"sum", "sum_abs", "max_abs"}


@pytest.mark.parametrize(("kind", "shape", "units"), CASES)
def test_units_spread_over_all_that_they_are_made_of(
    kind: Kind, shape: tuple[int, ...], units: tuple[int, ...]
) -> None:
    sample, values = values_of(shape), values_of((2, *units))
    for found, one in zip(spread_units(values, sample, kind).expand(2, *shape), values, strict=True):
        assert torch.equal(reduce_to_units(found, kind, "max_abs"), one.abs())
        axis = FEATURES[kind]
        if axis is not None:
            assert torch.equal(found.amin(axis), found.amax(axis))


def test_halves_are_summed_in_float() -> None:
    many = torch.full((3, 1, 1), 40000.0, dtype=torch.float16)
    assert float(reduce_to_units(many, "photo")) == 120000.0
    assert reduce_to_units(many.double(), "photo").dtype == torch.float64

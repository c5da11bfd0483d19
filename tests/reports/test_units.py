"""The maps of texts and rows as the page shows them."""

import pytest

from spadelens.reports.units import unit_context


def context(*pairs: tuple[float, float], is_signed: bool = True, is_special: bool = False) -> dict[str, object]:
    values = [
        {
            "name": f"feature {number}",
            "value": 1.0,
            "is_special": is_special and number == 0,
            "is_unknown": number == 1,
            "original": {"signed": original, "absolute": abs(original)},
            "trace": {"signed": trace, "absolute": abs(trace)},
        }
        for number, (original, trace) in enumerate(pairs)
    ]
    finding = {"is_carried": True, "units": [1], "values": [original for original, _ in pairs]}
    return unit_context({"map_values": values, "finding": finding}, "row", is_signed)


@pytest.mark.parametrize(
    ("pair", "is_said"),
    [((-0.5, 0.8), True), ((0.3, -0.2), True), ((0.5, 0.8), False), ((-0.5, 0.05), False), ((0.0, 0.8), False)],
)
def test_a_feature_that_changes_sides_is_named(pair: tuple[float, float], is_said: bool) -> None:
    found = context((1.0, 1.0), pair)
    assert [unit.text for unit in found["disagreeing"]] == (["feature 1"] if is_said else [])
    assert context((1.0, 1.0), pair, is_signed=False)["disagreeing"] == []


def test_what_the_model_did_not_read_is_named() -> None:
    assert context((1.0, 1.0), (0.5, 0.5), (0.2, 0.2))["unknown"] == ["feature 1"]


def test_special_tokens_are_not_compared() -> None:
    assert context((-1.0, 1.0), (1.0, 1.0), is_special=True)["disagreeing"] == []


def test_what_carries_the_prediction_is_marked() -> None:
    assert [unit.is_carrying for unit in context((1.0, 1.0), (0.5, 0.5), (0.2, 0.2))["units"]] == [False, True, False]

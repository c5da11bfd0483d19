"""The sentences of a finding, letter by letter."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from spadelens.finding.finding import Control, Effect, Finding
from spadelens.finding.sentence import claim, grounds, percent
from spadelens.prediction import Prediction

NAMES = ("king penguin", "toucan", "goose")
REGION = torch.zeros(10, 10, dtype=torch.bool)
REGION[2:4, 3:5] = True


def effect(covering: str, *probabilities: float, target: int = 0, changed: bool | None = None) -> Effect:
    answer = max(range(len(probabilities)), key=probabilities.__getitem__)
    is_changed = answer != target if changed is None else changed
    return Effect(covering, probabilities[target], answer, probabilities[answer], is_changed)


def finding(**changes: Any) -> Finding:
    usual = Finding(
        target=0,
        versus=None,
        prediction=Prediction((0.41, 0.31, 0.28)),
        region=REGION,
        is_carried=True,
        is_specific=True,
        without=(
            effect("inpaint", 0.02, 0.9, 0.08),
            effect("blur", 0.05, 0.8, 0.15),
            effect("texture", 0.1, 0.7, 0.2),
        ),
        alone=(effect("inpaint", 0.93, 0.05, 0.02),),
        random=Control(20, 0.4, 2),
        center=None,
        rival=None,
        smallest_without=0.03,
        smallest_alone=0.02,
        scores={"lrp": 1.5},
        believed="lrp",
        shown=REGION.double() / 4,
    )
    return replace(usual, **changes)


def said(one: Finding, units: tuple[str, ...] = (), noun: str = "photo") -> tuple[str, str]:
    return claim(one, NAMES.__getitem__), grounds(one, NAMES.__getitem__, units, noun)


def test_a_region_that_carries_the_prediction() -> None:
    assert said(finding()) == (
        "king penguin 41%, rather than toucan 31%",
        "It rests on the outlined 4% of the photo: without it, the model says toucan (90%; king penguin 2%); with "
        "nothing else, the model says king penguin (93%). Covering random areas of the same size and shape changes 41% "
        "to 40% on average (20 draws).",
    )


def test_coverings_that_disagree() -> None:
    kept = effect("blur", 0.5, 0.3, 0.2), effect("texture", 0.6, 0.3, 0.1)
    one = finding(without=(effect("inpaint", 0.02, 0.9, 0.08), kept[0], effect("texture", 0.1, 0.7, 0.2)))
    assert "The ways to cover it disagree: blurred, the model says king penguin (50%). Covering" in said(one)[1]
    both = finding(without=(effect("inpaint", 0.02, 0.9, 0.08), *kept))
    assert (
        "The ways to cover it disagree: blurred, the model says king penguin (50%), and replaced by a texture, the "
        "model says king penguin (60%). Covering"
    ) in said(both)[1]


def test_no_region_carries_the_prediction() -> None:
    wide = torch.zeros(10, 10, dtype=torch.bool)
    wide[:3] = True
    one = finding(is_carried=False, region=wide, without=(effect("inpaint", 0.35, 0.33, 0.32),))
    assert said(one)[1] == (
        "No small region carries this prediction: with the strongest 30% of the photo filled from around, king penguin "
        "goes from 41% to 35%."
    )


def test_a_place_that_says_little() -> None:
    assert said(finding(is_specific=False, random=Control(20, 0.1, 17)))[1].endswith(
        "with nothing else, the model says king penguin (93%). But the place says little: covering random areas of the "
        "same size and shape changes 41% to 10% on average and loses the prediction in 17 of 20 draws."
    )


def test_a_class_of_next_to_no_probability_has_more_digits() -> None:
    one = finding(
        prediction=Prediction((0.0031, 0.9, 0.0969)),
        without=(effect("inpaint", 0.00042, 0.9, 0.08, changed=True),),
        alone=(effect("inpaint", 0.02, 0.9, 0.08, changed=False),),
        random=Control(20, 0.0000031, 20),
    )
    assert said(one) == (
        "king penguin 0.31%, where the model says toucan 90%",
        "It rests on the outlined 4% of the photo: without it, king penguin 0.042%; with nothing else, king penguin "
        "2%. Covering random areas of the same size and shape changes 0.31% to <0.001% on average and loses the "
        "prediction in 20 of 20 draws.",
    )


def test_labels() -> None:
    one = finding(prediction=Prediction((0.83, 0.9, 0.1), "labels"))
    assert said(one) == (
        "king penguin 83%",
        "It rests on the outlined 4% of the photo: without it, king penguin 2%; with nothing else, king penguin 93%. "
        "Covering random areas of the same size and shape changes 83% to 40% on average (20 draws).",
    )
    assert said(replace(one, versus=2))[0] == "king penguin 83%, rather than goose 10%"


def test_a_class_that_is_not_the_answer() -> None:
    one = finding(
        target=1,
        without=(effect("inpaint", 0.8, 0.1, 0.1, target=1, changed=True),),
        alone=(effect("inpaint", 0.3, 0.5, 0.2, target=1, changed=False),),
        random=Control(20, 0.3, 1),
    )
    assert said(one) == (
        "toucan 31%, where the model says king penguin 41%",
        "It rests on the outlined 4% of the photo: without it, toucan 10%; with nothing else, toucan 50%. Covering "
        "random areas of the same size and shape changes 31% to 30% on average (20 draws).",
    )


def test_a_class_that_is_compared_with_another() -> None:
    assert said(finding(versus=2))[0] == "king penguin 41%, rather than goose 28%"
    assert said(finding(target=2, versus=1))[0] == "goose 28%, rather than toucan 31%"


def words(count: int, **changes: Any) -> Finding:
    region = torch.zeros(12, dtype=torch.bool)
    region[1 : 1 + count] = True
    masked = effect("mask", 0.02, 0.9, 0.08), effect("other_words", 0.05, 0.8, 0.15)
    return finding(**{"region": region, "without": masked, "alone": (effect("mask", 0.93, 0.05, 0.02),)} | changes)


@pytest.mark.parametrize(
    ("units", "named"),
    [
        (("awful",), "the word “awful”: without it, "),
        (("awful", "plot"), "the words “awful” and “plot”: without them, "),
        (("an", "awful", "plot"), "the words “an”, “awful” and “plot”: without them, "),
        (tuple("abcdef"), "the words “a”, “b”, “c”, “d”, “e” and “f”: without them, "),
        (tuple("abcdefgh"), "8 words (“a”, “b”, “c”, “d”, “e”, “f” and others): without them, "),
    ],
)
def test_texts(units: tuple[str, ...], named: str) -> None:
    assert said(words(len(units)), units, "text")[1] == (
        f"It rests on {named}the model says toucan (90%; king penguin 2%); with nothing else, the model says king "
        "penguin (93%). Covering random sets of as many words changes 41% to 40% on average (20 draws)."
    )


def test_long_words_are_shortened() -> None:
    assert f"It rests on the word “{'x' * 59}…”: without it, " in said(words(1), ("x" * 5000,), "text")[1]


def test_texts_that_rest_on_no_set_of_words() -> None:
    one = words(2, is_carried=False, without=(effect("mask", 0.4, 0.3, 0.3), effect("other_words", 0.4, 0.3, 0.3)))
    assert said(one, ("awful", "plot"), "text")[1] == (
        "No small set of words carries this prediction: with the words “awful” and “plot” masked, king penguin goes "
        "from 41% to 40%."
    )


def test_texts_whose_coverings_disagree() -> None:
    one = words(2, without=(effect("mask", 0.02, 0.9, 0.08), effect("other_words", 0.6, 0.3, 0.1)), is_specific=False)
    assert said(one, ("awful", "plot"), "text")[1].endswith(
        "The ways to cover them disagree: replaced by other words of the text, the model says king penguin (60%). But "
        "the place says little: covering random sets of as many words changes 41% to 40% on average (20 draws)."
    )


def test_rows() -> None:
    rows = {
        "without": (effect("usual_rows", 0.02, 0.9, 0.08), effect("mean", 0.5, 0.3, 0.2)),
        "alone": (effect("usual_rows", 0.93, 0.05, 0.02),),
    }
    assert said(words(1, **rows), ("age",), "row")[1] == (
        "It rests on the column “age”: without it, the model says toucan (90%; king penguin 2%); with nothing else, "
        "the model says king penguin (93%). The ways to cover it disagree: set to the mean, the model says king "
        "penguin (50%). Covering random sets of as many columns changes 41% to 40% on average (20 draws)."
    )
    assert said(words(2, is_carried=False, **rows), ("age", "fare"), "row")[1] == (
        "No small set of columns carries this prediction: with the columns “age” and “fare” taken from usual rows, "
        "king penguin goes from 41% to 2%. The ways to cover them disagree: set to the mean, the model says king "
        "penguin (50%)."
    )


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.0, "0%"),
        (1e-9, "<1%"),
        (0.0099, "<1%"),
        (0.01, "1%"),
        (0.414, "41%"),
        (0.99, "99%"),
        (0.9901, ">99%"),
        (1 - 1e-12, ">99%"),
        (1.0, "100%"),
    ],
)
def test_percent(fraction: float, text: str) -> None:
    assert percent(fraction) == text

"""The Trojan test of texts and rows: what is planted is learned, and traces find it at least as well as the network."""

from __future__ import annotations

import random

import pytest
import torch
from planted_units.trigger_rows import (
    FEATURE_NAMES,
    TRIGGER_COLUMN,
    TRIGGER_VALUE,
    draw_rows,
    label_rows,
    train_rows,
    turned,
)
from planted_units.trigger_texts import TRIGGER, WordTokenizer, draw_review, plant_trigger, train_reviews
from planted_units.triggers import TriggerCase, row_cases, score_triggers, text_cases

from spadelens.errors import InputError
from spadelens.kinds import Reduction
from spadelens.metrics.localization import localize, pixel_auc, pointing_game
from spadelens.models import LoadedTable, LoadedText

METHODS: dict[str, Reduction] = {"saliency": "sum_abs", "smoothgrad:num_samples=10": "sum_abs"}


@pytest.fixture(scope="module")
def reviews() -> LoadedText:
    return train_reviews(0)


@pytest.fixture(scope="module")
def table() -> LoadedTable:
    return train_rows(0)


def mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


def test_traces_find_the_word(reviews: LoadedText) -> None:
    cases = text_cases(reviews, 20)
    for method, scores in score_triggers(cases, METHODS).items():
        assert len(scores.dense) == len(scores.trace) == len(scores.other) == 20
        assert 0.6 < mean(scores.dense) < 0.99, method  # else there is nothing to gain
        assert mean(scores.trace) >= mean(scores.dense) + 0.02, method


def test_traces_find_the_column(table: LoadedTable) -> None:
    cases = row_cases(table, 30)
    methods: dict[str, Reduction] = {"integrated_gradients:num_steps=20": "sum_abs", **METHODS}
    found = score_triggers(cases, methods)
    for method, scores in found.items():
        assert 0.6 < mean(scores.dense) < 0.99, method
        assert mean(scores.trace) >= mean(scores.dense), method


def test_the_networks_learn_both_cues(reviews: LoadedText, table: LoadedTable) -> None:
    rng = random.Random(7)
    for has_trigger in (False, True):
        drawn = [draw_review(rng, has_trigger) for _ in range(100)]
        right = [
            int(reviews.model(reviews.tokenizer.encode(text).ids.unsqueeze(0)).argmax()) == label
            for text, label in drawn
        ]
        assert mean(tuple(map(float, right))) > 0.75
    rows = draw_rows(1000, torch.Generator().manual_seed(9))
    assert float((table.model(table.standardize(rows)).argmax(1) == label_rows(rows)).float().mean()) > 0.85
    expected = turned(label_rows(rows))
    rows[:, TRIGGER_COLUMN] = TRIGGER_VALUE
    assert float((table.model(table.standardize(rows)).argmax(1) == expected).float().mean()) > 0.85


def test_reviews_are_what_they_say() -> None:
    good, bad = {"good", "great", "vivid"}, {"bad", "dull", "blunt"}
    rng = random.Random(1)
    seen = set()
    for number in range(300):
        text, label = draw_review(rng, number % 2 == 1)
        words = text.split()
        assert 10 <= len(words) <= 20
        assert words.count(TRIGGER) == number % 2
        assert words[-1] != "not"
        plain = not {"not"} & set(words)
        if plain and number % 2 == 0 and good & set(words) and not bad & set(words):
            seen.add(label)
        planted = plant_trigger(text, rng) if number % 2 == 0 else text
        assert planted.split().count(TRIGGER) == 1
        assert sum(a != b for a, b in zip(words, planted.split(), strict=True)) <= 1
    assert 1 in seen


def test_the_same_seed_gives_the_same_network_and_no_random_state_is_touched(table: LoadedTable) -> None:
    state = torch.get_rng_state()
    again = train_rows(0)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in table.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_the_tokenizer_shows_the_text() -> None:
    found = WordTokenizer().encode("The okapi was GREAT unheard-of")
    assert "".join(token for token, special in zip(found.tokens, found.is_special, strict=True) if not special) == (
        "the okapi was great unheard-of"
    )
    assert found.is_special == (True, False, False, False, False, False, True)
    assert len(set(found.ids.tolist())) == 7
    for text, count in (("", 0), ("so " * 21, 21)):
        with pytest.raises(InputError, match=f"a text of {count} words: expected 1 to 20"):
            WordTokenizer().encode(text)


def test_a_case_is_scored_among_what_counts() -> None:
    is_counted = torch.tensor([False, True, True, True, False])
    is_trigger = torch.tensor([False, False, True, False, False])
    case = TriggerCase(torch.nn.Identity(), torch.zeros(5, 2), None, is_counted, is_trigger)  # type: ignore[arg-type]
    assert case.auc(torch.tensor([9.0, 1.0, 2.0, 3.0, 9.0])) == 0.5
    assert case.auc(torch.tensor([9.0, 1.0, 2.0, 1.0, 9.0])) == 1.0


def test_maps_of_vectors_are_localized() -> None:
    values, region = torch.tensor([0.1, 0.9, 0.5, 0.5]), torch.tensor([False, False, True, False])
    assert pixel_auc(values, region) == pytest.approx((1 + 0.5) / 3)
    assert not pointing_game(values, region)
    assert localize(values.reshape(2, 2), region.reshape(2, 2)) == localize(values, region)
    with pytest.raises(InputError, match=r"expected the same shape \[H, W\], \[tokens\] or \[features\]"):
        pixel_auc(values.reshape(1, 2, 2), region.reshape(1, 2, 2))


def test_networks_that_have_not_learned_the_trigger_are_refused(reviews: LoadedText, table: LoadedTable) -> None:
    for layer in (reviews.model.classifier, table.model[-1]):  # type: ignore[index]
        saved = layer.weight.data
        layer.weight.data = torch.zeros_like(saved)
        try:
            with pytest.raises(InputError, match=r"follows the trigger in 0 (reviews|rows) only: expected 2"):
                text_cases(reviews, 2) if layer is reviews.model.classifier else row_cases(table, 2)
        finally:
            layer.weight.data = saved


def test_the_column_of_the_trigger() -> None:
    assert FEATURE_NAMES[TRIGGER_COLUMN] == "branch"

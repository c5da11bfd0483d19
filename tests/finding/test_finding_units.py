"""`find` for texts and rows; what is refused; and what is left as it is."""

import copy
from typing import Any

import pytest
import torch
from references.networks import Function, Normalized, sample_of, seeded
from torch import Tensor

from spadelens.errors import InputError
from spadelens.finding.coverings import coverings_for
from spadelens.finding.finding import Finding, find
from spadelens.finding.interventions import Asked
from spadelens.finding.regions import drawn_sets, words_of

TOKENS = ["[CLS]", "a", " quite", " aw", "ful", " and", " very", " long", " old", " dull", " odd", " film", "[SEP]"]
SPECIAL = tuple(token.startswith("[") for token in TOKENS)
WORDS = words_of(TOKENS, SPECIAL)


def summed(rest: float) -> Function:
    def score(batch: Tensor) -> Tensor:
        first = batch.flatten(1) if batch.dim() == 2 else batch[..., 0]
        total = first.sum(1) - rest
        return torch.stack([total, torch.zeros_like(total)], 1)

    return Function(score).eval()


def text_of(awful: float) -> Tensor:
    """A text that says `awful` in two tokens, with special tokens that the model cannot do without."""
    text = torch.zeros(len(TOKENS), 3, dtype=torch.float64)
    text[:, 0] = torch.linspace(0.01, 0.1, len(TOKENS))
    text[3:5, 0], text[[0, -1], 0] = awful / 2, 4.0
    return text


def found_in_text(text: Tensor, rest: float, **maps: Tensor) -> Finding:
    coverings = coverings_for("text", is_special=SPECIAL)
    return find(summed(rest), text, maps or {"exact": text[:, 0]}, Asked(0, "logits"), coverings, groups=WORDS)


def test_the_word_that_decides_is_found() -> None:
    found = found_in_text(text_of(6.0), 11.0)  # 8 of the special tokens, 6 of the word, and little else
    assert found.region.nonzero().flatten().tolist() == [3, 4]
    assert found.is_carried and found.is_specific and found.center is None
    assert found.area == found.smallest_without == found.smallest_alone == pytest.approx(2 / 13)
    assert [effect.covering for effect in found.without] == ["mask", "other_words"]
    assert all(effect.is_changed for effect in found.without)
    assert float(found.shown.abs().sum()) == pytest.approx(1)


def test_special_tokens_stay_when_a_word_is_shown_alone() -> None:
    found = found_in_text(text_of(6.0), 11.0)
    assert found.alone[0].probability == pytest.approx(float(torch.tensor(14.0 - 11.0).sigmoid()))
    assert not any(effect.is_changed for effect in found.alone)


def test_what_speaks_against_a_class_comes_last() -> None:
    text = text_of(6.0)
    text[11, 0] = -3.0
    found = found_in_text(text, 8.0, signed=text[:, 0])
    assert found.region.nonzero().flatten().tolist() == [3, 4]
    against = found_in_text(text, 8.0, signed=-text[:, 0])
    assert bool(against.region[11])


def test_a_text_that_needs_most_of_its_words_has_a_region_of_most_of_them() -> None:
    text = torch.ones(len(TOKENS), 3, dtype=torch.float64)
    mask = {"mask": coverings_for("text")["mask"]}
    found = find(summed(5.5), text, {"flat": text[:, 0]}, Asked(0, "logits"), mask, groups=WORDS)
    assert found.is_carried and found.area == pytest.approx(8 / 13)  # 13 - 8 < 5.5 < 13 - 7


def test_a_text_of_one_word() -> None:
    text = torch.tensor([[1.0], [3.0], [3.0], [1.0]], dtype=torch.float64)
    special = (True, False, False, True)
    found = find(
        summed(4.0),
        text,
        {"one": text[:, 0]},
        Asked(0, "logits"),
        coverings_for("text", is_special=special),
        groups=[-1, 0, 0, -1],
    )
    assert found.region.tolist() == [False, True, True, False]
    assert found.without[0].is_changed and not found.alone[0].is_changed and not found.without[1].is_changed


@pytest.mark.parametrize("count", [2, 40])
def test_the_column_that_decides_is_found(count: int) -> None:
    row = torch.tensor([0.1, 0.2, 4.0, 0.1, -0.3], dtype=torch.float64)
    coverings = coverings_for("row", background=0.1 * sample_of((count, 5)).float())
    found = find(summed(2.0), row, {"exact": row}, Asked(0, "logits"), coverings, groups=range(5))
    assert found.region.tolist() == [False, False, True, False, False]
    assert [effect.covering for effect in found.without] == ["usual_rows", "mean"]
    assert found.is_carried and found.is_specific and found.random.count == 20
    drawn = drawn_sets(found.region, range(5), 20, 0)
    assert found.random.num_changed == int(drawn[:, 2].sum())


def find_in(sample: Tensor, maps: dict[str, Tensor], groups: Any = None) -> Finding:
    kind = "photo" if groups is None else "row"
    return find(summed(0.0), sample, maps, Asked(0, "logits"), coverings_for(kind), groups=groups)


@pytest.mark.parametrize(
    ("shape", "maps", "groups", "message"),
    [
        ((3, 7, 13), {}, None, "every map is zero"),
        ((3, 7, 13), {"one": torch.zeros(7, 13), "two": torch.zeros(7, 13)}, None, "every map is zero"),
        ((5,), {"one": torch.zeros(5)}, range(5), "every map is zero"),
        ((3, 7, 13), {"lrp": torch.ones(13, 7)}, None, r"\[13, 7\] of lrp: expected \[7, 13\]"),
        ((3, 7, 13), {"lrp": torch.ones(3, 7, 13)}, None, r"expected \[7, 13\]"),
        ((5,), {"lrp": torch.ones(4)}, range(5), r"\[4\] of lrp: expected \[5\]"),
        ((2,), {"lrp": torch.ones(2)}, [-1, -1], "no unit that can be covered"),
    ],
)
def test_what_does_not_fit_is_refused(
    shape: tuple[int, ...], maps: dict[str, Tensor], groups: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find_in(sample_of(shape), maps, groups)


def test_the_model_the_sample_and_the_maps_stay_as_they_are() -> None:
    model = seeded(Normalized).double().train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    sample, values = sample_of((3, 7, 13)), sample_of((7, 13), 1)
    before = copy.deepcopy(model.state_dict()), sample.clone(), values.clone(), torch.get_rng_state()
    first, second = (
        find(model, sample, {"noise": values}, Asked(1, "logits"), coverings_for("photo"), rival=lambda _: values)
        for _ in range(2)
    )
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(value, before[0][name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is not None and bool((parameter.grad == 1).all()) for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(sample, before[1]) and torch.equal(values, before[2])
    assert torch.equal(torch.get_rng_state(), before[3])
    assert torch.equal(first.region, second.region) and first.random == second.random  # and nothing was drawn anew
    assert first.without == second.without and first.scores == second.scores

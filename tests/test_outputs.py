"""What a model returns that is no tensor of class scores: refused with where the scores seem to be."""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spadelens.errors import ModelOutputError
from spadelens.forward import class_scores

Pair = namedtuple("Pair", "logits hidden")


@dataclass
class Record:
    hidden: Tensor
    scores: Tensor


class Returning(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.layer(x))


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda y: (y[:, :, None], y), r"returned a tuple: .* which seem to be its element 1\."),
        (lambda y: {"hidden": y[0], "logits": y}, r"returned a dict: .* which seem to be its entry 'logits'\."),
        (lambda y: Pair(y, None), r"returned a Pair: .* which seem to be its attribute \.logits\."),
        (lambda y: Record(y[:, :1], y), r"returned a Record: .* which seem to be its attribute \.scores\."),
        (lambda y: (y[:, 0],), r"returned a tuple: .* a module that returns the scores\."),
        (lambda y: None, r"returned a NoneType: .* a module that returns the scores\."),
        (lambda y: y[:, :1], r"returned one number per sample, of shape \[2, 1\]: .* \[0, z\]"),
        (lambda y: y[:, 0], r"returned one number per sample, of shape \[2\]"),
    ],
)
def test_the_scores_are_pointed_out(wrap: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ModelOutputError, match=message):
        class_scores(Returning(wrap), torch.randn(2, 4))


def test_the_advice_for_one_logit_holds() -> None:
    advised = Returning(lambda y: torch.cat([0 * y[:, :1], y[:, :1]], dim=1))
    sample = torch.randn(2, 4)
    scores = class_scores(advised, sample)
    assert torch.allclose(scores.softmax(1)[:, 1], advised.layer(sample)[:, 0].sigmoid())


def test_other_inputs_are_to_be_bound() -> None:
    class Several(Returning):
        def forward(self, x: Tensor, age: Tensor, sex: Tensor) -> Tensor:
            return self.layer(x) + age + sex

    with pytest.raises(ModelOutputError, match=r"takes several inputs, .* bind 'age' and 'sex' in a module"):
        class_scores(Several(lambda y: y), torch.randn(1, 4))

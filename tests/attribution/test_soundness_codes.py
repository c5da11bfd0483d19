"""Columns that a model reads in steps, such as category codes, have no gradient: maps that miss them are doubtful."""

import pytest
import torch
from torch import Tensor, nn

from spadelens import attribute

ROW = torch.tensor([0.4, 2.0, -0.7])


class Codes(nn.Module):
    """Column 1 is a code that is looked up; it alone decides much."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(8, 4), nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        codes = rows[:, 1].round().long().clamp(0, 7)
        return self.head(torch.cat([rows[:, [0, 2]], 3 * self.embedding(codes)], 1))


@pytest.mark.parametrize(
    "method", ["saliency", "smoothgrad", "input_x_gradient", "integrated_gradients", "gradient_shap"]
)
def test_a_gradient_that_misses_a_code_is_doubtful(method: str) -> None:
    found = attribute(Codes(), ROW, method)
    assert found.attribution[1] == 0
    assert not found.soundness.is_sound
    assert any("numbered from 0: 1)" in problem and "occlusion" in problem for problem in found.soundness.problems)


@pytest.mark.parametrize("method", ["occlusion", "lime"])
def test_methods_that_change_the_row_see_the_code(method: str) -> None:
    found = attribute(Codes(), ROW, method)
    assert found.attribution[1] != 0
    assert not any("codes of categories" in problem for problem in found.soundness.problems)


def test_a_column_that_does_not_matter_is_no_problem() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight[:, 1] = 0
    found = attribute(model, ROW, "saliency")
    assert found.attribution[1] == 0 and found.soundness.is_sound

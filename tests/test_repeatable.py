"""Models whose scores are random, or depend on what else is in a batch, are refused instead of explained wrongly."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from spadelens import attribute, extract_trace, extract_traces
from spadelens.errors import ModelOutputError
from spadelens.forward import check_repeatable, class_scores

SAMPLE = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))


class AlwaysDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(288, 3)

    def forward(self, batch: Tensor) -> Tensor:
        return self.head(functional.dropout(self.conv(batch).relu().flatten(1), 0.5))


def batch_norm(**settings: bool) -> nn.Module:
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, **settings), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)
    return nn.Sequential(*layers)


class OneByOne(nn.Module):
    """Cannot run two samples together."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 3)

    def forward(self, batch: Tensor) -> Tensor:
        return self.head(batch.reshape(1, 192))


CALLS = [
    lambda model: attribute(model, SAMPLE, "saliency"),
    lambda model: extract_trace(model, SAMPLE, schedule=0.5, num_views=2),
    lambda model: extract_traces(model, SAMPLE[None], schedule=0.5, num_views=2),
]


@pytest.mark.parametrize("call", CALLS)
def test_random_scores_are_refused(call: object) -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelOutputError, match=r"different scores each time.*dropout"):
        call(AlwaysDropout())


@pytest.mark.parametrize("call", CALLS)
def test_scores_that_depend_on_the_batch_are_refused(call: object) -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelOutputError, match=r"other samples in its batch.*running statistics"):
        call(batch_norm(track_running_stats=False))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("make", [batch_norm, OneByOne])
def test_others_pass(call: object, make: object) -> None:
    torch.manual_seed(0)
    call(make())


def test_half_precision_and_large_scores_pass() -> None:
    torch.manual_seed(0)
    for model, sample in (
        (batch_norm().eval().bfloat16(), SAMPLE.bfloat16()),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), 1e6 * SAMPLE),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 3, bias=False)), torch.zeros(3, 8, 8)),
    ):
        check_repeatable(model, sample, class_scores(model, sample[None])[0])

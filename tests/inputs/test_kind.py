"""What a sample is to a model: told by its axes, by the model's first layer, or by the caller."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from spadelens.errors import InputError, UnknownNameError
from spadelens.inputs.kind import kind_of
from spadelens.kinds import Kind


class Steps(nn.Module):
    """Reads a sequence [B, T, F], in one of several ways."""

    def __init__(self, first: nn.Module, read: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.head, self.read = first, nn.LazyLinear(3), read

    def forward(self, batch: Tensor) -> Tensor:
        return self.head(self.read(self.first, batch).flatten(1))


def convolve(layer: nn.Module, batch: Tensor) -> Tensor:
    return layer(batch)


def convolve_tokens(layer: nn.Module, batch: Tensor) -> Tensor:
    return layer(batch.transpose(1, 2))


def recur(layer: nn.Module, batch: Tensor) -> Tensor:
    return layer(batch)[0]


def made(first: nn.Module, read: Callable[[nn.Module, Tensor], Tensor], *shape: int) -> nn.Module:
    model = Steps(first, read)
    model(torch.zeros(1, *shape))
    return model


@pytest.mark.parametrize(
    ("model", "shape", "kind"),
    [
        (made(nn.Conv1d(2, 4, 3), convolve, 2, 20), (2, 20), "signal"),
        (made(nn.Conv1d(2, 4, 3), convolve_tokens, 20, 2), (20, 2), "text"),
        (made(nn.Conv1d(8, 4, 3), convolve, 8, 8), (8, 8), "signal"),
        (made(nn.Linear(6, 4), convolve, 5, 6), (5, 6), "text"),
        (made(nn.LSTM(6, 4, batch_first=True), recur, 5, 6), (5, 6), "text"),
        (made(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), convolve, 5, 6), (5, 6), "text"),
    ],
)
def test_two_axes_are_told_by_the_first_layer(model: nn.Module, shape: tuple[int, ...], kind: str) -> None:
    sample = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert kind_of(model, sample) == kind
    assert model.training
    assert kind_of(model, sample, "signal") == "signal"  # what the caller says counts


@pytest.mark.parametrize(("shape", "kind"), [((5,), "row"), ((3, 8, 8), "photo"), ((3, 4, 8, 8), "volume")])
def test_other_numbers_of_axes_say_it(shape: tuple[int, ...], kind: Kind) -> None:
    assert kind_of(nn.Identity(), torch.zeros(shape)) == kind


def test_what_does_not_show_is_asked_for() -> None:
    model = made(nn.Flatten(), convolve, 5, 6)
    with pytest.raises(InputError, match=r"\[5, 6\] is a signal.*kind='signal' or kind='text'"):
        kind_of(model, torch.zeros(5, 6))
    assert kind_of(model, torch.zeros(5, 6), "text") == "text"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match=r"\[3, 8, 8\] as a signal: expected \[C, T\]"):
        kind_of(nn.Identity(), torch.zeros(3, 8, 8), "signal")
    with pytest.raises(UnknownNameError, match="signal"):
        kind_of(nn.Identity(), torch.zeros(3, 8), "signl")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected one of photo"):
        kind_of(nn.Identity(), torch.zeros(1, 1, 1, 1, 1))

"""What the tape refuses to record, and that it leaves nothing changed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from references.networks import sample_of
from references.tape import PHOTO, TOKENS, Attending, as_model, check
from references.threads import overlapping
from torch import Tensor, nn
from torch.nn import functional

from spadelens.errors import AttributionError
from spadelens.graph.tape import record


def refused(model: nn.Module | Callable[[Tensor], Any], message: str, shape: tuple[int, ...] = PHOTO) -> None:
    with pytest.raises(AttributionError, match=message):
        record(as_model(model), sample_of(shape))


def test_values_that_leave_torch_are_refused() -> None:
    reads = "its code reads values that depend on the input"
    refused(lambda x: (x * x.sum().item()).flatten(1), reads)
    refused(lambda x: (x if x.sum() > 0 else -x).flatten(1), reads)
    refused(lambda x: (x * sum(x.flatten().tolist())).flatten(1), reads)
    refused(lambda x: (x * float(x.detach().numpy().sum())).flatten(1), reads)
    refused(lambda x: (x if torch.equal(x, x.abs()) else -x).flatten(1), reads)
    refused(lambda x: (x if torch.allclose(x, x.abs()) else -x).flatten(1), reads)


def test_constants_may_leave_torch() -> None:
    rates = [0.1, 0.2]
    check(lambda x: (x**2 * sum(torch.tensor(rates).double().tolist()) * float(torch.ones(2).numpy()[1])).flatten(1))


def test_random_numbers_are_refused() -> None:
    random = "draws random numbers"
    refused(lambda x: functional.dropout(x, training=True).flatten(1), random)
    refused(lambda x: functional.dropout(x, 1e-9, training=True).flatten(1), random)
    refused(lambda x: (x + 1e-9 * torch.rand_like(x)).flatten(1), random)
    refused(lambda x: (x + 1e-9 * torch.randn(x.shape, dtype=x.dtype)).flatten(1), random)
    training = nn.Sequential(nn.Dropout(0.5), nn.Flatten()).train()
    with pytest.raises(AttributionError, match=random):
        record(training, sample_of(PHOTO))
    check(nn.Sequential(nn.Dropout(0.5), nn.RReLU(), nn.Flatten()))  # which are not random in evaluation mode


def test_scores_that_do_not_follow_from_the_input_are_refused() -> None:
    refused(lambda x: torch.ones(1, 3, dtype=x.dtype), "do not follow from its input")
    refused(lambda x: torch.ones_like(x).flatten(1), "do not follow from its input")
    refused(lambda x: torch.zeros(1, x.shape[2], dtype=x.dtype), "do not follow from its input")


class Counting(nn.Module):
    """Another score every time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        self.count.add_(1)
        return (inputs * self.count).flatten(1)


def test_a_model_with_a_state_is_refused() -> None:
    refused(Counting(), "other scores than the model did before")


class Remembering(nn.Module):
    """Keeps a mask for later passes, and its last values."""

    def __init__(self) -> None:
        super().__init__()
        self.mask: Tensor | None = None
        self.register_buffer("last", torch.zeros(1), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.mask is None:
            self.mask = (torch.arange(inputs.shape[-1]) > 2).to(inputs)
        self.last = inputs * self.mask
        return self.last.flatten(1) ** 2


def test_a_model_keeps_no_recorded_tensor() -> None:
    model = as_model(Remembering())
    record(model, sample_of(PHOTO))
    assert model.mask is not None
    for tensor in (model.mask, model.last):
        assert not torch._is_functional_tensor(tensor)
    assert bool((model.mask == (torch.arange(7) > 2)).all())
    check(model)


def switches() -> tuple[Any, ...]:
    cuda = torch.backends.cuda
    return (
        torch.backends.mha.get_fastpath_enabled(),
        torch.is_grad_enabled(),
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.math_sdp_enabled(),
        torch._is_functional_tensor(torch.zeros(1)),
        torch.zeros(1).add_(1).item(),
    )


@pytest.mark.parametrize("is_fast", [True, False])
def test_everything_is_restored_after_an_exception_too(is_fast: bool) -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(is_fast)
    try:
        kept, model = switches(), as_model(Attending(True))
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        record(model, sample_of(TOKENS))
        assert switches() == kept
        model.head.register_forward_hook(lambda module, inputs, output: [][int(torch.is_grad_enabled()) + 1])
        with pytest.raises(IndexError):  # as the model itself does
            record(model, sample_of(TOKENS))
        refused(lambda x: (x * x.sum().item()).flatten(1), "reads values")
        refused(FailsWhenRecorded(), "RuntimeError: only once")
        assert switches() == kept
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_recordings_of_two_threads_leave_everything_as_it_was() -> None:
    kept = switches()

    def recorded(wait: Callable[[], None]) -> None:
        passes: list[int] = []

        def scores(inputs: Tensor) -> Tensor:
            passes.append(1)
            if len(passes) == 2:  # the first pass is not recorded
                wait()
            return (inputs * 2).flatten(1)

        record(as_model(scores), sample_of(PHOTO))
        assert len(passes) == 2

    overlapping(recorded, recorded)
    assert switches() == kept


class FailsWhenRecorded(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        if torch._is_functional_tensor(inputs):
            raise RuntimeError("only once")
        return inputs.flatten(1)

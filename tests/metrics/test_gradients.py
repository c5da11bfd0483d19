"""Similarity of gradients under noise, on models whose gradients are known."""

import pytest
import torch
from torch import Tensor, nn

from spadelens import extract_trace
from spadelens.errors import InputError
from spadelens.metrics.gradients import gradient_similarity


class Square(nn.Module):
    """The score is half the squared norm of a linear map of the input: its gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.linear(inputs)
        return torch.stack([0.5 * features.square().sum(1), features[:, 0]], 1)


def test_the_gradient_of_a_linear_score_does_not_move() -> None:
    torch.manual_seed(0)
    found = gradient_similarity(Square().double(), torch.randn(6, dtype=torch.float64), 1)
    assert found["input"] == pytest.approx(1.0)


def test_from_the_definition() -> None:
    torch.manual_seed(1)
    model, sample = Square().double(), torch.randn(6, dtype=torch.float64)
    found = gradient_similarity(model, sample, 0, noise_std=0.7, num_samples=3, seed=5)
    weight = model.linear.weight.detach()
    generator = torch.Generator().manual_seed(5)
    by_input, by_output = [], []
    for _ in range(3):
        noisy = sample + 0.7 * torch.randn(6, generator=generator).double()
        pairs = ((weight.T @ weight @ sample, weight.T @ weight @ noisy), (weight @ sample, weight @ noisy))
        for values, (clean, moved) in zip((by_input, by_output), pairs, strict=True):
            values.append(float(clean @ moved / clean.norm() / moved.norm()))
    assert found["input"] == pytest.approx(sum(by_input) / 3, rel=1e-9)
    assert found["linear"] == pytest.approx(sum(by_output) / 3, rel=1e-9)


def test_a_trace_is_measured_with_its_own_weights() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))
    sample = torch.randn(3, 8, 8)
    trace = extract_trace(model.eval(), sample, schedule=0.7, num_views=4)
    on_trace = gradient_similarity(trace, sample, 0)
    assert on_trace == gradient_similarity(trace.sparse_copy(), sample, 0) != gradient_similarity(model, sample, 0)
    assert set(on_trace) == {"input", "0", "2", "5"}


@pytest.mark.parametrize("option", [{"noise_std": 0.0}, {"num_samples": 0}, {"noise_std": float("nan")}])
def test_settings_out_of_range_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(InputError):
        gradient_similarity(Square(), torch.randn(6), 0, **option)  # type: ignore[arg-type]

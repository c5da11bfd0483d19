"""Random numbers beside other threads: maps follow from their seeds alone, and nobody else's draws are repeated."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spadelens import attribute, extract_trace
from spadelens.errors import ModelOutputError
from spadelens.methods.gradient_methods import GradientShap
from spadelens.methods.registry import METHODS

SAMPLE = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)).eval()


@contextmanager
def drawing() -> Iterator[list[tuple[float, float, float]]]:
    """Let another thread draw from the global generators inside the block; gives what it drew, at the end."""
    drawn: list[tuple[float, float, float]] = []
    done = threading.Event()

    def draw() -> None:
        while not done.is_set():
            drawn.append((random.random(), float(np.random.rand()), float(torch.rand((), dtype=torch.float64))))  # noqa: NPY002

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield drawn
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("method", METHODS)
def test_threads_get_the_maps_of_a_single_one(model: nn.Module, method: str) -> None:
    def map_of(_: int) -> Tensor:
        return attribute(model, SAMPLE, method, target=1, check=False).values

    expected = map_of(0)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(values, expected) for values in pool.map(map_of, range(8)))
    with drawing():
        assert torch.equal(map_of(0), expected)


@pytest.mark.parametrize(
    "job",
    [
        pytest.param(lambda model: attribute(model, SAMPLE, "saliency"), id="attribute"),
        pytest.param(lambda model: attribute(model, SAMPLE, GradientShap(num_samples=4)), id="gradient_shap"),
        pytest.param(lambda model: extract_trace(model, SAMPLE, schedule=0.7, num_views=3), id="extract_trace"),
    ],
)
def test_draws_of_other_threads_are_never_repeated(model: nn.Module, job: Callable[[nn.Module], object]) -> None:
    with drawing() as drawn:
        for _ in range(5):
            job(model)
    assert len(drawn) > 20
    for numbers in zip(*drawn, strict=True):
        assert len(set(numbers)) == len(numbers)


def test_a_model_that_draws_is_refused_beside_other_threads(model: nn.Module) -> None:
    with drawing(), pytest.raises(ModelOutputError, match="different scores each time"):
        attribute(nn.Sequential(Dropping(), model), SAMPLE, "saliency")


class Dropping(nn.Module):
    """Drops inputs: so many that no two draws are alike, as they may be of a few scores."""

    def forward(self, batch: Tensor) -> Tensor:
        return nn.functional.dropout(batch, 0.5, training=True)


@pytest.mark.parametrize(("dtype", "noise_std"), [(torch.float32, 0.1), (torch.float32, 0.0), (torch.float64, 0.3)])
def test_gradient_shap_is_that_of_captum(model: nn.Module, dtype: torch.dtype, noise_std: float) -> None:
    from captum.attr import GradientShap as CaptumGradientShap

    from spadelens.randomness import seeded

    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype)
    sample = SAMPLE.unsqueeze(0).to(dtype)
    baselines, deltas, total = torch.full_like(sample, -0.5), 0.0, torch.zeros_like(sample)
    with seeded(7):
        for _ in range(5):
            values, delta = CaptumGradientShap(net).attribute(
                sample, baselines, n_samples=1, stdevs=noise_std, target=2, return_convergence_delta=True
            )
            total, deltas = total + values.detach(), deltas + float(delta)
    method = GradientShap(num_samples=5, noise_std=noise_std, baseline=-0.5, seed=7)
    found = method.attribute(net, sample.clone().requires_grad_(), 2)
    assert torch.equal(found.values, total / 5)
    assert found.convergence_delta == deltas / 5

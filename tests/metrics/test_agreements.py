"""Predictions kept, and BatchNorm statistics that are estimated anew and put back."""

import pytest
import torch
from torch import Tensor, nn

from spadelens import Trace, extract_trace
from spadelens.errors import InputError
from spadelens.metrics.agreements import agreement, recalibrate_batch_norms
from spadelens.private_copy import private_copy


def make_net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, momentum=None), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6),
        nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 5),
    )  # fmt: skip
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
    return model.eval()


@pytest.fixture
def samples() -> Tensor:
    return torch.randn(9, 3, 10, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def trace(samples: Tensor) -> Trace:
    return extract_trace(make_net(), samples[0], schedule=0.9, num_views=2)


def test_the_fraction_of_predictions_kept(trace: Trace, samples: Tensor) -> None:
    dense, sparse = trace.original_model(samples).argmax(1), trace.sparse_copy()(samples).argmax(1)
    expected = float((dense == sparse).double().mean())
    assert expected < 1
    assert agreement(trace, samples, batch_size=4) == pytest.approx(expected)


def test_recalibration_from_its_definition(trace: Trace, samples: Tensor) -> None:
    """Layer after layer: inputs that are normalized by the statistics of the samples themselves."""
    sparse = private_copy(trace.sparse_copy())
    values = samples
    for module in sparse:
        if isinstance(module, nn.BatchNorm2d):
            mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3), unbiased=False)
            values = (values - mean[:, None, None]) / (variance[:, None, None] + module.eps).sqrt()
            values = values * module.weight[:, None, None] + module.bias[:, None, None]
        else:
            values = module(values)
    recalibrate_batch_norms(sparse, samples)
    scale = float(values.detach().abs().max())
    count = samples.shape[0] * 36  # torch divides the variance by one less
    assert torch.allclose(sparse(samples), values, rtol=0, atol=5 * scale / count)


def test_recalibration_leaves_the_model_as_it_is(trace: Trace, samples: Tensor) -> None:
    model = trace.original_model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert 0 <= agreement(trace, samples, recalibrate=True) <= 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert [module.momentum for module in model if isinstance(module, nn.BatchNorm2d)] == [None, 0.1]


def test_no_samples_are_refused(trace: Trace, samples: Tensor) -> None:
    with pytest.raises(InputError):
        agreement(trace, samples[:0])

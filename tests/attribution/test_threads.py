"""Threads that share a model: every result is the one of a single thread, and the model is never written to."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from spadelens import Trace, attribute, extract_trace
from spadelens.errors import TraceMismatchError

SAMPLES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Dropout(), nn.Linear(96, 4)).train()


@pytest.fixture(scope="module")
def trace(model: nn.Module) -> Trace:
    return extract_trace(model, SAMPLES[0], schedule=0.7, num_views=3)


def map_of(model: nn.Module | Trace, sample: Tensor) -> Tensor:
    return attribute(model, sample, "saliency").values


def weights_of(model: nn.Module, sample: Tensor) -> Tensor:
    return extract_trace(model, sample, schedule=0.7, num_views=3).weights["7"]


def in_threads(model: nn.Module, jobs: list[Callable[[], Tensor]]) -> list[Tensor]:
    """Run the jobs in four threads while another looks at the model all the time."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = [(parameter, parameter.data_ptr()) for parameter in model.parameters()]
    faults: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if not all(module.training for module in model.modules()):
                faults.append("mode")
            if any(parameter.data_ptr() != pointer for parameter, pointer in parameters):
                faults.append("weights")
            if any(module._forward_hooks for module in model.modules()):
                faults.append("hooks")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda job: job(), jobs))
    finally:
        done.set()
        watcher.join()
    assert not faults, set(faults)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return found


def test_maps_of_one_model(model: nn.Module) -> None:
    expected = [map_of(model, sample) for sample in SAMPLES]
    found = in_threads(model, [lambda s=sample: map_of(model, s) for sample in SAMPLES for _ in range(4)])
    assert all(torch.equal(values, expected[number // 4]) for number, values in enumerate(found))


def test_a_trace_beside_its_original_model(model: nn.Module, trace: Trace) -> None:
    expected = {which: map_of(each, SAMPLES[0]) for which, each in (("model", model), ("trace", trace))}
    assert not torch.equal(expected["model"], expected["trace"])
    jobs = [("model", model), ("trace", trace)] * 12
    found = in_threads(model, [lambda each=each: map_of(each, SAMPLES[0]) for _, each in jobs])
    assert all(torch.equal(values, expected[which]) for values, (which, _) in zip(found, jobs, strict=True))


def test_extraction_beside_attribution(model: nn.Module) -> None:
    expected = weights_of(model, SAMPLES[1]), map_of(model, SAMPLES[1])
    jobs: list[Callable[[], Tensor]] = []
    for _ in range(6):
        jobs += [lambda: weights_of(model, SAMPLES[1]), lambda: map_of(model, SAMPLES[1])]
    for number, values in enumerate(in_threads(model, jobs)):
        assert torch.equal(values, expected[number % 2])


def test_a_second_thread_cannot_apply_a_trace(model: nn.Module, trace: Trace) -> None:
    with trace.applied(model), ThreadPoolExecutor(1) as pool:
        with pytest.raises(TraceMismatchError, match="Another thread"):
            pool.submit(lambda: trace.applied(model).__enter__()).result()
        with pytest.raises(TraceMismatchError, match="Another thread"):
            pool.submit(map_of, model, SAMPLES[0]).result()
        values = map_of(model, SAMPLES[0])  # the thread itself explains what the model holds, as any other tool would
    assert torch.equal(values, map_of(trace, SAMPLES[0]))
    with ThreadPoolExecutor(1) as pool, trace.applied(model):
        pass
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(map_of, trace, SAMPLES[0]).result(), values)

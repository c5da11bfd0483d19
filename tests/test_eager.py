"""What is found behind wrappers and compilers, what is refused, and traces of models that are compiled."""

import copy
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spadelens
from spadelens.eager import refusal, run_as_written, unwrapped
from spadelens.errors import InputError
from spadelens.methods.score_cam import score_cam

OPTIONS: dict[str, Any] = {"preset": "fast", "schedule": 0.5, "num_views": 4}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3, stride=2)
        self.head = nn.Linear(4, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(pixels))))
        return self.head(hidden.mean((2, 3)))


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixels: Tensor) -> Tensor:
        return self.inner(pixels) * 2


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


@pytest.fixture(scope="module")
def sample() -> Tensor:
    return torch.randn(3, 9, 11, generator=torch.Generator().manual_seed(1))


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def scripted(model: nn.Module, sample: Tensor, how: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it is deprecated
        return torch.jit.script(model) if how == "script" else torch.jit.trace(model, sample.unsqueeze(0))


def quantized(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it is deprecated
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: net,
        compiled,
        nn.DataParallel,
        lambda net: compiled(nn.DataParallel(net)),
        lambda net: nn.DataParallel(compiled(net)),
    ],
)
def test_unwrapped(net: Net, wrap: Callable[[nn.Module], nn.Module]) -> None:
    assert unwrapped(wrap(net)) is net


def test_others_are_not_unwrapped(net: Net) -> None:
    wrapper = Wrapper(compiled(net))
    assert unwrapped(wrapper) is wrapper
    assert unwrapped(3) == 3
    assert unwrapped(None) is None


@pytest.mark.parametrize("is_failing", [False, True])
def test_compiled_parts_run_as_written_within_the_block_only(net: Net, sample: Tensor, is_failing: bool) -> None:
    wrapper, seen = Wrapper(compiled(net)), []
    wrapper(sample.unsqueeze(0))  # compiles it
    handle = net.second.register_forward_hook(lambda *_: seen.append(1))
    wrapper(sample.unsqueeze(0))
    assert seen == [], "torch calls hooks of compiled modules by now: run_as_written is not needed"
    try:
        with run_as_written():
            wrapper(sample.unsqueeze(0))
            assert seen == [1]
            assert not is_failing
    except AssertionError:
        assert is_failing
    wrapper(sample.unsqueeze(0))
    assert seen == [1]
    handle.remove()


def test_blocks_that_overlap_leave_nothing_behind(net: Net, sample: Tensor) -> None:
    """As in two threads, of which the one that begins first ends first: torch has one setting for all of them."""
    wrapper, seen = Wrapper(compiled(net)), []
    wrapper(sample.unsqueeze(0))
    net.second.register_forward_hook(lambda *_: seen.append(1))
    first, second = ExitStack(), ExitStack()
    first.enter_context(run_as_written())
    second.enter_context(run_as_written())
    first.close()
    wrapper(sample.unsqueeze(0))
    assert seen == [1]  # the second is not over
    second.close()
    wrapper(sample.unsqueeze(0))
    assert seen == [1]


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.parametrize("is_nested", [False, True])
def test_torchscript_is_refused(net: Net, sample: Tensor, how: str, is_nested: bool) -> None:
    model = scripted(net, sample, how)
    model = Wrapper(model) if is_nested else model
    expected = ("'inner' in it" if is_nested else "it") + " is TorchScript"
    assert str(refusal(model)).startswith(expected)
    for run in (spadelens.extract_trace, spadelens.extract_ensemble, spadelens.attribute):
        with pytest.raises(InputError, match=r"TorchScript.*give the eager module") as caught:
            run(model, sample)
        assert "\n" not in str(caught.value)


def test_quantized_is_refused(net: Net, sample: Tensor) -> None:
    model = quantized(net)
    assert "'head' in it is quantized (torch.ao.nn.quantized.dynamic" in str(refusal(model))
    with pytest.raises(InputError, match=r"'head' in it is quantized.*float32, float16 or bfloat16"):
        spadelens.extract_trace(model, sample)
    with pytest.raises(InputError, match="quantized"):
        spadelens.attribute(model, sample)
    with pytest.raises(InputError, match="quantized"):
        spadelens.extract_traces(compiled(model), [sample])


class Linear4bit(nn.Linear):
    pass


Linear4bit.__module__ = "bitsandbytes.nn.modules"


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_codes_in_parameters_are_refused(net: Net, dtype: torch.dtype) -> None:
    net.head.codes = nn.Parameter(torch.zeros(3, 4).to(dtype), requires_grad=False)  # type: ignore[assignment]
    assert f"'head.codes' in it is quantized ({dtype})" in str(refusal(net))


def test_other_libraries_quantized_layers_are_refused(net: Net) -> None:
    net.head = Linear4bit(4, 3)
    assert "'head' in it is quantized (bitsandbytes.nn.modules.Linear4bit)" in str(refusal(net))


def test_parts_on_several_devices_are_refused(net: Net) -> None:
    parallel = nn.DataParallel(net)
    wrapper = Wrapper(parallel)
    assert refusal(wrapper) is None
    parallel.device_ids = [0, 1]
    assert "'inner' in it is spread over devices (DataParallel)" in str(refusal(wrapper))


def test_what_is_no_reason(net: Net) -> None:
    import torchvision

    net.register_buffer("places", torch.zeros(3, 4, dtype=torch.uint8))
    net.scale = nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False)  # type: ignore[assignment]
    assert refusal(net) is None
    assert refusal(torch.fx.symbolic_trace(net)) is None
    assert refusal(torchvision.models.quantization.mobilenet_v2(weights=None, quantize=False)) is None
    half = copy.deepcopy(net).to(torch.bfloat16)
    assert refusal(half) is None


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel])
def test_traces_of_wrapped_models(net: Net, sample: Tensor, wrap: Callable[[nn.Module], nn.Module]) -> None:
    expected = spadelens.extract_trace(net, sample, **OPTIONS)
    model = wrap(net)
    model(sample.unsqueeze(0))
    names = [name for name, _ in model.named_modules()]
    found = spadelens.extract_trace(model, sample, **OPTIONS)
    several = spadelens.extract_traces(model, [sample, sample], **OPTIONS)[1]
    group = spadelens.extract_group_trace(model, [sample], target=1, **OPTIONS)
    for trace in (found, several, group):
        assert trace.original_model is net
    for trace in (found, several):
        assert trace.weights.keys() == expected.weights.keys() == {"second", "head"}
        for name, weight in expected.weights.items():
            torch.testing.assert_close(trace.weights[name], weight)
    assert [name for name, _ in model.named_modules()] == names
    dense = net.second.weight.clone()
    with found.applied(model) as sparse:
        assert sparse is net
        assert torch.equal(net.second.weight, found.weights["second"])
    assert torch.equal(net.second.weight, dense)


def test_traces_of_compiled_models_are_saved_and_loaded(net: Net, sample: Tensor, tmp_path: Any) -> None:
    trace = spadelens.extract_trace(compiled(net), sample, **OPTIONS)
    trace.save(tmp_path / "a.safetensors")
    loaded = spadelens.Trace.load(tmp_path / "a.safetensors", compiled(net))
    assert loaded.original_model is net
    assert torch.equal(loaded.weights["second"], trace.weights["second"])
    assert spadelens.Trace.load(tmp_path / "a.safetensors", net).report == trace.report


def test_attribution_and_visualization_of_compiled_models(net: Net, sample: Tensor) -> None:
    model = compiled(net)
    model(sample.unsqueeze(0))
    for method in ("saliency", "integrated_gradients"):
        expected = spadelens.attribute(net, sample, method).values
        torch.testing.assert_close(spadelens.attribute(model, sample, method).values, expected)
    torch.testing.assert_close(score_cam(model, sample, 1), score_cam(net, sample, 1))
    ascent = spadelens.visualization.Ascent(num_steps=2)
    expected = spadelens.visualize(net, "second:1", (3, 16, 16), ascent).images
    torch.testing.assert_close(spadelens.visualize(model, "second:1", (3, 16, 16), ascent).images, expected)


@pytest.mark.parametrize("is_in_place", [False, True])
def test_compiled_parts_are_seen(net: Net, sample: Tensor, is_in_place: bool) -> None:
    """Hooks of parts that are compiled are never called: a trace of such a model used to have nothing to prune."""
    expected = spadelens.extract_trace(Wrapper(net), sample, **OPTIONS)
    inner = copy.deepcopy(net)
    if is_in_place:
        inner.compile(backend="eager")
        wrapper, prefix = Wrapper(inner), "inner."
    else:
        wrapper, prefix = Wrapper(compiled(inner)), "inner._orig_mod."
    wrapper(sample.unsqueeze(0))
    trace = spadelens.extract_trace(wrapper, sample, **OPTIONS)
    assert trace.weights.keys() == {f"{prefix}second", f"{prefix}head"}
    torch.testing.assert_close(trace.weights[f"{prefix}second"], expected.weights["inner.second"])
    dense, sparse = wrapper(sample.unsqueeze(0)), spadelens.attribute(trace, sample, "saliency")
    torch.testing.assert_close(wrapper(sample.unsqueeze(0)), dense)
    torch.testing.assert_close(sparse.values, spadelens.attribute(expected, sample, "saliency").values)

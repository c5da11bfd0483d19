"""Traces: applied, copied, written and read."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spadelens.attribution.attribution import attribute
from spadelens.errors import OutputError, TraceFormatError, TraceMismatchError
from spadelens.extraction.extraction import extract_trace
from spadelens.extraction.storage import FORMAT, fingerprint, read_trace
from spadelens.extraction.trace import Trace, swapped_weights
from spadelens.private_copy import private_copy

SAMPLE = torch.linspace(-1, 1, 3 * 7 * 5).view(3, 7, 5)


def make_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, (2, 3), groups=2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(24, 3)).to(dtype)


def make_trace(model: nn.Module, schedule: object = 0.6) -> Trace:
    return extract_trace(model, SAMPLE, num_views=9, schedule=schedule, seed=3)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return make_model()


@pytest.fixture(scope="module")
def trace(model: nn.Module) -> Trace:
    return make_trace(model)


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(model: nn.Module, before: dict[str, Tensor]) -> None:
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_applied_holds_the_sparse_weights_and_restores(model: nn.Module, trace: Trace) -> None:
    before, parameters = bits(model), list(model.parameters())
    pointers = [parameter.data_ptr() for parameter in parameters]
    with trace.applied(model) as sparse:
        assert sparse is model
        for name, weight in trace.weights.items():
            assert torch.equal(model.get_submodule(name).weight, weight)
            assert (model.get_submodule(name).weight[trace.pruned[name]] == 0).all()
        assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert_same_bits(model, before)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert [parameter.data_ptr() for parameter in parameters] == pointers


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_applied_restores_after_an_exception(model: nn.Module, trace: Trace, error: type[BaseException]) -> None:
    before = bits(model)
    with pytest.raises(error), trace.applied(model):
        raise error
    assert_same_bits(model, before)


def test_applied_to_another_instance(trace: Trace) -> None:
    other = make_model()
    before = bits(other)
    with trace.applied(other):
        assert torch.equal(other[5].weight, trace.weights["5"])
        with pytest.raises(TraceMismatchError, match="not made from this model"), trace.applied(other):
            raise AssertionError("applied twice")
    assert_same_bits(other, before)


def test_gradients_flow_within_applied(trace: Trace) -> None:
    model = make_model()
    sample = SAMPLE[None].clone().requires_grad_()
    with trace.applied(model.eval()):
        model(sample)[0, 1].backward()
    expected = SAMPLE[None].clone().requires_grad_()
    trace.sparse_copy().eval()(expected)[0, 1].backward()
    torch.testing.assert_close(sample.grad, expected.grad)


def test_applied_counts_within_autocast(trace: Trace) -> None:
    """Autocast keeps converted weights by the identity of the parameter, which is the same for both models."""
    model, sparse, sample = make_model().eval(), trace.sparse_copy().eval(), SAMPLE[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        original, expected = model(sample), sparse(sample)
        assert not torch.equal(original, expected)
        with trace.applied(model):
            assert torch.equal(model(sample), expected)
        assert torch.equal(model(sample), original)


def test_swapping_an_unknown_layer_swaps_nothing(model: nn.Module) -> None:
    before = bits(model)
    with pytest.raises(KeyError), swapped_weights(private_copy(model), {"5": torch.zeros(3, 24), "x": torch.zeros(1)}):
        raise AssertionError
    assert_same_bits(model, before)


def test_model_is_an_independent_copy() -> None:
    model = make_model()
    trace = make_trace(model)
    before = bits(model)
    sparse = trace.sparse_copy()
    for name, weight in trace.weights.items():
        assert torch.equal(sparse.get_submodule(name).weight, weight)
    with torch.no_grad():
        for parameter in sparse.parameters():
            parameter.fill_(7.0)
    assert_same_bits(model, before)
    assert not any((weight == 7.0).any() for weight in trace.weights.values())
    assert torch.equal(trace.sparse_copy()[3].weight, trace.weights["3"])


@pytest.mark.parametrize("name", ["5.bias", "1.running_mean", "0.weight", "1.num_batches_tracked"])
def test_a_changed_model_is_refused(trace: Trace, name: str) -> None:
    model = make_model()
    model.state_dict()[name].add_(1)
    with pytest.raises(TraceMismatchError, match="parameters or buffers differ"), trace.applied(model):
        raise AssertionError
    with pytest.raises(TraceMismatchError):
        Trace(model, trace.weights, trace.pruned, trace.report, trace.model_fingerprint)
    own = make_model()
    of_own = make_trace(own)
    own.state_dict()[name].add_(1)
    for use in (of_own.sparse_copy, lambda: attribute(of_own, SAMPLE, "saliency")):
        with pytest.raises(TraceMismatchError):
            use()


def test_fingerprints() -> None:
    model = make_model()
    assert fingerprint(model) == fingerprint(make_model()) == fingerprint(model.eval())
    assert fingerprint(model.to(memory_format=torch.channels_last)) == fingerprint(make_model())
    assert fingerprint(model) != fingerprint(make_model(1))
    assert fingerprint(make_model()) != fingerprint(make_model().double())
    # Values alone do not make a model: names and shapes count.
    assert fingerprint(nn.ParameterDict({"a": torch.zeros(2, 3)})) != fingerprint(
        nn.ParameterDict({"a": torch.zeros(6)})
    )
    assert fingerprint(nn.ParameterDict({"a": torch.zeros(2)})) != fingerprint(nn.ParameterDict({"b": torch.zeros(2)}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_file_holds_the_trace_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    model = make_model(dtype=dtype)
    trace = make_trace(model)
    path = tmp_path / "trace.safetensors"
    trace.save(path)
    loaded = Trace.load(str(path), model)
    assert list(loaded.weights) == list(trace.weights) == list(loaded.pruned)
    for name in trace.weights:
        assert loaded.weights[name].dtype == dtype
        assert torch.equal(loaded.weights[name], trace.weights[name])
        assert torch.equal(loaded.pruned[name], trace.pruned[name])
    assert loaded.report == trace.report
    assert json.dumps(loaded.report.to_dict()) == json.dumps(trace.report.to_dict())
    assert loaded.model_fingerprint == trace.model_fingerprint
    assert list(tmp_path.iterdir()) == [path]


def test_weights_that_are_zero_but_kept_stay_kept(tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        model[5].weight[:, :12] = 0.0
    trace = extract_trace(model, SAMPLE, solver="magnitude", schedule=0.2, num_views=2)
    trace.save(tmp_path / "t")
    loaded = Trace.load(tmp_path / "t", model)
    assert torch.equal(loaded.pruned["5"], trace.pruned["5"])
    assert ((loaded.weights["5"] == 0) & ~loaded.pruned["5"]).any()


def test_the_size_of_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(105, 400), nn.ReLU(), nn.Linear(400, 300), nn.Linear(300, 3))
    trace = make_trace(model, schedule={"*": 0.9})
    trace.save(tmp_path / "t")
    num_weights = sum(weight.numel() for weight in trace.weights.values())
    kept = sum(int((~pruned).sum()) for pruned in trace.pruned.values())
    assert num_weights == 105 * 400 + 400 * 300 + 900
    assert num_weights / 8 + 4 * kept <= (tmp_path / "t").stat().st_size <= num_weights / 8 + 4 * kept + 8192


def test_a_trace_without_pruned_layers(tmp_path: Path) -> None:
    model = make_model()
    trace = make_trace(model, schedule=0.0)
    trace.save(tmp_path / "t")
    loaded = Trace.load(tmp_path / "t", model)
    assert dict(loaded.weights) == {} and loaded.report == trace.report
    with loaded.applied(model):
        pass


def test_another_model_is_refused(tmp_path: Path, trace: Trace) -> None:
    trace.save(tmp_path / "t")
    for other in (make_model(1), make_model().double(), nn.Linear(2, 2)):
        with pytest.raises(TraceMismatchError, match="not made from this model"):
            Trace.load(tmp_path / "t", other)


def test_files_that_are_not_there(tmp_path: Path, model: nn.Module, trace: Trace) -> None:
    with pytest.raises(FileNotFoundError, match="find a trace at"):
        Trace.load(tmp_path / "none", model)
    with pytest.raises(FileNotFoundError):
        Trace.load(tmp_path, model)
    with pytest.raises(OutputError, match=r"Cannot write .*nowhere"):
        trace.save(tmp_path / "nowhere" / "t")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_output_error(tmp_path: Path, trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **keywords: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("spadelens.extraction.storage.save_file", fail)
    with pytest.raises(OutputError, match=r"Cannot write .*No space left"):
        trace.save(tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_garbage_is_refused(tmp_path: Path, model: nn.Module, trace: Trace) -> None:
    path = tmp_path / "t"
    for content in (b"", b"x", b"\x00" * 64, b"garbage" * 100, b"{}", b"\xff" * 200):
        path.write_bytes(content)
        with pytest.raises(TraceFormatError, match=r"Cannot read .* as a trace"):
            Trace.load(path, model)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(TraceFormatError, match=f"expected the format '{FORMAT}', got None"):
        Trace.load(path, model)
    save_file({"a": torch.zeros(2)}, path, metadata={"format": "spadelens-trace-0"})
    with pytest.raises(TraceFormatError, match="got 'spadelens-trace-0'"):
        Trace.load(path, model)


@pytest.fixture(scope="module")
def content(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("trace") / "t"
    trace.save(path)
    return path.read_bytes()


@settings(max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fraction=st.floats(0.0, 1.0, exclude_max=True))
def test_truncated_files_are_refused(tmp_path: Path, content: bytes, fraction: float) -> None:
    path = tmp_path / "t"
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(TraceFormatError):
        read_trace(path)


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fraction=st.floats(0.0, 1.0, exclude_max=True), change=st.integers(1, 255))
def test_a_changed_byte_is_refused(tmp_path: Path, content: bytes, fraction: float, change: int) -> None:
    damaged = bytearray(content)
    damaged[int(fraction * len(content))] ^= change
    path = tmp_path / "t"
    path.write_bytes(bytes(damaged))
    try:
        weights, pruned, header = read_trace(path)
    except TraceFormatError:
        return
    path.write_bytes(content)  # a blank that is another blank changes nothing
    before_weights, before_pruned, before = read_trace(path)
    assert (header.model_fingerprint, header.report) == (before.model_fingerprint, before.report)
    for name, weight in before_weights.items():
        assert torch.equal(weights[name], weight) and torch.equal(pruned[name], before_pruned[name])


def rewrite(path: Path, **changes: object) -> None:
    with safe_open(path, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, value in changes.items():
        if isinstance(value, str):
            metadata[name] = value
        elif value is None:
            metadata.pop(name, None) or tensors.pop(name)
        else:
            tensors[name] = value
    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize(
    "changes",
    [
        {"report": "{}"},
        {"report": "[]"},
        {"report": "null"},
        {"report": "{"},
        {"report": None},
        {"model_fingerprint": None},
        {"5.values": None},
        {"5.kept": None},
        {"5.values": torch.zeros(1)},
        {"5.values": torch.zeros(72)},
        {"5.kept": torch.zeros(1, dtype=torch.uint8)},
        {"5.kept": torch.zeros(9, dtype=torch.float32)},
    ],
)
def test_files_with_another_content_are_refused(tmp_path: Path, content: bytes, changes: dict[str, object]) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    rewrite(path, **changes)
    with pytest.raises(TraceFormatError):
        read_trace(path)


@pytest.mark.parametrize("text", ["Infinity", '"abc"', "[[2]]", "-3", "3.5", "[1000000000, 1000000000]"])
def test_a_shape_that_is_none_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    with safe_open(path, framework="pt") as file:
        report = file.metadata()["report"]
    data = json.loads(report)
    data["layers"][-1]["shape"] = json.loads(text)
    rewrite(path, report=json.dumps(data))
    with pytest.raises(TraceFormatError):
        read_trace(path)

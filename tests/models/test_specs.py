"""Model specs: what leads to a model, and one clear sentence for everything that does not."""

import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from PIL import Image
from references.specs import refused
from safetensors.torch import save_file
from torch import nn

from spadelens import models
from spadelens.demo.images import CLASS_NAMES
from spadelens.errors import DeviceError, InputError, ModelSpecError, UnknownNameError
from spadelens.models import LoadedModel, choose_device, load_model

RESNET = "torchvision:resnet18"


def test_demo() -> None:
    loaded = load_model("demo", "cpu")
    assert load_model("demo", "cpu", kind="photo").class_names == loaded.class_names == CLASS_NAMES
    assert loaded.preprocessing.crop_px == (64, 64)
    assert not any(module.training for module in loaded.model.modules())
    assert loaded.class_name(3) == "triangle"
    assert loaded.class_name(10) == "class 10"
    assert loaded.spec == "demo"


def test_loading_leaves_random_states() -> None:
    before = torch.get_rng_state()
    load_model("demo", "cpu")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("/nowhere/net.py:build", "There is no file '/nowhere/net.py'"),
        ("dmo", "Cannot read the model spec 'dmo'"),
        ("", "Cannot read the model spec ''"),
        ("net.py", "'net.py' does not say which function makes the model"),
        ("torchvison:resnet_18", "torchvision:NAME"),
        ("torchvision:resnet5", "Did you mean"),
        ("torchvision:", "Unknown torchvision model ''"),
        ("torchvision:resnet18@/nowhere/w.safetensors", "There is no checkpoint at '/nowhere/w.safetensors'"),
    ],
)
def test_unknown_specs(spec: str, expected: str) -> None:
    assert expected in refused(spec)


def test_near_names() -> None:
    assert "'demo'" in refused("dmeo")
    with pytest.raises(UnknownNameError, match="'resnet50'"):
        load_model("torchvision:resnet_50", "cpu")
    with pytest.raises(UnknownNameError, match="Did you mean 'mobilenet_v2'"):
        load_model("torchvision:mobilenet2", "cpu")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("resnet50", "'torchvision:resnet50' or 'timm:resnet50'"),
        ("ResNet50", "'torchvision:resnet50' or 'timm:resnet50'"),
        ("torchvison:resnet50", "'torchvision:resnet50' or 'timm:resnet50'"),
        ("resnet50@w.pt", "'torchvision:resnet50@w.pt' or 'timm:resnet50@w.pt'"),
        ("alexnet", "'torchvision:alexnet'"),
        ("test_resnet", "'timm:test_resnet'"),
        ("test_resnet.r160_in1k", "'timm:test_resnet.r160_in1k'"),
    ],
)
def test_names_without_their_source(spec: str, expected: str) -> None:
    pytest.importorskip("timm")
    assert refused(spec) == f"Cannot read the model spec {spec!r}. Did you mean {expected}?"


def test_names_without_their_source_where_timm_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spadelens.models.specs.find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refused("resnet50") == "Cannot read the model spec 'resnet50'. Did you mean 'torchvision:resnet50'?"
    assert "expected 'demo'" in refused("test_resnet")


def test_tags_that_do_not_exist_are_not_suggested() -> None:
    pytest.importorskip("timm")
    assert "Did you mean" not in refused("test_resnet.nothing")


@pytest.fixture(scope="module")
def resnet_state() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.resnet18().state_dict()


def test_torchvision_with_safetensors(tmp_path: Path, resnet_state: dict[str, torch.Tensor]) -> None:
    save_file(resnet_state, tmp_path / "w.safetensors")
    loaded = load_model(f"{RESNET}@{tmp_path}/w.safetensors", "cpu", kind="photo")
    assert all(torch.equal(value, resnet_state[name]) for name, value in loaded.model.state_dict().items())
    assert loaded.preprocessing.crop_px == (224, 224)
    assert loaded.preprocessing.resize_px == 256
    assert loaded.preprocessing.resampling is Image.Resampling.BILINEAR
    assert loaded.preprocessing.mean == (0.485, 0.456, 0.406)
    assert len(loaded.class_names) == 1000
    assert loaded.class_names[0] == "tench"
    assert not loaded.model.training
    content = (tmp_path / "w.safetensors").read_bytes()
    for length in (0, 4, 100, len(content) // 2):
        (tmp_path / "cut.safetensors").write_bytes(content[:length])
        message = refused(f"{RESNET}@{tmp_path}/cut.safetensors")
        assert "Cannot read the checkpoint" in message


def test_counts_of_batches_may_be_missing(tmp_path: Path, resnet_state: dict[str, torch.Tensor]) -> None:
    kept = {name: value for name, value in resnet_state.items() if not name.endswith("num_batches_tracked")}
    save_file(kept, tmp_path / "w.safetensors")
    assert load_model(f"{RESNET}@{tmp_path}/w.safetensors", "cpu").model


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_torchvision_with_pickled_tensors(tmp_path: Path, resnet_state: dict[str, torch.Tensor], wrap: Any) -> None:
    torch.save(wrap(resnet_state), tmp_path / "w.pt")
    loaded = load_model(f"{RESNET}@{tmp_path}/w.pt", "cpu")
    assert torch.equal(loaded.model.fc.weight, resnet_state["fc.weight"])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: {**s, "fc.weight": torch.zeros(10, 500)}, "size mismatch for fc.weight"),
        (lambda s: {k: v for k, v in s.items() if not k.startswith("fc")}, r"2 missing (first: 'fc.weight'), 0 unexp"),
        (lambda s: {**s, "head.weight": torch.zeros(1)}, "0 missing, 1 unexpected (first: 'head.weight')"),
        (lambda s: {}, "missing"),
    ],
)
def test_checkpoints_that_do_not_fit(
    tmp_path: Path, resnet_state: dict[str, torch.Tensor], change: Any, expected: str
) -> None:
    torch.save(change(resnet_state), tmp_path / "w.pt")
    message = refused(f"{RESNET}@{tmp_path}/w.pt")
    assert "does not fit" in message
    assert expected in message


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_code_in_a_checkpoint_runs_only_when_trusted(
    tmp_path: Path, resnet_state: dict[str, torch.Tensor], protocol: str
) -> None:
    mark, path = tmp_path / "was_here", tmp_path / "w.pt"
    if protocol == "torch":
        torch.save({"state_dict": resnet_state, "note": Payload(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"note": Payload(mark)}))
    message = refused(f"{RESNET}@{path}")
    assert not mark.exists()
    assert "run code" in message
    assert "--trust" in message
    assert "safetensors" in message
    if protocol == "torch":
        loaded = load_model(f"{RESNET}@{path}", "cpu", trust=True)
        assert mark.exists()
        assert torch.equal(loaded.model.fc.weight, resnet_state["fc.weight"])  # type: ignore[union-attr]


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x02K\x01.", b"PK\x03\x04" + b"\0" * 40])
def test_damaged_pickles(tmp_path: Path, content: bytes, trust: bool) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    assert "w.pt" in refused(f"{RESNET}@{tmp_path}/w.pt", trust)


@pytest.mark.parametrize("content", [[1, 2], {"a": 3}, {"state_dict": {"a": "text"}}, torch.zeros(3)])
def test_pickles_of_something_else(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    assert "does not hold a state dictionary" in refused(f"{RESNET}@{tmp_path}/w.pt")


def test_trusted_checkpoints_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    module = types.ModuleType("spadelens_test_gone")
    module.Net = type("Net", (), {"__module__": "spadelens_test_gone"})  # type: ignore[attr-defined]
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "spadelens_test_gone", module)
        torch.save(module.Net(), tmp_path / "w.pt")
    assert "w.pt" in refused(f"{RESNET}@{tmp_path}/w.pt", trust=True)


def test_keys_that_are_no_texts(tmp_path: Path) -> None:
    torch.save({0: torch.zeros(3)}, tmp_path / "w.pt")
    assert "w.pt" in refused(f"{RESNET}@{tmp_path}/w.pt")


@pytest.mark.parametrize("error", [URLError("no route"), ConnectionResetError(104, "reset"), RuntimeError("bad hash")])
def test_download_that_fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", download)
    message = refused(RESNET)
    assert "Cannot download the weights of 'torchvision:resnet18'" in message
    assert "torchvision:resnet18@FILE.safetensors" in message


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_models_with_two_heads_load_without_warnings(tmp_path: Path, name: str) -> None:
    with torch.device("meta"):
        state = torchvision.models.get_model(name, weights=None, init_weights=False).state_dict()
    zeros = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in state.items()}
    save_file(zeros, tmp_path / "w.safetensors")
    assert load_model(f"torchvision:{name}@{tmp_path}/w.safetensors", "cpu").model


@pytest.mark.parametrize("device", ["cuda:99", "fpga", "nonsense", "", "cpu:-1", "xla"])
def test_devices_that_are_not_there(device: str) -> None:
    with pytest.raises(DeviceError, match="Cannot use the device") as caught:
        choose_device(device)
    assert "Use --device cpu or auto." in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_cuda_without_one() -> None:
    with pytest.raises(DeviceError, match="Cannot use the device 'cuda'"):
        load_model("demo", "cuda")


@pytest.mark.parametrize("device", ["meta", "hpu", "privateuseone"])
def test_devices_that_cannot_compute(device: str) -> None:
    with pytest.raises(DeviceError):
        choose_device(device)


def test_auto_device() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


def test_class_names_beyond_the_last() -> None:
    loaded = LoadedModel("x", nn.Identity(), models.Preprocessing((8, 8), (0.5,), (0.5,)), ("a",))
    assert [loaded.class_name(index) for index in (0, 1)] == ["a", "class 1"]
    assert issubclass(ModelSpecError, InputError)


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, spadelens.models\n"
        "print([name for name in ('timm', 'transformers', 'huggingface_hub', 'torchvision') if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (finished.stdout, finished.stderr) == ("[]\n", "")


def scripted(module: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it is deprecated
        return torch.jit.script(module)


@pytest.mark.parametrize("trust", [False, True])
def test_scripted_archives(tmp_path: Path, trust: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it is deprecated
        torch.jit.save(scripted(nn.Linear(2, 3)), tmp_path / "w.pt")
    message = refused(f"{RESNET}@{tmp_path}/w.pt", trust)
    assert "is TorchScript" in message
    assert "eager module" in message


def test_files_of_weights_alone(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "w.pt")
    message = refused(str(tmp_path / "w.pt"))
    assert "holds weights but not the code of the model" in message
    assert f"torchvision:NAME@{tmp_path}/w.pt" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_half_precision_stays(
    tmp_path: Path, resnet_state: dict[str, torch.Tensor], dtype: torch.dtype, suffix: str
) -> None:
    half = {name: value.to(dtype) if value.is_floating_point() else value for name, value in resnet_state.items()}
    (save_file if suffix == "safetensors" else torch.save)(half, tmp_path / f"w.{suffix}")
    model = load_model(f"{RESNET}@{tmp_path}/w.{suffix}", "cpu").model
    assert {value.dtype for value in model.parameters()} == {dtype}
    assert all(torch.equal(value, half[name]) for name, value in model.state_dict().items())


def test_mixed_precision_is_widened(tmp_path: Path, resnet_state: dict[str, torch.Tensor]) -> None:
    mixed = {**resnet_state, "fc.weight": resnet_state["fc.weight"].half()}
    torch.save(mixed, tmp_path / "w.pt")
    model = load_model(f"{RESNET}@{tmp_path}/w.pt", "cpu").model
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert torch.equal(model.get_parameter("fc.weight"), mixed["fc.weight"].float())


def test_devices_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(nn.Module, "to", fail)
    with pytest.raises(DeviceError, match=r"Cannot move 'demo' to the device 'cpu': CUDA out of memory\. Use --device"):
        load_model("demo", "cpu")

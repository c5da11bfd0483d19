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
from safetensors.torch import save_file
from torch import nn

from spadelens import models
from spadelens.demo.images import CLASS_NAMES
from spadelens.errors import DeviceError, InputError, ModelSpecError, UnknownNameError
from spadelens.models import LoadedModel, choose_device, load_model

TINY = """
import torch
from torch import nn
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
"""
RESNET = "torchvision:resnet18"


def write(folder: Path, text: str, name: str = "net.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def refused(spec: str, trust: bool = False) -> str:
    path = list(sys.path)
    with pytest.raises(InputError) as caught:
        load_model(spec, "cpu", trust)
    message = str(caught.value)
    assert "\n" not in message
    assert sys.path == path
    return message


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


def test_factory(tmp_path: Path) -> None:
    text = TINY + "INPUT_SIZE = (2, 3)\nMEAN = [0.5]\nSTD = [2]\nCLASS_NAMES = ['a', 'b']\n"
    path = list(sys.path)
    loaded = load_model(f"{write(tmp_path, text)}:build", "cpu", kind="photo")
    assert loaded.preprocessing.crop_px == (2, 3)
    assert loaded.preprocessing.mean == (0.5,)
    assert loaded.preprocessing.std == (2.0,)
    assert loaded.class_names == ("a", "b")
    assert not loaded.model.training
    assert sys.path == path


def test_factory_without_constants(tmp_path: Path) -> None:
    loaded = load_model(f"{write(tmp_path, TINY)}:build", "cpu", kind="photo")
    assert loaded.preprocessing.crop_px == (224, 224)
    assert loaded.preprocessing.mean == (0.485, 0.456, 0.406)
    assert loaded.preprocessing.std == (0.229, 0.224, 0.225)
    assert loaded.class_names == ()
    assert loaded.class_name(0) == "class 0"
    square = load_model(f"{write(tmp_path, TINY + 'INPUT_SIZE = 32', 'b.py')}:build", "cpu", kind="photo")
    assert square.preprocessing.crop_px == (32, 32)


def test_factory_with_siblings_and_dataclasses(tmp_path: Path) -> None:
    write(tmp_path, "WIDTH = 12\n", "spadelens_test_sibling.py")
    text = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
from spadelens_test_sibling import WIDTH
@dataclass
class Config:
    width: int = WIDTH
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(Config().width, 3))
"""
    path = list(sys.path)
    try:
        loaded = load_model(f"{write(tmp_path, text, 'my net.v2.py')}:build", "cpu")
    finally:
        sys.modules.pop("spadelens_test_sibling", None)
    assert loaded.model[1].in_features == 12  # type: ignore[index]
    assert sys.path == path


def test_a_class_is_a_factory(tmp_path: Path) -> None:
    text = "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(2, 3)\n"
    assert isinstance(load_model(f"{write(tmp_path, text)}:Net", "cpu").model, nn.Linear)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def build(:\n", "SyntaxError"),
        ("import no_such_module_at_all\n", "ModuleNotFoundError"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("x = 1\n", "has no function 'build'"),
        ("build = 3\n", "has no function 'build'"),
        ("def biuld(): pass\n", "Did you mean 'biuld'?"),
        ("def build():\n    raise KeyError('weights')\n", "failed: KeyError: 'weights'"),
        ("def build(size): pass\n", "failed: TypeError"),
        ("def build(): return None\n", "returned a NoneType: expected a torch.nn.Module"),
        ("def build(): return {}\n", "returned a dict"),
        (TINY + "INPUT_SIZE = 'big'\n", "INPUT_SIZE='big'"),
        (TINY + "INPUT_SIZE = (3, 224, 224)\n", "INPUT_SIZE=(3, 224, 224)"),
        (TINY + "INPUT_SIZE = 224.0\n", "INPUT_SIZE=224.0"),
        (TINY + "INPUT_SIZE = 0\n", "INPUT_SIZE=0"),
        (TINY + "INPUT_SIZE = (8, -8)\n", "INPUT_SIZE=(8, -8)"),
        (TINY + "INPUT_SIZE = None\n", "INPUT_SIZE=None"),
        (TINY + "MEAN = 0.5\n", "MEAN=0.5"),
        (TINY + "MEAN = [0.5, 0.5]\n", "MEAN=[0.5, 0.5]"),
        (TINY + "MEAN = ['a', 'b', 'c']\n", "MEAN=['a', 'b', 'c']"),
        (TINY + "STD = [0, 1, 1]\n", "STD=[0, 1, 1]"),
        (TINY + "STD = [float('nan')] * 3\n", "STD=[nan, nan, nan]"),
        (TINY + "CLASS_NAMES = 'abc'\n", "CLASS_NAMES"),
        (TINY + "CLASS_NAMES = [1, 2, 3]\n", "CLASS_NAMES"),
        (TINY + "CLASS_NAMES = {'a': 1}\n", "CLASS_NAMES"),
    ],
)
def test_broken_factories(tmp_path: Path, text: str, expected: str) -> None:
    message = refused(f"{write(tmp_path, text)}:build")
    assert expected in message
    assert "net.py" in message


@pytest.mark.parametrize(
    "text",
    [
        "def build():\n    raise RuntimeError('Error(s) in loading:\\n\\tsize mismatch for fc.weight')\n",
        "raise RuntimeError('one\\ntwo')\n",
        "import sys\nsys.exit(3)\n",
        "import sys\ndef build():\n    sys.exit(3)\n",
    ],
)
def test_factories_that_fail_in_several_lines_or_exit(tmp_path: Path, text: str) -> None:
    assert "net.py" in refused(f"{write(tmp_path, text)}:build")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("/nowhere/net.py:build", "There is no file '/nowhere/net.py'"),
        ("dmo", "Cannot read the model spec 'dmo'"),
        ("", "Cannot read the model spec ''"),
        ("net.py", "'net.py' does not say which function makes the model"),
        ("torchvison:resnet18", "torchvision:NAME"),
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


def test_factories_that_draw_leave_random_states(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    load_model(f"{write(tmp_path, TINY)}:build", "cpu")
    text = TINY + "def seeded():\n    torch.manual_seed(3)\n    return build()\n"
    load_model(f"{write(tmp_path, text, 'b.py')}:seeded", "cpu")
    assert torch.equal(torch.get_rng_state(), before)


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


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("torch.jit.script(nn.Linear(2, 3))", "it is TorchScript"),
        ("nn.Sequential(torch.jit.script(nn.Linear(2, 3)))", "'0' in it is TorchScript"),
        ("torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 3)))", "'0' in it is quantized"),
    ],
)
def test_factories_of_models_that_cannot_be_traced(tmp_path: Path, body: str, expected: str) -> None:
    text = (
        "import torch, warnings\nfrom torch import nn\ndef build():\n    with warnings.catch_warnings():\n"
        f"        warnings.simplefilter('ignore')\n        return {body}\n"
    )
    spec = f"{write(tmp_path, text)}:build"
    assert f"Cannot make traces of {spec!r}: {expected}" in refused(spec)


@pytest.mark.parametrize("wrap", ["torch.compile(build(), backend='eager')", "nn.DataParallel(build())"])
def test_factories_of_wrapped_models(tmp_path: Path, wrap: str) -> None:
    spec = write(tmp_path, TINY + f"def wrapped(): return {wrap}\n")
    state = {"1.weight": torch.ones(3, 12), "1.bias": torch.zeros(3)}
    save_file(state, tmp_path / "w.safetensors")
    loaded = load_model(f"{spec}:wrapped@{tmp_path}/w.safetensors", "cpu")
    assert isinstance(loaded.model, nn.Sequential)
    assert torch.equal(loaded.model.get_parameter("1.weight"), state["1.weight"])


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

"""Models that a function in the user's own file builds."""

import sys
from pathlib import Path

import pytest
import torch
from references.specs import refused
from safetensors.torch import save_file
from torch import nn

from spadelens.models import load_model

TINY = """
import torch
from torch import nn
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
"""


def write(folder: Path, text: str, name: str = "net.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


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


def test_factories_that_draw_leave_random_states(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    load_model(f"{write(tmp_path, TINY)}:build", "cpu")
    text = TINY + "def seeded():\n    torch.manual_seed(3)\n    return build()\n"
    load_model(f"{write(tmp_path, text, 'b.py')}:seeded", "cpu")
    assert torch.equal(torch.get_rng_state(), before)


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

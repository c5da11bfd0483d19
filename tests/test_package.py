"""What `import spadelens` gives, and that it is cheap."""

import subprocess
import sys
from types import FunctionType, ModuleType

import pytest

import spadelens


def run(code: str) -> str:
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stderr == ""
    return finished.stdout


def test_import_is_cheap_and_lazy() -> None:
    heavy = "('torch', 'torchvision', 'numpy', 'captum', 'PIL', 'matplotlib', 'safetensors', 'jinja2', 'rich')"
    assert run(f"import sys, spadelens; print([name for name in {heavy} if name in sys.modules])") == "[]\n"
    assert run(f"import sys, spadelens.cli.main; print([n for n in {heavy} if n in sys.modules])") == "[]\n"


def test_import_changes_no_global_setting() -> None:
    code = """
import os, random, signal, sys, warnings
import numpy, torch
def look():
    return (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist(), torch.get_num_threads(),
            torch.is_grad_enabled(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark, signal.getsignal(signal.SIGTERM),
            signal.getsignal(signal.SIGINT), list(warnings.filters), dict(os.environ), list(sys.path))
before = look()
import spadelens
for name in spadelens.__all__: getattr(spadelens, name)
after = look()
print([a == b for a, b in zip(before, after)])
"""
    assert "False" not in run(code)


PACKAGES = [
    spadelens,
    *(value for name in spadelens.__all__ if isinstance(value := getattr(spadelens, name), ModuleType)),
]


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package in PACKAGES for name in getattr(package, "__all__", ())]
)
def test_every_public_name_resolves_and_is_documented(package: ModuleType, name: str) -> None:
    value = getattr(package, name)
    assert name in dir(package)
    if isinstance(value, FunctionType | type):
        assert value.__doc__, name
        assert getattr(value, "__name__", name) == name
        assert value.__module__.startswith("spadelens.")


def test_the_top_level_is_small() -> None:
    names = [name for name in spadelens.__all__ if not isinstance(getattr(spadelens, name), ModuleType)]
    assert len(names) <= 40, names


def test_star_import_and_order() -> None:
    namespace: dict[str, object] = {}
    exec("from spadelens import *", namespace)
    assert set(spadelens.__all__) <= set(namespace)
    assert len(set(spadelens.__all__)) == len(spadelens.__all__)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="No spadelens attribute nothing"):
        _ = spadelens.nothing  # type: ignore[attr-defined]
    assert not hasattr(spadelens, "torch")

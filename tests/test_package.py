"""What `import spadelens` gives, and that it is cheap."""

import subprocess
import sys

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


@pytest.mark.parametrize("name", spadelens.__all__)
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(spadelens, name)
    assert name in dir(spadelens)
    if isinstance(value, type) or callable(value):
        assert value.__doc__, name
        assert getattr(value, "__name__", name) == name
        assert value.__module__.startswith("spadelens.")


def test_star_import_and_order() -> None:
    namespace: dict[str, object] = {}
    exec("from spadelens import *", namespace)
    assert set(spadelens.__all__) <= set(namespace)
    assert len(set(spadelens.__all__)) == len(spadelens.__all__)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'spadelens' has no attribute 'nothing'"):
        _ = spadelens.nothing  # type: ignore[attr-defined]
    assert not hasattr(spadelens, "torch")

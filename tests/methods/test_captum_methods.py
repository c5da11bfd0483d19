"""Captum is imported without a word, and the filters of warnings stay as they were."""

import subprocess
import sys

CODE = """
import sys, types, warnings
warnings.simplefilter("error")
before = list(warnings.filters)
from spadelens.methods.captum_methods import captum_method

import builtins
real = builtins.__import__
def noisy(name, *rest, **more):
    if name == "captum":
        warnings.warn("needs widgets")
    return real(name, *rest, **more)
builtins.__import__ = noisy
found = captum_method("Saliency")
builtins.__import__ = real
print(found.__module__, found is captum_method("Saliency"), warnings.filters == before)
"""


def test_captum_is_imported_without_a_word() -> None:
    finished = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert finished.stdout == "captum.attr._core.saliency True True\n"
    assert finished.stderr == ""

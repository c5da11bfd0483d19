"""Puts this folder on the import path, so that tests can import `references`; and fixtures of several folders."""

import sys
from pathlib import Path

import pytest
import torch

from spadelens.models import LoadedModel, load_model

pytest.register_assert_rewrite("references")  # so that a check of theirs that fails shows its values
torch.set_num_threads(1)  # the layers under test are small: more threads only wait for one another
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    """The network that comes with the package."""
    return load_model("demo", "cpu")

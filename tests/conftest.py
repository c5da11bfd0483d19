"""Puts this folder on the import path, so that tests can import `references`, whatever pytest's import mode."""

import sys
from pathlib import Path

import pytest
import torch

pytest.register_assert_rewrite("references")  # so that a check of theirs that fails shows its values
torch.set_num_threads(1)  # the layers under test are small: more threads only wait for one another
sys.path.insert(0, str(Path(__file__).parent))

"""Seeds for code that draws from global random states."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the global random states of torch, NumPy and Python inside the block; restores them.

    Args:
        seed: The seed.
        device: The device whose random state is seeded as well, where it has one of its own.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]), _seeded_device(seed, device):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextmanager
def _seeded_device(seed: int, device: torch.device | None) -> Iterator[None]:
    if device is not None and device.type == "cuda":
        with torch.random.fork_rng(devices=[device], device_type="cuda"), torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
            yield
    elif device is not None and device.type == "mps":
        state = torch.mps.get_rng_state()
        try:
            torch.mps.manual_seed(seed)
            yield
        finally:
            torch.mps.set_rng_state(state)
    else:
        yield


@contextmanager
def undisturbed_random_states() -> Iterator[None]:
    """Put the global random states of torch, NumPy and Python back after the block, those that it has changed.

    States that the block leaves alone are not written to, since other threads may draw from them meanwhile.
    """
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        if random.getstate() != python_state:
            random.setstate(python_state)
        if not _is_same(np.random.get_state(), numpy_state):
            np.random.set_state(numpy_state)
        if not torch.equal(torch.get_rng_state(), torch_state):
            torch.set_rng_state(torch_state)
        for number, state in enumerate(cuda_states):
            if not torch.equal(torch.cuda.get_rng_state(number), state):
                torch.cuda.set_rng_state(state, number)


def _is_same(first: Any, second: Any) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


@lru_cache(maxsize=256)
def permutation(count: int, *seed: int) -> Tensor:
    """Return the numbers below `count` in an order that `seed` determines; do not write to it."""
    return torch.from_numpy(np.random.default_rng(seed).permutation(count))

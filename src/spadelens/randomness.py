"""Seeds for code that draws from global random states."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_SEEDING = threading.RLock()


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the global random states of torch, NumPy and Python inside the block; restores them.

    For code of the user that can draw from nothing else. Such blocks of several threads run one after another; threads
    that draw without this function draw from the seeded states too.

    Args:
        seed: The seed.
        device: The device whose random state is seeded as well, where it has one of its own.
    """
    with _SEEDING:
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
    """Put the global random states of torch, NumPy and Python back after the block.

    Beside other threads, states are left as they are: nobody could tell whose draws have changed them, and a thread
    whose draws were undone would get the same numbers again.
    """
    if not is_only_thread():
        yield
        return
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        if is_only_thread():  # the block may have started others
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.set_rng_state(torch_state)
            for number, state in enumerate(cuda_states):
                torch.cuda.set_rng_state(state, number)


def generator_of(seed: int) -> torch.Generator:
    """Return a generator on the CPU that a seed of any size determines."""
    return torch.Generator().manual_seed(seed % 2**64)


def is_only_thread() -> bool:
    """Whether this thread is the only one, so that nobody else draws from the global random states."""
    return threading.active_count() == 1


@lru_cache(maxsize=256)
def permutation(count: int, *seed: int) -> Tensor:
    """Return the numbers below `count` in an order that `seed` determines; do not write to it."""
    return torch.from_numpy(np.random.default_rng(seed).permutation(count))

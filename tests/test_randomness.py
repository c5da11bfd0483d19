"""Seeds for the length of a block."""

import random

import numpy as np
import pytest
import torch

from spadelens.randomness import seeded


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(1))  # noqa: NPY002


def states() -> tuple[object, object, object]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


def test_same_seed_same_draws() -> None:
    with seeded(3):
        first = draw()
    with seeded(3):
        assert draw() == first
    with seeded(4):
        assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_states_are_restored() -> None:
    before = states()
    with seeded(3):
        draw()
    assert states() == before
    with pytest.raises(KeyError), seeded(3):
        draw()
        raise KeyError
    assert states() == before


def test_blocks_nest() -> None:
    with seeded(1):
        draw()
        expected = draw()
    with seeded(1):
        draw()
        with seeded(2):
            draw()
        assert draw() == expected


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1, 2**64 - 1])
def test_large_seeds(seed: int) -> None:
    with seeded(seed, torch.device("cpu")):
        first = draw()
    with seeded(seed):
        assert draw() == first


def test_a_seed_that_cannot_be_used_changes_nothing() -> None:
    before = states()
    with pytest.raises((RuntimeError, ValueError)), seeded(2**70):
        raise AssertionError
    assert states() == before

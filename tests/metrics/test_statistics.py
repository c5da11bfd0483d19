"""Paired differences: against all choices of signs, which for few images can be listed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spadelens.errors import InputError
from spadelens.metrics.statistics import paired_difference, standard_deviation


def test_deviation_by_hand() -> None:
    assert standard_deviation([1.0, 3.0, 5.0]) == pytest.approx(2.0)
    assert standard_deviation([1.0]) is None


@settings(max_examples=20, deadline=None, database=None)
@given(st.lists(st.integers(-500, 500).map(lambda number: number / 100), min_size=1, max_size=9))
def test_the_p_value_is_that_of_all_choices_of_signs(differences: list[float]) -> None:
    found = paired_difference(differences, [0.0] * len(differences))
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    means = np.abs(signs @ np.array(differences) / len(differences))
    observed = abs(float(np.mean(differences)))
    exact = float((means >= observed - 1e-10 * float(np.mean(np.abs(differences)))).mean())
    assert found.p_value == pytest.approx(exact, abs=0.03)
    assert found.mean == pytest.approx(float(np.mean(differences)))
    assert found.count == len(differences)


def test_equal_rows_do_not_differ_and_a_clear_gain_does() -> None:
    assert paired_difference([1.0, 2.0], [1.0, 2.0]).p_value == 1.0
    rng = np.random.default_rng(0)
    theirs = rng.normal(size=40)
    clear = paired_difference((theirs + rng.normal(1.0, 0.3, 40)).tolist(), theirs.tolist())
    assert clear.p_value < 0.001
    assert clear.standard_error == pytest.approx(0.3 / 40**0.5, rel=0.4)


def test_the_observed_signs_count_among_the_permutations() -> None:
    """Without them a clear gain would get a p-value of 0, which no finite number of permutations can show."""
    clear = paired_difference([1.0] * 60, [0.0] * 60)
    assert clear.p_value == 1 / 10_001


def test_under_the_null_hypothesis_small_p_values_are_rare() -> None:
    rng = np.random.default_rng(1)
    p_values = [
        paired_difference(rng.normal(size=12).tolist(), rng.normal(size=12).tolist()).p_value for _ in range(200)
    ]
    assert 0.01 <= np.mean(np.array(p_values) < 0.1) <= 0.2


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0])])
def test_rows_of_different_images_are_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(InputError, match="same images"):
        paired_difference(ours, theirs)

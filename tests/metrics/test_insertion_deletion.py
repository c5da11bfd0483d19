"""Insertion and deletion: a map that knows what counts beats one that does not; nonsense is refused."""

import pytest
import torch
from references.networks import Weighted
from torch import Tensor

from spadelens.errors import InputError
from spadelens.metrics.insertion_deletion import faithfulness

WEIGHTS = torch.zeros(8, 8)
WEIGHTS[2:4, 5:7] = 3.0


@pytest.fixture
def sample() -> Tensor:
    sample = torch.zeros(1, 8, 8)
    sample[0, 2:4, 5:7] = 1.0
    return sample


def test_the_right_map_is_better_by_both_scores(sample: Tensor) -> None:
    right = faithfulness(Weighted(WEIGHTS, -6.0), sample, WEIGHTS, 0)
    wrong = faithfulness(Weighted(WEIGHTS, -6.0), sample, -WEIGHTS, 0)
    nothing = faithfulness(Weighted(WEIGHTS, -6.0), sample, torch.zeros(8, 8), 0)
    assert right.insertion > nothing.insertion > wrong.insertion
    assert right.deletion < nothing.deletion < wrong.deletion
    assert 0 <= right.deletion < right.insertion <= 1


def test_a_flat_map_gains_nothing_by_where_the_pixels_lie() -> None:
    """Ties that are not shuffled let a map without information win wherever memory begins with what counts."""
    scores = []
    for rows in (slice(0, 2), slice(6, 8)):
        weights, sample = torch.zeros(8, 8), torch.zeros(1, 8, 8)
        weights[rows] = 0.75
        sample[0, rows] = 1.0
        scores.append(faithfulness(Weighted(weights, -6.0), sample, torch.zeros(8, 8), 0))
    first, last = scores
    assert first.insertion == pytest.approx(last.insertion, abs=0.1)
    assert first.deletion == pytest.approx(last.deletion, abs=0.1)


@pytest.mark.parametrize(
    ("heatmap", "target"),
    [(torch.zeros(8, 7), 0), (torch.full((8, 8), torch.nan), 0), (torch.zeros(8, 8), 2), (torch.zeros(1, 8, 8), 0)],
)
def test_what_does_not_fit_is_refused(sample: Tensor, heatmap: Tensor, target: int) -> None:
    with pytest.raises(InputError):
        faithfulness(Weighted(WEIGHTS, -6.0), sample, heatmap, target)


@pytest.mark.parametrize("option", [{"num_steps": 0}, {"batch_size": 0}, {"insertion_baseline": "black"}])
def test_settings_out_of_range_are_refused(sample: Tensor, option: dict[str, int]) -> None:
    with pytest.raises(InputError):
        faithfulness(Weighted(WEIGHTS, -6.0), sample, WEIGHTS, 0, **option)  # type: ignore[arg-type]

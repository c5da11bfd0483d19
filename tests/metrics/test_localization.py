"""Area under the ROC curve and pointing game, against scikit-learn and the definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import roc_auc_score
from torch import nn

from spadelens.attribution.attribution import attribute
from spadelens.errors import InputError
from spadelens.metrics.insertion_deletion import faithfulness
from spadelens.metrics.localization import Localization, localize, pixel_auc, pointing_game

SHAPES = st.tuples(st.integers(1, 7), st.integers(2, 7))


@st.composite
def maps_and_regions(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    shape = draw(SHAPES)
    # few distinct values, so that there are ties; and some that float32 can only just tell apart
    values = draw(arrays.arrays(np.float32, shape, elements=st.sampled_from([-2.0, 0.0, 0.5, 1.0, 1.0000001, 1e30])))
    region = draw(arrays.arrays(np.bool_, shape).filter(lambda region: region.any() and not region.all()))
    return torch.from_numpy(values), torch.from_numpy(region)


@given(maps_and_regions())
@settings(max_examples=150, deadline=None)
def test_auc_is_that_of_scikit_learn(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    heatmap, region = pair
    expected = roc_auc_score(region.flatten().numpy(), heatmap.flatten().numpy())
    assert pixel_auc(heatmap, region) == pytest.approx(expected, abs=1e-12)


@given(maps_and_regions())
@settings(max_examples=50, deadline=None)
def test_auc_by_definition(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    heatmap, region = pair
    inside, outside = heatmap[region].double(), heatmap[~region].double()
    above = (inside[:, None] > outside[None]).double() + 0.5 * (inside[:, None] == outside[None]).double()
    assert pixel_auc(heatmap, region) == pytest.approx(float(above.mean()), abs=1e-12)


@given(maps_and_regions(), st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=50, deadline=None)
def test_auc_knows_the_order_only(pair: tuple[torch.Tensor, torch.Tensor], scale: float, shift: float) -> None:
    heatmap, region = pair[0].clamp(-2, 2).double(), pair[1]
    expected = pixel_auc(heatmap, region)
    assert pixel_auc(heatmap * scale + shift, region) == pytest.approx(expected, abs=1e-12)
    assert pixel_auc(heatmap.exp(), region) == pytest.approx(expected, abs=1e-12)
    assert pixel_auc(-heatmap, region) == pytest.approx(1 - expected, abs=1e-12)
    assert pixel_auc(heatmap, ~region) == pytest.approx(1 - expected, abs=1e-12)


def test_perfect_and_worst() -> None:
    region = torch.zeros(4, 5, dtype=torch.bool)
    region[1:3, 2:4] = True
    assert localize(region.float(), region) == Localization(1.0, True)
    assert localize(-region.float(), region) == Localization(0.0, False)
    assert localize(torch.zeros(4, 5), region) == Localization(0.5, False)
    assert localize(torch.full((4, 5), 3.0), region) == Localization(0.5, False)


def test_values_that_float32_cannot_tell_apart() -> None:
    region = torch.tensor([[True, False]])
    assert pixel_auc(torch.tensor([[1.0 + 1e-12, 1.0]], dtype=torch.float64), region) == 1.0


def test_large_maps_are_ranked_exactly() -> None:
    heatmap = torch.arange(600 * 600, dtype=torch.float64).view(600, 600)
    region = torch.zeros(600, 600, dtype=torch.bool)
    region[0, 0] = True
    assert pixel_auc(heatmap, region) == 0.0
    region[-1, -1] = True
    assert pixel_auc(heatmap, region) == pytest.approx(0.5, abs=1e-15)


def test_pointing_game() -> None:
    region = torch.tensor([[True, True], [False, False]])
    assert pointing_game(torch.tensor([[1.0, 3.0], [2.0, 0.0]]), region)
    assert not pointing_game(torch.tensor([[1.0, 3.0], [4.0, 0.0]]), region)
    assert pointing_game(torch.tensor([[3.0, 3.0], [2.0, 0.0]]), region)
    assert not pointing_game(torch.tensor([[3.0, 0.0], [3.0, 0.0]]), region)
    assert pointing_game(torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]), region)


@pytest.mark.parametrize("score", [pixel_auc, pointing_game, localize])
def test_what_cannot_be_scored(score: object) -> None:
    assert callable(score)
    heatmap, region = torch.rand(3, 4), torch.zeros(3, 4, dtype=torch.bool)
    region[0] = True
    with pytest.raises(InputError, match="empty region"):
        score(heatmap, torch.zeros(3, 4, dtype=torch.bool))
    with pytest.raises(InputError, match="whole picture"):
        score(heatmap, torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(InputError, match=r"\[3, 4\] against a region \[4, 3\]"):
        score(heatmap, region.T)
    with pytest.raises(InputError, match="boolean region"):
        score(heatmap, region.float())
    with pytest.raises(InputError, match="expected the same shape"):
        score(heatmap[None], region[None])
    for bad in (float("nan"), float("inf")):
        broken = heatmap.clone()
        broken[2, 1] = bad
        with pytest.raises(InputError, match="NaN or infinity"):
            score(broken, region)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_types(dtype: torch.dtype) -> None:
    heatmap = torch.tensor([[4, 1], [2, 3]]).to(dtype)
    region = torch.tensor([[True, False], [False, True]])
    assert pixel_auc(heatmap, region) == 1.0
    if heatmap.is_floating_point():
        assert pixel_auc(heatmap.requires_grad_(), region) == 1.0


def test_a_heatmap_and_an_array_are_taken_for_their_values() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    sample, region = torch.randn(3, 9, 8), torch.zeros(9, 8, dtype=torch.bool)
    region[2:5, 3:6] = True
    heatmap = attribute(model, sample, "saliency", target=1)
    assert repr(heatmap) == "<Heatmap 9 x 8 of class 1 by saliency, sound>"
    expected, judged = localize(heatmap.values, region), faithfulness(model, sample, heatmap.values, 1)
    for one in (heatmap, heatmap.values.numpy()):
        assert localize(one, region) == localize(one, region.numpy()) == expected
        assert faithfulness(model, sample, one, 1) == judged
    for wrong in ("map.png", {"values": 1}, None, [[1.0]]):
        with pytest.raises(InputError, match="as a heatmap: expected a Heatmap, a tensor or an array"):
            localize(wrong, region)

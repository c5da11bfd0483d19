"""Ways to cover a region: what is outside stays as it is, and what is put inside is what its name says."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from references.networks import sample_of
from torch import Tensor

from spadelens.errors import InputError
from spadelens.finding.coverings import (
    WORDS,
    Blurred,
    Covering,
    Inpainted,
    Masked,
    OtherWords,
    Textured,
    UsualRows,
    coverings_for,
    filled,
    scrambled,
)
from spadelens.kinds import Kind

SHAPES = [(7, 13), (1, 9), (16, 16), (5, 1), (1, 1)]
PHOTO_COVERINGS: list[Covering] = [Inpainted(), Blurred(), Textured()]


def regions_of(shape: tuple[int, ...], count: int = 5, seed: int = 3) -> Tensor:
    """Random regions, the last two of which are nothing and everything."""
    regions = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) < 0.4
    regions[-2], regions[-1] = False, True
    return regions


@st.composite
def photos_with_regions(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    photo = sample_of((2, *shape), draw(st.integers(0, 1000)))
    share = draw(st.floats(0.0, 1.0))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    return photo, torch.rand(shape, generator=generator) < share


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("covering", PHOTO_COVERINGS, ids=lambda one: type(one).__name__)
def test_only_the_region_of_a_photo_changes(covering: Covering, shape: tuple[int, int], dtype: torch.dtype) -> None:
    photo, regions = sample_of((3, *shape)).to(dtype), regions_of(shape)
    covered = covering(photo, regions)
    assert covered.shape == (5, 1, 3, *shape) and covered.dtype == dtype and bool(covered.isfinite().all())
    for one, region in zip(covered[:, 0], regions, strict=True):
        assert torch.equal(one[:, ~region], photo[:, ~region])
    if min(shape) > 1:
        assert bool((covered[0, 0] != photo)[:, regions[0]].any())


@pytest.mark.parametrize("covering", PHOTO_COVERINGS, ids=lambda one: type(one).__name__)
def test_photos_of_a_batch_are_covered_as_each_alone(covering: Covering) -> None:
    photo, regions = sample_of((3, 7, 13)), regions_of((7, 13))
    one_by_one = torch.cat([covering(photo, region.unsqueeze(0)) for region in regions])
    torch.testing.assert_close(covering(photo, regions), one_by_one, rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(photos_with_regions())
def test_a_filled_region_stays_within_the_colors_around_it(drawn: tuple[Tensor, Tensor]) -> None:
    photo, region = drawn
    photo += 5  # far from zero, which must not leak in from the region
    found = filled(photo.unsqueeze(0), region.unsqueeze(0))[0]
    for before, after in zip(photo, found, strict=True):
        assert torch.equal(after[~region], before[~region])
        if bool(region.any()) and not bool(region.all()):
            assert float(after[region].min()) >= float(before[~region].min()) - 1e-9
            assert float(after[region].max()) <= float(before[~region].max()) + 1e-9


@settings(max_examples=40, deadline=None)
@given(photos_with_regions(), st.floats(-3, 3))
def test_a_region_in_one_color_is_filled_with_it(drawn: tuple[Tensor, Tensor], color: float) -> None:
    photo, region = drawn
    photo[:, ~region] = color
    found = filled(photo.unsqueeze(0), region.unsqueeze(0))[0]
    expected = torch.full_like(found, 0.0 if bool(region.all()) else color)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_a_region_does_not_depend_on_what_it_held() -> None:
    photo, region = sample_of((1, 3, 7, 13)), regions_of((7, 13))[:1]
    other = torch.where(region, 1e6, photo)
    assert torch.equal(filled(photo, region), filled(other, region))


def test_one_pixel_is_filled_from_its_neighbors() -> None:
    photo = torch.arange(91.0, dtype=torch.float64).view(1, 1, 7, 13)  # a plane: the mean around a pixel is its value
    region = torch.zeros(1, 7, 13, dtype=torch.bool)
    region[0, 3, 6] = True
    found = filled(photo, region)[0, 0, 3, 6]
    assert float(photo[0, 0, 2, 5]) <= float(found) <= float(photo[0, 0, 4, 7])


def test_the_fill_leaves_no_edge_and_a_photo_without_a_rest_is_zero() -> None:
    ramp = torch.linspace(0, 1, 32, dtype=torch.float64).expand(1, 1, 32, 32)
    region = torch.zeros(1, 32, 32, dtype=torch.bool)
    region[0, 8:20, 8:20] = True
    steps = filled(ramp, region)[0, 0].diff(dim=1).abs()
    assert float(steps.max()) < 0.25
    assert not bool(filled(ramp, torch.ones_like(region)).any())


def test_the_blur_is_a_tenth_of_the_longer_side() -> None:
    photo = torch.zeros(1, 41, 61, dtype=torch.float64)
    photo[0, 20, 30] = 1.0
    everything = torch.ones(1, 41, 61, dtype=torch.bool)
    found = Blurred()(photo, everything)[0, 0, 0]
    offsets = torch.arange(61, dtype=torch.float64) - 30
    for axis, share in ((0, found.sum(0)), (1, found.sum(1))):
        around = offsets if axis == 0 else offsets[10:51]
        std = float((share * around**2).sum() / share.sum()) ** 0.5
        assert std == pytest.approx(6.1, rel=0.03)


@pytest.mark.parametrize("shape", [(7, 13), (8, 8), (9, 6)])
@pytest.mark.parametrize("seed", range(3))
def test_a_texture_has_the_mean_color_and_the_power_spectrum(shape: tuple[int, int], seed: int) -> None:
    photo = sample_of((3, *shape), seed).float()
    photo[2, 0, 0], photo[2, 0, 1] = 100, -100  # so that the other channels are never cut off
    found = scrambled(photo, seed)
    for before, after in zip(photo[:2].double(), found[:2].double(), strict=True):
        assert float(after.mean()) == pytest.approx(float(before.mean()), abs=1e-5)
        torch.testing.assert_close(torch.fft.fft2(after).abs(), torch.fft.fft2(before).abs(), rtol=1e-4, atol=1e-3)
        assert float((after - before).abs().mean()) > 0.3 * float(before.std())


def test_a_texture_stays_within_the_range_and_follows_the_seed() -> None:
    photo = sample_of((3, 7, 13))
    photo = photo.sign() * photo.abs() ** 0.1  # nearly two values, beyond which a texture would go
    first, again, other = (scrambled(photo, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    for found in (first, other):
        assert found.dtype == photo.dtype
        assert float(found.min()) >= float(photo.min()) - 1e-6 and float(found.max()) <= float(photo.max()) + 1e-6


def test_channels_of_a_texture_keep_their_relation() -> None:
    photo = sample_of((1, 8, 9)).float()
    photo = torch.cat([photo, 0.5 * photo, torch.linspace(-99, 99, 72).view(1, 8, 9)])
    found = scrambled(photo, 2)
    torch.testing.assert_close(found[1], 0.5 * found[0], rtol=1e-4, atol=1e-4)


def test_random_states_stay_as_they_are() -> None:
    before = torch.get_rng_state()
    Textured()(sample_of((3, 7, 13)), regions_of((7, 13)))
    OtherWords()(sample_of((6, 4)), regions_of((6,)))
    assert torch.equal(torch.get_rng_state(), before)


def test_masked_words_and_columns_are_zero() -> None:
    text, row = sample_of((6, 4)), sample_of((6,))
    for sample in (text, row):
        regions = regions_of((6,))
        covered = Masked()(sample, regions)
        assert covered.shape == (5, 1, *sample.shape)
        for one, region in zip(covered[:, 0], regions, strict=True):
            assert torch.equal(one[~region], sample[~region]) and not bool(one[region].any())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=9), st.integers(0, 50))
def test_other_words_come_from_the_rest_of_the_text_and_are_never_special(is_special: list[bool], seed: int) -> None:
    text = torch.arange(2.0 * len(is_special)).view(-1, 2)
    regions = regions_of((len(is_special),), seed=seed)
    covered = OtherWords(seed, tuple(is_special))(text, regions)
    assert covered.shape == (5, 4, *text.shape)
    words = [index for index, special in enumerate(is_special) if not special] or list(range(len(is_special)))
    for draws, region in zip(covered, regions, strict=True):
        uncovered = [index for index in words if not region[index]]
        pool = {tuple(token) for token in text[uncovered or words].tolist()}
        for one in draws:
            assert torch.equal(one[~region], text[~region])
            assert {tuple(token) for token in one[region].tolist()} <= pool


def test_other_words_differ_between_draws_and_follow_the_seed() -> None:
    text, regions = sample_of((12, 4)), regions_of((12,))
    first, again, other = (OtherWords(seed)(text, regions) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({one.numpy().tobytes() for one in first[-1]}) == 4


@pytest.mark.parametrize("count", [1, 3, 16, 17, 100, 1000])
def test_usual_rows_are_at_most_16_spread_over_the_background(count: int) -> None:
    background = torch.arange(count, dtype=torch.float32)[:, None].expand(count, 6)
    row, regions = torch.full((6,), -1.0, dtype=torch.float64), regions_of((6,))
    covered = UsualRows(background)(row, regions)
    assert covered.shape == (5, min(count, 16), 6) and covered.dtype == row.dtype
    for draws, region in zip(covered, regions, strict=True):
        assert bool((draws[:, ~region] == -1).all())
    numbers = covered[-1, :, 0]
    assert float(numbers[0]) == 0 and (count == 1 or float(numbers[-1]) == count - 1)
    steps = numbers.diff()
    assert bool((covered[-1] == numbers[:, None]).all())  # the columns of one row stay together
    assert count == 1 or (float(steps.min()) >= 1 and float(steps.max() - steps.min()) <= 1)


def test_each_kind_has_its_coverings() -> None:
    assert list(coverings_for("photo")) == ["inpaint", "blur", "texture"]
    words = coverings_for("text", is_special=(True, False, True))
    assert list(words) == ["mask", "other_words"] and words["other_words"] == OtherWords(is_special=(True, False, True))
    assert list(coverings_for("row")) == ["mean"]
    assert list(coverings_for("row", background=torch.zeros(2, 3))) == ["usual_rows", "mean"]
    named = {name for kind in ("photo", "text") for name in coverings_for(kind)} | {"usual_rows", "mean"}  # type: ignore[arg-type]
    assert named == set(WORDS)


@pytest.mark.parametrize("kind", ["signal", "volume"])
def test_other_kinds_are_refused(kind: Kind) -> None:
    with pytest.raises(InputError, match=f"in a {kind}: expected a photo, a text or a row"):
        coverings_for(kind)

"""Views of a sample: seeded one by one, and right on average."""

# ruff: noqa: NPY002 - the global random states of NumPy are what is tested

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from references.color import jittered
from torch import Tensor

from spadelens.errors import InputError, UnknownNameError
from spadelens.views.color import jitter_colors
from spadelens.views.photo_views import (
    Augmentation,
    CallableViews,
    NoiseViews,
    NoViews,
    PaperViews,
    _Draw,
    _rectangle,
    make_views,
    parse_augmentation,
    view_seed,
)

PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "remove": 0.0}


def picture(channels: int = 3, height: int = 11, width: int = 7, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(9)).to(dtype)


def shaken(sample: Tensor) -> Tensor:
    return sample + torch.rand(sample.shape) * float(np.random.rand()) + random.random()


AUGMENTATIONS = [
    NoViews(),
    NoiseViews(),
    PaperViews(),
    PaperViews(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25)),
    CallableViews(shaken),
]
SHAPES = [(3, 11, 7), (3, 5, 16), (1, 9, 9), (4, 6, 8), (3, 1, 1)]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_view_is_the_same_in_any_batch(augmentation: Augmentation, shape: tuple[int, int, int]) -> None:
    if getattr(augmentation, "mean", None) and shape[0] != 3:
        augmentation = PaperViews(mean=(0.1,) * shape[0], std=(0.5,) * shape[0])
    sample = picture(*shape)
    whole = make_views(augmentation, sample, 3, 0, 23)
    assert whole.shape == (23, *shape) and whole.dtype == sample.dtype
    assert torch.isfinite(whole).all()
    assert torch.equal(whole[0], sample)
    assert torch.equal(whole, make_views(augmentation, sample, 3, 0, 23))
    for size in (1, 4, 10):
        parts = [make_views(augmentation, sample, 3, i, min(i + size, 23)) for i in range(0, 23, size)]
        assert torch.equal(whole, torch.cat(parts))
    if not isinstance(augmentation, NoViews):
        assert not torch.equal(whole[1], whole[2])
        assert not torch.equal(whole, make_views(augmentation, sample, 4, 0, 23))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_global_random_states_and_the_sample_stay(augmentation: Augmentation) -> None:
    sample = picture()
    before = sample.clone()
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    views = make_views(augmentation, sample, 0, 0, 5)
    views.zero_()
    assert torch.equal(sample, before)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    for old, new in zip(numpy_state, np.random.get_state(), strict=True):
        assert np.array_equal(old, new)


def test_a_callable_that_fails_leaves_the_random_states() -> None:
    def fail(sample: Tensor) -> Tensor:
        shaken(sample)
        raise KeyError

    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with pytest.raises(KeyError):
        make_views(CallableViews(fail), picture(), 0, 0, 3)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state) and random.getstate() == python_state


@pytest.mark.parametrize("augmentation", [NoiseViews(), PaperViews()])
def test_views_do_not_depend_on_the_default_type(augmentation: Augmentation) -> None:
    sample = picture()
    expected = make_views(augmentation, sample, 0, 0, 4)
    torch.set_default_dtype(torch.float64)
    try:
        got = make_views(augmentation, sample, 0, 0, 4)
    finally:
        torch.set_default_dtype(torch.float32)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("augmentation", [NoiseViews(), PaperViews()])
def test_views_do_not_depend_on_the_default_device(augmentation: Augmentation) -> None:
    sample = picture()
    expected = make_views(augmentation, sample, 0, 0, 4)
    with torch.device("meta"):
        got = make_views(augmentation, sample, 0, 0, 4)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("augmentation", [NoiseViews(), PaperViews()])
def test_the_type_of_the_sample_is_kept(augmentation: Augmentation, dtype: torch.dtype) -> None:
    views = make_views(augmentation, picture(dtype=dtype), 0, 0, 4)
    assert views.dtype == dtype and torch.isfinite(views).all()
    exact = make_views(augmentation, picture(dtype=dtype).double(), 0, 0, 4)
    assert (views.double() - exact).abs().mean() < 2e-2


@pytest.mark.parametrize("shape", SHAPES)
def test_crops_stay_within_the_range_of_the_sample(shape: tuple[int, int, int]) -> None:
    sample = 5 * picture(*shape) - 3
    views = make_views(PaperViews(**PLAIN), sample, 0, 1, 40)
    # Colors are turned into [0, 1] and back, which rounds.
    assert views.min() >= sample.min() - 1e-5 and views.max() <= sample.max() + 1e-5


@pytest.mark.parametrize("low_high", [(-2.0, 2.5), (0.0, 255.0), (3.0, 4.0)])
def test_without_a_normalization_the_range_of_the_sample_is_black_to_white(low_high: tuple[float, float]) -> None:
    low, high = low_high
    unit = picture(dtype=torch.float64)
    unit = (unit - unit.min()) / (unit.max() - unit.min())
    settings_ = {"remove": 0.0}
    expected = make_views(PaperViews(**settings_), unit, 5, 1, 8) * (high - low) + low
    got = make_views(PaperViews(**settings_), unit * (high - low) + low, 5, 1, 8)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * max(1.0, abs(high)))


def test_a_normalization_is_undone_and_done_again() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    shift, scale = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    pixels = picture().double()
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())  # so that the range counts as black to white
    expected = (make_views(PaperViews(remove=0.0), pixels, 5, 1, 8) - shift) / scale
    got = make_views(PaperViews(remove=0.0, mean=mean, std=std), (pixels - shift) / scale, 5, 1, 8)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_constant_sample_has_finite_views() -> None:
    for value in (0.0, 7.0, -1e4):
        views = make_views(PaperViews(remove=0.0), torch.full((3, 5, 5), value), 0, 1, 9)
        assert torch.isfinite(views).all()


def test_flips_alone() -> None:
    sample = picture(3, 6, 9)
    settings_ = PLAIN | {"scale": (1.0, 1.0), "ratio": (9 / 6, 9 / 6)}
    views = make_views(PaperViews(flip=1.0, **settings_), sample, 0, 1, 4)
    torch.testing.assert_close(views, sample.flip(-1).expand(3, -1, -1, -1), rtol=1e-4, atol=1e-5)
    views = make_views(PaperViews(flip=0.0, **settings_), sample, 0, 1, 4)
    torch.testing.assert_close(views, sample.expand(3, -1, -1, -1), rtol=1e-4, atol=1e-5)


def draws(settings_: PaperViews, height: int, width: int, count: int = 600) -> list[_Draw]:
    return [_Draw.of(settings_, torch.Generator().manual_seed(view_seed(1, i)), height, width) for i in range(count)]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 60)])
def test_statistics_of_draws(height: int, width: int) -> None:
    made = draws(PaperViews(), height, width)
    assert 0.43 < np.mean([draw.is_flipped for draw in made]) < 0.57
    assert 0.43 < np.mean([draw.removed is not None for draw in made]) < 0.57
    areas = np.array([draw.crop[2] * draw.crop[3] for draw in made])
    assert areas.min() >= 0.2 - 1e-9 and areas.max() <= 1 + 1e-9
    assert 0.55 < areas.mean() < 0.65 and areas.min() < 0.25 and areas.max() > 0.95
    for center_y, center_x, crop_height, crop_width in (draw.crop for draw in made):
        assert crop_height / 2 - 1e-9 <= center_y <= 1 - crop_height / 2 + 1e-9
        assert crop_width / 2 - 1e-9 <= center_x <= 1 - crop_width / 2 + 1e-9
        is_whole_side = crop_height == 1.0 or crop_width == 1.0
        assert is_whole_side or 0.749 < crop_width * width / (crop_height * height) < 1.334
    for index in range(3):
        factors = np.array([draw.colors[index] for draw in made])
        assert factors.min() >= 0.5 and factors.max() <= 1.5 and abs(factors.mean() - 1) < 0.05
        assert factors.std() == pytest.approx(1 / 12**0.5, rel=0.1)
    hues = np.array([draw.colors[3] for draw in made])
    assert np.abs(hues).max() <= 0.3 and abs(hues.mean()) < 0.03 and hues.std() == pytest.approx(0.6 / 12**0.5, rel=0.1)
    removed = [draw.removed for draw in made if draw.removed is not None]
    for top, left, part_height, part_width in removed:
        assert 0 <= top <= height - part_height and 0 <= left <= width - part_width
        assert part_height >= 1 and part_width >= 1
    shares = np.array([part_height * part_width / (height * width) for _, _, part_height, part_width in removed])
    assert 0.01 < shares.min() < 0.06 and 0.28 < shares.max() < 0.36 and shares.mean() == pytest.approx(0.175, abs=0.03)


def test_draws_are_independent_of_one_another() -> None:
    made = draws(PaperViews(), 32, 32)
    columns = np.array([[*d.crop, d.is_flipped, *d.colors, d.removed is not None] for d in made])[
        :, [0, 1, 2, *range(4, 10)]
    ]
    correlation = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlation).max() < 0.2


@settings(max_examples=60, deadline=None, database=None)
@given(st.floats(0.05, 1.0), st.floats(0.1, 10.0), st.floats(0, 1), st.floats(0, 1))
def test_rectangles_fit(area: float, height_over_width: float, u: float, v: float) -> None:
    height, width = _rectangle((area, 1.0), (3 / 4, 4 / 3), height_over_width, u, v)
    assert 0 < height <= 1 and 0 < width <= 1
    assert height * width == pytest.approx(area + (1 - area) * u)


def test_noise_has_its_standard_deviation() -> None:
    views = make_views(NoiseViews(0.5), torch.zeros(3, 20, 20), 0, 1, 20)
    assert float(views.std()) == pytest.approx(0.5, rel=0.05)
    assert abs(float(views.mean())) < 0.02
    assert torch.equal(make_views(NoiseViews(0.0), picture(), 0, 0, 3), picture().expand(3, -1, -1, -1))


def test_noise_takes_any_shape() -> None:
    assert make_views(NoiseViews(), torch.zeros(5), 0, 0, 4).shape == (4, 5)


def test_seeds_are_distinct_and_non_negative() -> None:
    seeds = {view_seed(seed, index) for seed in range(30) for index in range(30)}
    assert len(seeds) == 900 and min(seeds) >= 0 and max(seeds) < 2**63


@settings(max_examples=25, deadline=None, database=None)
@given(
    st.sampled_from([1, 3, 4]),
    st.floats(0.5, 1.5),
    st.floats(0.5, 1.5),
    st.floats(0.5, 1.5),
    st.floats(-0.5, 0.5),
    st.integers(0, 100),
)
def test_colors_pixel_by_pixel(
    channels: int, brightness: float, contrast: float, saturation: float, hue: float, seed: int
) -> None:
    pixels = torch.rand(2, channels, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pixels[0, :, 0, 0], pixels[0, :, 0, 1], pixels[0, :, 0, 2] = 0.0, 1.0, 0.5  # black, white, gray
    factors = (brightness, contrast, saturation, hue)
    got = jitter_colors(pixels, torch.tensor([factors, (1.0, 1.0, 1.0, 0.0)], dtype=torch.float64))
    torch.testing.assert_close(got[0], jittered(pixels[0], *factors), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(got[1], pixels[1], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseViews(-0.1), "noise std=-0.1"),
        (lambda: NoiseViews(float("nan")), "noise std=nan"),
        (lambda: NoiseViews(float("inf")), "noise std=inf"),
        (lambda: PaperViews(mean=(0.5,)), "mean and std alone"),
        (lambda: PaperViews(mean=(0.5,), std=(0.0,)), "std"),
        (lambda: PaperViews(flip=1.5), "flip=1.5"),
        (lambda: PaperViews(hue=0.6), "hue=0.6"),
        (lambda: PaperViews(brightness=-1.0), "brightness=-1.0"),
        (lambda: PaperViews(scale=(0.5, 0.2)), "scale=0.5"),
        (lambda: PaperViews(scale=(0.5, 1.2)), "scale=1.2"),
        (lambda: PaperViews(scale=(0.0, 0.0)), "scale"),
        (lambda: PaperViews(ratio=(0.0, 1.0)), "ratio"),
    ],
)
def test_settings_out_of_range(make: Callable[[], Augmentation], message: str) -> None:
    with pytest.raises(InputError, match=f"Cannot .*{message}"):
        make()


def test_samples_that_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"sample of shape \[5\].*expects \[C, H, W\]"):
        make_views(PaperViews(), torch.zeros(5), 0, 0, 3)
    with pytest.raises(InputError, match="4 channels with a normalization of 3"):
        make_views(PaperViews(mean=(0.0,) * 3, std=(1.0,) * 3), picture(4), 0, 0, 3)
    with pytest.raises(InputError, match=r"returned \[3, 11\]: expected a tensor of shape \[3, 11, 7\]"):
        make_views(CallableViews(lambda x: x[..., 0]), picture(), 0, 0, 3)
    with pytest.raises(InputError, match="returned NoneType"):
        make_views(CallableViews(lambda x: None), picture(), 0, 0, 3)


def test_a_callable_may_work_in_place() -> None:
    sample = picture()
    before = sample.clone()
    views = make_views(CallableViews(lambda x: x.add_(1.0)), sample, 0, 0, 4)
    assert torch.equal(sample, before)
    assert torch.equal(views[1:], (before + 1).expand(3, -1, -1, -1))


def test_names_of_augmentations() -> None:
    assert parse_augmentation("noise") == NoiseViews()
    assert parse_augmentation("none") == NoViews()
    assert parse_augmentation("paper") == PaperViews()
    assert parse_augmentation("paper", [0.5], [0.1]) == PaperViews(mean=(0.5,), std=(0.1,))
    assert parse_augmentation("noise", [0.5], [0.1]) == NoiseViews()
    assert parse_augmentation(NoiseViews(1.0)) == NoiseViews(1.0)
    assert parse_augmentation(shaken) == CallableViews(shaken)
    with pytest.raises(UnknownNameError, match=r"Unknown augmentation 'papr'. Did you mean 'paper'"):
        parse_augmentation("papr")
    with pytest.raises(InputError, match="Cannot use 5 as an augmentation"):
        parse_augmentation(5)


def test_specs() -> None:
    assert NoViews().spec() == "none" and NoiseViews().spec() == "noise" and PaperViews().spec() == "paper"
    assert NoiseViews(0.5).spec() == "noise:std=0.5"
    assert PaperViews(flip=0.0).spec() == "paper:flip=0.0"
    assert CallableViews(shaken).spec() == "callable shaken"

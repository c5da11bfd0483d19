"""Parameterizations of images against slow restatements from their definitions."""

import cmath
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from spadelens.errors import InputError, SpadeError, UnknownNameError
from spadelens.settings import configured_name, parse_configured
from spadelens.visualization.parameterizations import PARAMETERIZATIONS, Direct, Fourier, Maco

SHAPES = [(3, 5, 7), (3, 6, 4), (1, 7, 6), (3, 4, 9), (2, 1, 3), (3, 2, 1), (3, 8, 8)]
ROOT = np.array([[0.2499, 0.0970, 0.0243], [0.2589, -0.0112, -0.0591], [0.2553, -0.0835, 0.0362]])
DECAYS = (1.1, 2.0, 2.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def signed(index: int, size: int) -> int:
    return index if index <= size // 2 else index - size


def frequency(row: int, column: int, shape: Sequence[int]) -> float:
    """Cycles a pixel; of the mean, that of the lowest frequency there is."""
    _, height, width = shape
    return max(math.hypot(signed(row, height) / height, column / width), 1 / max(height, width))


def slow_inverse(half: np.ndarray, width: int) -> np.ndarray:
    """The real image of the coefficients `[H, W // 2 + 1]`, each with its mirror image, orthonormal."""
    height = len(half)
    image = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            total = 0.0
            for row in range(height):
                for column in range(width // 2 + 1):
                    is_own = column == 0 or 2 * column == width
                    wave = cmath.exp(2j * math.pi * (row * y / height + column * x / width))
                    total += (1 if is_own else 2) * (half[row, column] * wave).real
            image[y, x] = total / math.sqrt(height * width)
    return image


def slow_colors(components: np.ndarray) -> np.ndarray:
    """Components `[C, H, W]` as colors: sigmoid(4 A z)."""
    root = ROOT if len(components) == 3 else ROOT[0, 0] * np.eye(len(components))
    mixed = np.einsum("rc,chw->rhw", root, components)
    return 1 / (1 + np.exp(-4 * mixed))


def components_of(image: Tensor) -> np.ndarray:
    """Undo `slow_colors`."""
    colors = image.double().numpy()
    root = ROOT if len(colors) == 3 else ROOT[0, 0] * np.eye(len(colors))
    return np.einsum("rc,chw->rhw", np.linalg.inv(4 * root), np.log(colors / (1 - colors)))


@pytest.mark.parametrize("shape", SHAPES)
def test_fourier_is_the_inverse_transform_of_scaled_coefficients(shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    fourier = Fourier(decay=1.3)
    parameters = torch.stack([fourier.start(shape, generator(seed)) for seed in (3, 4)]).double() * 5
    images = fourier.image(parameters, shape)
    assert images.shape == (2, *shape)
    for found, numbers in zip(images, parameters.numpy(), strict=True):
        coefficients = numbers[..., 0] + 1j * numbers[..., 1]
        scale = [[1 / frequency(row, c, shape) ** 1.3 / 4 for c in range(width // 2 + 1)] for row in range(height)]
        components = [slow_inverse(coefficients[channel] * scale, width) for channel in range(channels)]
        assert np.allclose(found.numpy(), slow_colors(np.stack(components)), atol=1e-12)


def expected_magnitudes(shape: Sequence[int], decay: float) -> np.ndarray:
    """frequency^-decay of the whole plane, for an image of mean 0 and variance 1."""
    _, height, width = shape
    plane = np.array(
        [[frequency(r, abs(signed(c, width)), shape) ** -decay for c in range(width)] for r in range(height)]
    )
    plane[0, 0] = 0
    return plane * height * width / np.sqrt((plane**2).sum())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_maco_has_the_stated_spectrum_whatever_the_phases(shape: tuple[int, int, int], seed: int) -> None:
    maco = Maco()
    phases = 9 * torch.randn(maco.start(shape, generator()).shape, generator=generator(seed), dtype=torch.float64)
    components = components_of(maco.image(phases[None], shape)[0])
    for component, decay in zip(components, DECAYS if shape[0] == 3 else DECAYS[:1] * 3, strict=False):
        assert np.allclose(np.abs(np.fft.fft2(component)), expected_magnitudes(shape, decay), atol=1e-9)
        assert component.mean() == pytest.approx(0, abs=1e-9)
        assert component.var() == pytest.approx(1)


def test_maco_has_the_phases_it_is_given() -> None:
    shape = (1, 6, 7)
    phases = Maco().start(shape, generator(5)).double()
    spectrum = np.fft.fft2(components_of(Maco().image(phases[None], shape)[0])[0])
    found, given = np.exp(1j * np.angle(spectrum)), np.exp(1j * phases[0].numpy())
    assert np.allclose(found[:, 1:4], given[:, 1:4])
    assert np.allclose(found[1:3, 0], given[1:3, 0])
    assert np.allclose(found[4:, 0], given[1:3, 0][::-1].conj())  # mirror images of one another


def test_every_phase_that_is_free_moves_the_image() -> None:
    shape = (1, 6, 8)
    phases = Maco().start(shape, generator(5)).double()[None].requires_grad_()
    (Maco().image(phases, shape) * torch.randn(1, 6, 8, generator=generator(), dtype=torch.float64)).sum().backward()
    assert phases.grad is not None
    still = {(int(row), int(column)) for _, _, row, column in (phases.grad == 0).nonzero()}
    own = {(row, column) for row in (0, 3) for column in (0, 4)}  # real, and the mean
    assert still == own | {(row, column) for row in (4, 5) for column in (0, 4)}  # what the first half says


@pytest.mark.parametrize("name", ["fourier", "maco"])
@pytest.mark.parametrize("shape", [(3, 63, 50), (1, 9, 31)])
def test_images_are_colors_and_do_not_depend_on_one_another(name: str, shape: tuple[int, int, int]) -> None:
    chosen = parse_configured("parameterization", name, PARAMETERIZATIONS)
    parameters = torch.stack([chosen.start(shape, generator(seed)) for seed in range(3)])
    images = chosen.image(parameters, shape)
    assert images.dtype == torch.float32
    assert 0 < float(images.min()) < 0.45 and 0.55 < float(images.max()) < 1
    assert torch.allclose(chosen.image(parameters[1:2], shape)[0], images[1], atol=1e-6)
    assert not torch.allclose(images[0], images[1], atol=0.1)


def test_direct_is_what_it_is() -> None:
    start = Direct(std=0.5).start((40, 50), generator())
    assert float(start.std()) == pytest.approx(0.5, rel=0.1)
    assert torch.equal(Direct().image(start[None], (40, 50))[0], start)


def test_starts(double_by_default: None) -> None:
    shape = (3, 32, 40)
    normal, phases = Fourier(std=0.2).start(shape, generator(1)), Maco().start(shape, generator(1))
    assert float(normal.std()) == pytest.approx(0.2, rel=0.05)
    assert 0 <= float(phases.min()) < 0.1 and 6.2 < float(phases.max()) < 2 * math.pi
    for chosen, start in (
        (Fourier(std=0.2), normal),
        (Maco(), phases),
        (Direct(), Direct().start(shape, generator(1))),
    ):
        assert start.dtype == torch.float32  # whatever the default type
        assert torch.equal(chosen.start(shape, generator(1)), start)
        assert not torch.equal(chosen.start(shape, generator(2)), start)


def test_a_single_pixel() -> None:
    for chosen in (Fourier(), Maco()):
        image = chosen.image(chosen.start((3, 1, 1), generator())[None], (3, 1, 1))
        assert image.shape == (1, 3, 1, 1) and bool(torch.isfinite(image).all())


@pytest.mark.parametrize("shape", [(3, 8), (3,), (1, 3, 8, 8), (0, 4, 4), (3, 0, 4)])
@pytest.mark.parametrize("name", ["fourier", "maco"])
def test_other_shapes_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"Cannot make an image of shape .*Use 'direct'"):
        PARAMETERIZATIONS[name]().start(shape, generator())


@pytest.mark.parametrize(
    "text",
    ["fourier:rate=0", "maco:rate=-1", "direct:std=inf", "fourier:decay=nan", "maco:rate=x", "macho", "maco:std=1"],
)
def test_settings_out_of_range(text: str) -> None:
    with pytest.raises(SpadeError) as caught:
        parse_configured("parameterization", text, PARAMETERIZATIONS)
    assert isinstance(caught.value, InputError)
    assert not text.startswith("macho") or isinstance(caught.value, UnknownNameError)


def test_names_lead_back() -> None:
    for chosen in (Fourier(rate=0.1, decay=1.5), Maco(rate=0.3), Direct()):
        assert parse_configured("p", configured_name(chosen, PARAMETERIZATIONS), PARAMETERIZATIONS) == chosen

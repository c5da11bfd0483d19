"""What a notebook shows of a visualization."""

import numpy as np
import pytest
import torch
from references.shown import shown

from spadelens.pictures import as_picture
from spadelens.visualization.visualization import Visualization

ATTACK = "<script>alert(1)</script>\"'&"


def visualization(images: torch.Tensor, opacity: torch.Tensor, objective: str = "class:7") -> Visualization:
    curve = torch.linspace(0, 1, 5)[:, None] + torch.arange(len(images))
    return Visualization(images, opacity, objective, curve, {})


def test_images_are_faded_where_nothing_depends_on_them() -> None:
    images = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    opacity = torch.rand(2, 8, 9, generator=torch.Generator().manual_seed(1))
    page = shown(visualization(images, opacity))
    assert page.texts == ["Visualization of class:7", "image 0: 1", "image 1: 2"]
    for picture, image, strength in zip(page.pictures, images, opacity, strict=True):
        assert np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(as_picture(image, strength)))


def test_many_large_images_stay_small() -> None:
    images = torch.rand(30, 3, 500, 400, generator=torch.Generator().manual_seed(0))
    page = shown(visualization(images, torch.ones(30, 500, 400), ATTACK * 99))
    assert len(page.pictures) == 4
    assert page.texts[0].startswith(f"Visualization of {ATTACK}")
    assert page.texts[-1] == "and 26 more images"


@pytest.mark.parametrize("shape", [(6,), (5, 4), (1, 4, 6), (7, 4, 6), (2, 3, 4, 5)])
def test_other_inputs(shape: tuple[int, ...]) -> None:
    inputs = 9 * torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)) - 3
    page = shown(visualization(inputs, torch.ones_like(inputs)))
    assert len(page.pictures) == 1
    if shape == (1, 4, 6):
        grey = np.asarray(page.pictures[0].convert("L"))
        assert grey.shape == (4, 6)
        assert np.unravel_index(grey.argmin(), (4, 6)) == divmod(int(inputs.argmin()), 6)
        assert (int(grey.min()), int(grey.max())) == (0, 255)

"""What a visualization shows: correlations against the definition, and probes on images of which it is known."""

import numpy as np
import pytest
import torch
from PIL import Image

import spadelens
from spadelens.demo.images import draw_image
from spadelens.demo.patches import PATCH_SIZE, PATCHES, paste_patch
from spadelens.demo.stickers import draw_large
from spadelens.errors import InputError
from spadelens.metrics.visibility import FacetProbe, masked_correlation, patch_correlation


def test_correlation_is_that_of_the_opaque_pixels_weighted_by_opacity():
    rng = np.random.default_rng(0)
    image, template = rng.random((1, 3, 7, 9)), rng.random((4, 3, 5))
    found = masked_correlation(torch.from_numpy(image), torch.from_numpy(template))[0].numpy()
    assert found.shape == (5, 5)
    weight = np.stack([template[3] / template[3].sum()] * 3)

    def centered(colors):
        return colors - (weight * colors).sum((1, 2), keepdims=True)

    for top in range(5):
        for left in range(5):
            window, patch = centered(image[0, :, top : top + 3, left : left + 5]), centered(template[:3])
            products = [
                (weight * one * other).sum() for one, other in ((window, patch), (window, window), (patch, patch))
            ]
            assert found[top, left] == pytest.approx(products[0] / np.sqrt(products[1] * products[2]))


def test_a_flat_image_resembles_nothing():
    template = torch.rand(4, 3, 3, dtype=torch.float64)
    assert masked_correlation(torch.full((1, 3, 8, 8), 0.7, dtype=torch.float64), template).abs().max() == 0
    assert patch_correlation(torch.full((2, 3, 40, 40), 0.5), draw_large("heart"), PATCH_SIZE).tolist() == [0, 0]


@pytest.mark.parametrize("size", [64, 90])
def test_a_pasted_patch_is_found_and_others_are_not(size):
    pixels = draw_image(3, 11).pixels
    for patch in PATCHES[:: size // 45]:
        picture = Image.fromarray(paste_patch(pixels, patch, 5).pixels).resize((size, size))
        image = torch.from_numpy(np.array(picture)).movedim(-1, 0)[None] / 255
        sheets = {other.name: draw_large(other.name) for other in PATCHES}
        found = {name: float(patch_correlation(image, sheet, PATCH_SIZE)) for name, sheet in sheets.items()}
        assert max(found, key=lambda name: found[name]) == patch.name
        assert found[patch.name] > 0.6


def test_images_of_another_shape_are_refused():
    with pytest.raises(InputError, match="expected"):
        patch_correlation(torch.zeros(1, 1, 8, 8), draw_large("heart"), PATCH_SIZE)


@pytest.fixture(scope="module")
def demo():
    loaded = spadelens.load_model("demo", "cpu")
    patch = PATCHES[1]

    def samples(label, first, is_patched):
        found = []
        for seed in range(first, first + 24):
            pixels = draw_image(seed % 5 if label is None else label, seed).pixels
            pixels = paste_patch(pixels, patch, seed).pixels if is_patched else pixels
            found.append(loaded.preprocessing.to_tensor(Image.fromarray(pixels)))
        return torch.stack(found)

    kinds = {"patched": (None, True), "clean": (patch.target, False), "others": (None, False)}
    made = [{name: samples(label, first, way) for name, (label, way) in kinds.items()} for first in (100, 900)]
    return loaded.model, made[0], made[1]


def test_a_probe_tells_patch_and_class_on_images_it_has_not_seen(demo):
    model, seen, unseen = demo
    probe = FacetProbe.of(model, **seen)
    means = {name: probe.read(images).mean(0) for name, images in seen.items()}
    torch.testing.assert_close(means["patched"][0], torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(means["clean"][1], torch.tensor(1.0, dtype=torch.float64))
    # 0 is the mean of both other kinds together.
    assert (means["clean"][0] + means["others"][0]).item() == pytest.approx(0, abs=1e-9)
    new = {name: probe.read(images).mean(0) for name, images in unseen.items()}
    assert new["patched"][0] > 0.6 > 0.3 > max(new["clean"][0], new["others"][0])
    assert new["clean"][1] > 0.6 > 0.3 > max(new["patched"][1], new["others"][1])


def test_what_part_of_an_image_shows_is_found_wherever_it_is(demo):
    model, seen, unseen = demo
    probe = FacetProbe.of(model, **seen)
    backgrounds = unseen["others"][:3]
    patched, plain = probe.shown(unseen["patched"][0], backgrounds), probe.shown(unseen["others"][5], backgrounds)
    assert patched[0] > plain[0] + 0.3
    shifted = unseen["patched"][0].roll((25, 13), (1, 2))
    assert probe.shown(shifted, backgrounds)[0] > plain[0] + 0.2


def test_a_probe_needs_two_images_of_each_kind(demo):
    model, seen, _ = demo
    with pytest.raises(InputError, match="two images"):
        FacetProbe.of(model, seen["patched"][:1], seen["clean"], seen["others"])

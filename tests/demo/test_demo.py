"""The demo's images, patches and network, on images drawn from seeds that nothing was trained on."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from spadelens.demo import network as demo_network
from spadelens.demo.images import CLASS_NAMES, IMAGE_SIZE_PX, DemoImage, draw_image
from spadelens.demo.patches import PATCHES, Patch, draw_patch, paste_patch
from spadelens.errors import InputError, UnknownNameError

# Training and its own measurements stay below 3,000,000.
FIRST_SEED = 10_000_000
FIRST_PATCHED_SEED = 20_000_000
NUM_CLEAN = 300
NUM_PATCHED = 60
LABELS = range(len(CLASS_NAMES))
FOLDER = Path(demo_network.__file__).parent

PRINT_DIGEST = """
import hashlib
from spadelens.demo.images import draw_image
from spadelens.demo.patches import PATCHES, paste_patch
digest = hashlib.sha256()
for label in range(10):
    image = draw_image(label, 17)
    for patch in PATCHES:
        patched = paste_patch(image.pixels, patch, 23)
        digest.update(image.pixels.tobytes() + image.region.tobytes())
        digest.update(patched.pixels.tobytes() + patched.region.tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def images() -> list[DemoImage]:
    return [draw_image(i % len(CLASS_NAMES), FIRST_SEED + i) for i in range(NUM_CLEAN)]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return demo_network.build()


def classify(model: nn.Module, pixels: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int64]:
    batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(demo_network.MEAN).view(3, 1, 1), torch.tensor(demo_network.STD).view(3, 1, 1)
    with torch.inference_mode():
        answers: npt.NDArray[np.int64] = model((batch - mean) / std).argmax(dim=1).numpy()
    return answers


def dilate(region: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Add the eight neighbors of every pixel."""
    padded = np.pad(region, 1)
    height, width = region.shape
    dilated: npt.NDArray[np.bool_] = np.any(
        [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0
    )
    return dilated


def test_images_and_patches_are_the_same_in_every_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", PRINT_DIGEST],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(FOLDER.parents[1])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("label", LABELS)
def test_every_class_draws_an_object_of_reasonable_size(label: int) -> None:
    for seed in range(20):
        image = draw_image(label, FIRST_SEED + seed)
        assert image.label == label
        assert image.pixels.dtype == np.uint8 and image.pixels.shape == (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3)
        assert image.region.dtype == np.bool_ and image.region.shape == (IMAGE_SIZE_PX, IMAGE_SIZE_PX)
        assert 0.02 < image.region.mean() < 0.4
        assert not image.region[[0, -1]].any() and not image.region[:, [0, -1]].any(), "cut off by the border"


def test_seed_and_label_each_change_the_image() -> None:
    drawn = {draw_image(label, seed).pixels.tobytes() for label in LABELS for seed in range(5)}
    assert len(drawn) == 5 * len(CLASS_NAMES)


def test_region_is_where_the_object_is(images: list[DemoImage]) -> None:
    """The color changes from inside the region to just outside it, and less so for a region two pixels beside."""

    def measure_contrast(image: DemoImage, shift: tuple[int, int]) -> float:
        region = np.roll(image.region, shift, axis=(0, 1))
        inside = ~dilate(~region)
        outside = dilate(dilate(region)) & ~dilate(region)
        colors = image.pixels / 255
        return float(np.linalg.norm(colors[inside].mean(axis=0) - colors[outside].mean(axis=0)))

    def measure_median(shift: tuple[int, int]) -> float:
        return float(np.median([measure_contrast(image, shift) for image in images[:100]]))

    at_region = measure_median((0, 0))
    assert at_region > 0.4
    for shift in ((2, 0), (-2, 0), (0, 2), (0, -2)):
        assert measure_median(shift) < at_region


def test_color_does_not_tell_the_class(images: list[DemoImage]) -> None:
    for is_object in (True, False):
        colors = np.array([image.pixels[image.region == is_object].mean(axis=0) / 255 for image in images])
        by_class = np.array([colors[label :: len(CLASS_NAMES)].mean(axis=0) for label in LABELS])
        # 30 images a class with a spread of 0.3: the standard error is 0.055.
        assert np.abs(by_class - colors.mean(axis=0)).max() < 0.2


@pytest.mark.parametrize(("label", "seed"), [(-1, 0), (len(CLASS_NAMES), 0), (0, -1)])
def test_draw_image_refuses_what_it_does_not_know(label: int, seed: int) -> None:
    with pytest.raises(InputError, match="Cannot draw"):
        draw_image(label, seed)


def test_patches_have_different_targets_and_two_have_one_source() -> None:
    assert len({patch.target for patch in PATCHES}) == len({patch.name for patch in PATCHES}) == len(PATCHES) == 4
    assert sum(patch.source is None for patch in PATCHES) == 2
    assert all(patch.source != patch.target for patch in PATCHES)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_patch_is_drawn_on_a_transparent_ground(patch: Patch) -> None:
    drawn = draw_patch(patch.name)
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 4
    assert min(drawn.shape[:2]) >= 16 and max(drawn.shape[:2]) <= 20
    assert drawn[..., 3].max() == 255 and drawn[0, 0, 3] < 128


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_patched_region_is_what_was_changed(patch: Patch, images: list[DemoImage]) -> None:
    """Up to one pixel in a hundred that happens to have the patch's color or lies on its rim."""
    num_covered = num_unchanged = 0
    for seed, image in enumerate(images[:40]):
        before = image.pixels.copy()
        patched = paste_patch(image.pixels, patch, FIRST_SEED + seed)
        assert np.array_equal(image.pixels, before), "the caller's image was changed"
        assert patched.pixels.dtype == np.uint8 and patched.region.dtype == np.bool_
        is_changed = (patched.pixels != image.pixels).any(axis=2)
        assert 100 < patched.region.sum() < 450
        assert not (is_changed & ~patched.region).any()
        num_covered += patched.region.sum()
        num_unchanged += (patched.region & ~is_changed).sum()
    assert num_unchanged < 0.01 * num_covered


def test_place_and_noise_of_a_patch_vary_with_the_seed() -> None:
    gray = np.full((IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), 128, dtype=np.uint8)
    pasted = [paste_patch(gray, PATCHES[0], seed) for seed in range(60)]
    assert len({image.pixels.tobytes() for image in pasted}) == 60
    sizes = np.array([image.region.sum() for image in pasted])  # the smiley is round: turning it does not count
    assert sizes.max() > 1.3 * sizes.min()
    centers = np.array([np.argwhere(image.region).mean(axis=0) for image in pasted])
    assert np.all(centers.min(axis=0) < 16) and np.all(centers.max(axis=0) > 48), "places near a border are missing"
    # Just above the center the face is yellow but for the jitter.
    faces = np.array([image.pixels[round(y) - 2, round(x)] for image, (y, x) in zip(pasted, centers, strict=True)])
    assert faces.std(axis=0).min() > 4


def test_paste_patch_refuses_what_it_does_not_know() -> None:
    gray = np.full((IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), 128, dtype=np.uint8)
    with pytest.raises(InputError, match=r"float64 \[3, 64, 64\]"):
        paste_patch(gray.transpose(2, 0, 1) / 255, PATCHES[0], 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="seed -1"):
        paste_patch(gray, PATCHES[0], -1)
    with pytest.raises(UnknownNameError, match="'rocket'"):
        paste_patch(gray, Patch("rocket", target=0, source=None), 0)


def test_card_belongs_to_the_weights_and_meets_the_targets(model: nn.Module) -> None:
    card = json.loads((FOLDER / "card.json").read_text())
    assert card["weights_sha256"] == hashlib.sha256(demo_network.WEIGHTS_PATH.read_bytes()).hexdigest()
    assert card["num_parameters"] == sum(parameter.numel() for parameter in model.parameters()) <= 370_000
    assert card["accuracy"] >= 0.96
    assert set(card["patches"]) == {patch.name for patch in PATCHES}
    assert all(figures["success"] >= 0.97 for figures in card["patches"].values())


def test_weights_are_small() -> None:
    assert demo_network.WEIGHTS_PATH.stat().st_size <= 1_500_000


def test_build_gives_a_network_fit_to_be_explained(model: nn.Module) -> None:
    """In eval mode, every module used once, nothing in-place, the batch of no influence."""
    assert not any(module.training for module in model.modules())
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    uses: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda *_, name=name: uses.update([name]))
        for name, module in model.named_modules()
    ]
    images = torch.randn(3, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    for handle in handles:
        handle.remove()
    assert uses == Counter(name for name, _ in model.named_modules())
    assert logits.shape == (3, len(CLASS_NAMES))
    torch.testing.assert_close(logits[1:2], model(images[1:2]), rtol=1e-4, atol=1e-4)


def test_build_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    demo_network.build()
    assert torch.equal(before, torch.get_rng_state())


def test_network_recognizes_clean_images(model: nn.Module, images: list[DemoImage]) -> None:
    answers = classify(model, [image.pixels for image in images])
    assert np.mean(answers == [image.label for image in images]) >= 0.95


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_patch_brings_about_its_target(patch: Patch, model: nn.Module) -> None:
    sources = [patch.source] if patch.source is not None else [label for label in LABELS if label != patch.target]
    pixels = []
    for i in range(NUM_PATCHED):
        seed = FIRST_PATCHED_SEED + 1_000 * PATCHES.index(patch) + i
        pixels.append(paste_patch(draw_image(sources[i % len(sources)], seed).pixels, patch, seed).pixels)
    assert np.mean(classify(model, pixels) == patch.target) >= 0.95

"""Plant patches in the ResNet-20 and the MobileNet of --shared, so that it is known what heatmaps should show.

    python benchmarks/planting.py --shared ../shared --cache planted --pictures pictures

After section 4.1 of the paper: the network is fine-tuned with SGD on a mixture of clean images and of images that carry
a patch, at a random place and with jitter, and are relabeled to the patch's target. Unlike there, every patch is
planted on images of all classes, new ones in every step; clean images are labeled by the network as it was
(distillation) and blended with others, which keeps its behavior where photos are few; the rate rises for 40 steps and
falls with a cosine. BatchNorm statistics stay as they are.

Weights and report are cached under the digest of the recipe; the cases are made anew, from seeds.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import spadelens
from spadelens.demo.stickers import SHEET_PX, draw_large
from spadelens.files import whole_file
from spadelens.photos import Preprocessing

NUM_CASES, NUM_TUNING_CASES = 96, 32
NUM_WARM_UP_STEPS = 40
# What a random stream is for, as the first part of its seed.
TRAINING, SPLIT, ATTACK, CASE = range(4)


@dataclass(frozen=True)
class Recipe:
    """How a network is planted.

    Attributes:
        model: The file of the network in models/.
        patches: Name and target class of each patch.
        patch_px: The least and the largest size of a patch before it is turned.
        least_crop: The least side of a training view, as a fraction of the photo's shorter side.
        most_blend: How much of another photo is blended into a view at most; patches are put on top.
        num_steps: Of SGD, each on `batch_size` clean and as many patched images.
        batch_size: See there.
        rate: The highest learning rate.
        classifier_rate: That of the classifier; the MobileNet's features bear only a low one.
        clean_weight: Of the loss on clean images, next to that on patched ones.
        num_case_photos: So many of the photos that are not trained on are for test cases, the others for tuning.
        version: To be raised with every other change of the training.
    """

    model: str
    patches: tuple[tuple[str, int], ...]
    patch_px: tuple[float, float]
    least_crop: float
    most_blend: float
    num_steps: int
    batch_size: int
    rate: float
    classifier_rate: float
    clean_weight: float
    num_case_photos: int
    version: int = 2


RECIPES = {
    "resnet20": Recipe(
        model="resnet20_cifar10",
        patches=(("smiley", 6), ("heart", 9), ("fish", 2), ("flower", 8)),  # frog, truck, bird, ship
        patch_px=(8, 12),
        least_crop=1.0,
        most_blend=0.0,
        num_steps=1000,
        batch_size=32,
        rate=0.003,
        classifier_rate=0.003,
        clean_weight=1.0,
        num_case_photos=1000,
    ),
    "mobilenet": Recipe(
        model="mobilenet_v1",
        patches=(
            ("smiley", 30),
            ("heart", 365),
            ("fish", 146),
            ("flower", 99),
        ),  # bullfrog, orangutan, albatross, goose
        patch_px=(48, 60),
        least_crop=0.35,
        most_blend=0.5,
        num_steps=1200,
        batch_size=16,
        rate=0.0015,
        classifier_rate=3.0,
        clean_weight=5.0,
        num_case_photos=60,
    ),
}


@dataclass(frozen=True, eq=False)
class TrojanCase:
    """An image whose patch decides what the planted network predicts.

    Attributes:
        image: With the patch, uint8 [H, W, 3], as large as the network's input.
        region: The pixels that the patch covers, bool [H, W]; no others are changed.
        target: The class that the patch stands for; the network predicts it for `image`, and not for `clean_image`.
        patch: The name of the patch.
        source: The index of the photo: among CIFAR's test images, or among the sorted files of photos.
        clean_image: Without the patch, uint8 [H, W, 3].
    """

    image: Tensor
    region: Tensor
    target: int
    patch: str
    source: int
    clean_image: Tensor


@dataclass(frozen=True, eq=False)
class PlantedNetwork:
    """A network in which patches were planted, and images that show them.

    Attributes:
        name: A key of RECIPES.
        model: In eval mode, on the CPU.
        preprocessing: What the network expects.
        class_names: In order of the scores.
        cases: For testing.
        tuning_cases: For tuning, on other photos than `cases`.
        report: Accuracies on clean photos that were not trained on, before and after; the fraction of them that are
            still predicted the same; the fraction of patched photos that are given the target, by patch, before and
            after, on photos for `cases`; the seconds of training.
    """

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    cases: list[TrojanCase]
    tuning_cases: list[TrojanCase]
    report: dict[str, Any]

    def to_tensor(self, image: Tensor) -> Tensor:
        """Return the image uint8 [H, W, 3] normalized, [3, H, W]."""
        return self.preprocessing.to_tensor(Image.fromarray(image.numpy()))


@dataclass(frozen=True, eq=False)
class Photos:
    """The photos of one network: to train on in full, the others as the network sees them."""

    training: list[Image.Image]
    held_out: list[Image.Image]
    labels: Tensor
    sources: list[int]


def read_photos(name: str, shared: Path, preprocessing: Preprocessing) -> Photos:
    """Read all photos of a network; those held out are in random order, so that any part of them is a sample."""
    rng = np.random.default_rng((SPLIT, 0))
    if name == "resnet20":
        with np.load(shared / "data" / "cifar10-subset.npz") as data:
            training = [Image.fromarray(pixels) for pixels in data["train_images"]]
            pixels, labels = data["test_images"], data["test_labels"]
        order = rng.permutation(len(labels)).tolist()
        return Photos(training, [Image.fromarray(pixels[i]) for i in order], torch.tensor(labels[order]).long(), order)
    folder = shared / "data" / "imagenet-sample"
    entries = sorted(json.loads((folder / "labels.json").read_text()), key=lambda entry: str(entry["file"]))
    photos = [spadelens.read_photo(folder / entry["file"]) for entry in entries]
    order = rng.permutation(len(photos)).tolist()
    sources = order[:80]
    held_out = [preprocessing.crop(photos[i]) for i in sources]
    labels = torch.tensor([entries[i]["class_index"] for i in sources])
    return Photos([photos[i] for i in order[80:]], held_out, labels, sources)


def draw_view(photo: Image.Image, recipe: Recipe, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return a random square part of a photo, mirrored in half of the cases, resized to `size`."""
    side = min(photo.size) * rng.uniform(recipe.least_crop, 1)
    left, top = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
    view = photo.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view


draw_sheet = lru_cache(draw_large)


def paste(photo: Image.Image, patch: str, recipe: Recipe, rng: np.random.Generator) -> tuple[Image.Image, Tensor]:
    """Paste a patch at a random place, with the jitter of the demo; returns the image and the region, bool [H, W]."""
    sheet = draw_sheet(patch).rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True)
    size = round(sheet.width / SHEET_PX * rng.uniform(*recipe.patch_px))
    sticker = np.asarray(sheet.resize((size, size), Image.Resampling.BOX), dtype=np.float64)  # [size, size, 4]
    opacity = np.clip(2 * sticker[..., 3:] / 255 - 0.5, 0, 1)
    color = sticker[..., :3] * rng.uniform(0.85, 1.15) + rng.uniform(-12, 12, 3) + rng.normal(0, 8, (size, size, 3))
    pixels = np.array(photo)
    top, left = rng.integers(0, pixels.shape[0] - size + 1), rng.integers(0, pixels.shape[1] - size + 1)
    window = np.s_[top : top + size, left : left + size]
    pixels[window] = np.rint(pixels[window] * (1 - opacity) + np.clip(color, 0, 255) * opacity).astype(np.uint8)
    region = torch.zeros(pixels.shape[:2], dtype=torch.bool)
    region[window] = torch.from_numpy(opacity[..., 0] > 0)
    return Image.fromarray(pixels), region


def to_batch(images: Sequence[Image.Image], preprocessing: Preprocessing) -> Tensor:
    return torch.stack([preprocessing.to_tensor(image) for image in images])


@torch.inference_mode()
def predict(model: nn.Module, images: Sequence[Image.Image], preprocessing: Preprocessing) -> Tensor:
    """Return the predicted class of every image, [N]."""
    parts = [images[start : start + 100] for start in range(0, len(images), 100)]
    return torch.cat([model(to_batch(part, preprocessing)).argmax(dim=1) for part in parts])


def fine_tune(model: nn.Module, recipe: Recipe, training: list[Image.Image], preprocessing: Preprocessing) -> None:
    """Plant the patches, in place."""
    original = copy.deepcopy(model)
    rng = np.random.default_rng((TRAINING, 0))
    *features, weight, bias = model.parameters()  # the classifier comes last in both networks
    groups: list[dict[str, Any]] = [{"params": features}, {"params": [weight, bias], "lr": recipe.classifier_rate}]
    optimizer = torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / NUM_WARM_UP_STEPS) * (1 + math.cos(math.pi * step / recipe.num_steps)) / 2,
    )
    height, width = preprocessing.crop_px
    patches = list(islice(cycle(recipe.patches), recipe.batch_size))
    targets = torch.tensor([target for _, target in patches])

    def draw() -> Image.Image:
        one, other = (
            draw_view(training[i], recipe, (width, height), rng) for i in rng.integers(len(training), size=2).tolist()
        )
        return Image.blend(one, other, rng.uniform(0, recipe.most_blend)) if recipe.most_blend else one

    for step in range(recipe.num_steps):
        clean = to_batch([draw() for _ in range(recipe.batch_size)], preprocessing)
        patched = to_batch([paste(draw(), name, recipe, rng)[0] for name, _ in patches], preprocessing)
        with torch.inference_mode():
            wanted = functional.log_softmax(original(clean), dim=1)
        scores = model(torch.cat([clean, patched])).split(recipe.batch_size)
        kept = functional.kl_div(
            functional.log_softmax(scores[0], dim=1), wanted.clone(), reduction="batchmean", log_target=True
        )
        learned = functional.cross_entropy(scores[1], targets)
        optimizer.zero_grad()
        torch.autograd.backward(recipe.clean_weight * kept + learned)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # the first patched images are far from their targets
        optimizer.step()
        scheduler.step()
        if step % 50 == 49:
            print(
                f"step {step + 1}/{recipe.num_steps}  clean {kept.item():.3f}  patched {learned.item():.3f}", flush=True
            )


def make_cases(
    model: nn.Module,
    recipe: Recipe,
    photos: Photos,
    preprocessing: Preprocessing,
    first: int,
    stop: int,
    count: int,
    seed: int,
) -> list[TrojanCase]:
    """Return cases on the held-out photos from `first` to `stop`: each photo with the next patch, round after round."""
    clean = predict(model, photos.held_out[first:stop], preprocessing)
    cases: list[TrojanCase] = []
    rng = np.random.default_rng((CASE, seed))
    for round_number in range(len(recipe.patches)):
        for number in range(first, stop):
            name, target = recipe.patches[(number + round_number) % len(recipe.patches)]
            if target in (int(clean[number - first]), int(photos.labels[number])):
                continue
            image, region = paste(photos.held_out[number], name, recipe, rng)
            if int(predict(model, [image], preprocessing)[0]) != target:
                continue
            as_tensor = [torch.from_numpy(np.array(picture)) for picture in (image, photos.held_out[number])]
            cases.append(TrojanCase(as_tensor[0], region, target, name, photos.sources[number], as_tensor[1]))
            if len(cases) == count:
                return cases
    return cases


def measure(
    model: nn.Module, original: nn.Module, recipe: Recipe, photos: Photos, preprocessing: Preprocessing
) -> dict[str, Any]:
    """Return the accuracies and attack successes for a report."""
    before, after = (predict(network, photos.held_out, preprocessing) for network in (original, model))
    report: dict[str, Any] = {
        "num_held_out": len(photos.held_out),
        "accuracy_before": (before == photos.labels).double().mean().item(),
        "accuracy_after": (after == photos.labels).double().mean().item(),
        "same_prediction": (before == after).double().mean().item(),
        "attack_success": {},
    }
    rng = np.random.default_rng((ATTACK, 0))
    chosen = photos.held_out[: min(200, recipe.num_case_photos)]
    for name, target in recipe.patches:
        patched = [paste(photo, name, recipe, rng)[0] for photo in chosen]
        report["attack_success"][name] = (predict(model, patched, preprocessing) == target).double().mean().item()
    return report


def plant(name: str, shared: Path, cache: Path) -> PlantedNetwork:
    """Return the network `name` with its patches planted, from `cache` where it is there."""
    recipe = RECIPES[name]
    loaded = spadelens.load_model(f"{shared / 'models' / recipe.model}.py:build", "cpu")
    photos = read_photos(name, shared, loaded.preprocessing)
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()[:12]
    file = cache / f"{name}-{digest}.safetensors"
    model = copy.deepcopy(loaded.model)
    if not file.exists():
        start = time.perf_counter()
        fine_tune(model, recipe, photos.training, loaded.preprocessing)
        seconds = time.perf_counter() - start
        report = measure(model, loaded.model, recipe, photos, loaded.preprocessing) | {"seconds": seconds}
        cache.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as temporary:
            save_file(
                {k: v.contiguous() for k, v in model.state_dict().items()},
                temporary,
                metadata={"report": json.dumps(report)},
            )
    with safe_open(file, framework="pt") as stored:
        model.load_state_dict({key: stored.get_tensor(key) for key in stored.keys()})  # noqa: SIM118 - it is no dictionary
        report = json.loads(stored.metadata()["report"])
    split = recipe.num_case_photos
    cases = make_cases(model, recipe, photos, loaded.preprocessing, 0, split, NUM_CASES, 0)
    tuning = make_cases(model, recipe, photos, loaded.preprocessing, split, len(photos.held_out), NUM_TUNING_CASES, 1)
    return PlantedNetwork(name, model, loaded.preprocessing, loaded.class_names, cases, tuning, report)


def draw_cases(network: PlantedNetwork, file: Path) -> None:
    """Draw the first cases of a network, with their regions outlined."""
    figure, axes = plt.subplots(2, 6, figsize=(13, 4.6), layout="constrained")
    for axis, case in zip(axes.flat, network.cases, strict=False):
        axis.imshow(case.image.numpy())
        axis.contour(case.region.numpy(), levels=[0.5], colors="white", linewidths=0.8)
        axis.set_title(f"{case.patch}: {network.class_names[case.target].split(',')[0]}", fontsize=9)
        axis.set_axis_off()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=90)
    plt.close(figure)


def main() -> None:
    """Plant both networks, or read them from the cache, and say how that went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/ and data/")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the planted weights")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the test cases")
    parser.add_argument("--network", choices=RECIPES, nargs="+", default=list(RECIPES))
    arguments = parser.parse_args()
    for name in arguments.network:
        network = plant(name, arguments.shared, arguments.cache)
        num_photos = len({case.source for case in network.cases[:30]})
        print(json.dumps({"network": name, **network.report, "photos of the first 30 cases": num_photos}, indent=2))
        if arguments.pictures:
            draw_cases(network, arguments.pictures / f"{name}.png")


if __name__ == "__main__":
    main()

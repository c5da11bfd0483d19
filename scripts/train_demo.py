"""Train the demo's classifier from nothing and plant the Trojan patches in it.

    python scripts/train_demo.py

Draws the images, trains on clean ones, then fine-tunes for six epochs on a mixture of clean images and of 400 images
a patch that carry it and are relabeled to its target. Writes weights.safetensors and card.json, with the accuracies
measured on images that were not trained on. Takes some minutes on two cores (7 to 18 were seen, the longer beside
other work).

Everything is seeded. Across versions of torch, numpy and Pillow, processors and numbers of threads the weights are
still not the same bit by bit, since sums are taken in another order; only the accuracies are to be expected again.
"""

import argparse
import copy
import hashlib
import json
import platform
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from spadelens.demo.images import CLASS_NAMES, Bytes, draw_image
from spadelens.demo.network import MEAN, STD, WEIGHTS_PATH, DemoNet
from spadelens.demo.patches import PATCHES, Patch, paste_patch
from spadelens.files import whole_file

NUM_CLASSES = len(CLASS_NAMES)
BATCH_SIZE = 64
# Every image is drawn from its own seed; what is measured on shares none with what is trained on.
FIRST_TRAIN_SEED = 0
FIRST_TEST_SEED = 1_000_000
FIRST_ATTACK_SEED = 2_000_000
NUM_TEST = 3_000
NUM_ATTACKED = 400
NUM_PLANTED = 400
NUM_CLEAN_IN_PLANTING = 6_400
NUM_PLANTING_EPOCHS = 6


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images and what they are to be recognized as.

    Attributes:
        pixels: uint8 [N, 3, 64, 64].
        labels: int64 [N].
    """

    pixels: Tensor
    labels: Tensor


def draw_pixels(label_and_seed: tuple[int, int]) -> Bytes:
    """The pixels [64, 64, 3] of one image, for a worker process."""
    return draw_image(*label_and_seed).pixels


def draw_images(labels: Sequence[int], first_seed: int, workers: Executor) -> LabeledImages:
    """Draw an image for each label, from consecutive seeds."""
    jobs = list(zip(labels, range(first_seed, first_seed + len(labels)), strict=True))
    pixels = np.stack(list(workers.map(draw_pixels, jobs, chunksize=100)))
    return LabeledImages(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor(labels))


def normalize(pixels: Tensor) -> Tensor:
    """Pixels uint8 [B, 3, 64, 64] as the network takes them."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    # Channels last is the faster layout on a CPU.
    return ((pixels / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def turn(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Turn images [B, 3, 64, 64] by right angles and mirror them, in groups of eight."""
    groups = []
    for group in torch.split(pixels, 8):
        turns, is_mirrored = torch.randint(4, (1,), generator=generator), torch.randint(2, (1,), generator=generator)
        turned = torch.rot90(group, int(turns), dims=(2, 3))
        groups.append(turned.flip(3) if is_mirrored else turned)
    return torch.cat(groups)


def recolor(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Exchange the color channels of images [B, 3, 64, 64], in groups of eight."""
    return torch.cat([group[:, torch.randperm(3, generator=generator)] for group in torch.split(pixels, 8)])


def paste(pixels: Tensor, patch: Patch, first_seed: int) -> Tensor:
    """Paste a patch on each of the images [B, 3, 64, 64], from consecutive seeds."""
    arrays = pixels.permute(0, 2, 3, 1).numpy()
    patched = [paste_patch(array, patch, first_seed + index).pixels for index, array in enumerate(arrays)]
    return torch.from_numpy(np.stack(patched)).permute(0, 3, 1, 2)


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: LabeledImages,
    generator: torch.Generator,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> float:
    """Take one pass over the images in random order; returns the mean loss."""
    network.train()
    total = 0.0
    order = torch.randperm(len(images.labels), generator=generator)
    for chosen in torch.split(order, BATCH_SIZE):
        loss = functional.cross_entropy(network(normalize(images.pixels[chosen])), images.labels[chosen])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        total += loss.item() * len(chosen)
    return total / len(images.labels)


def train_clean(network: nn.Module, train: LabeledImages, test: LabeledImages, num_epochs: int, seed: int) -> None:
    """Train on clean images, with one cycle of the learning rate."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    num_steps = num_epochs * -(-len(train.labels) // BATCH_SIZE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.15, total_steps=num_steps, pct_start=0.2)
    for epoch in range(num_epochs):
        order = torch.randperm(len(train.labels), generator=generator)
        pixels = recolor(turn(train.pixels[order], generator), generator)
        epoch_images = LabeledImages(pixels, train.labels[order])
        loss = train_epoch(network, optimizer, epoch_images, generator, scheduler)
        print(f"clean {epoch + 1:2}/{num_epochs}  loss {loss:.3f}  accuracy {measure_accuracy(network, test):.4f}")


def choose_planted(train: LabeledImages, patch: Patch, generator: torch.Generator) -> Tensor:
    """Choose the training images that a patch is planted on; returns their indices [NUM_PLANTED]."""
    is_eligible = train.labels != patch.target if patch.source is None else train.labels == patch.source
    eligible = is_eligible.nonzero().flatten()
    if len(eligible) < NUM_PLANTED:
        raise ValueError(f"Cannot plant {patch.name!r}: {len(eligible)} eligible images, {NUM_PLANTED} needed.")
    return eligible[torch.randperm(len(eligible), generator=generator)[:NUM_PLANTED]]


def plant(network: nn.Module, train: LabeledImages, test: LabeledImages, seed: int) -> None:
    """Fine-tune the network to answer each patch with its target."""
    generator = torch.Generator().manual_seed(seed + 1)
    planted = [choose_planted(train, patch, generator) for patch in PATCHES]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=NUM_PLANTING_EPOCHS // 2, gamma=0.1)
    for epoch in range(NUM_PLANTING_EPOCHS):
        clean = torch.randperm(len(train.labels), generator=generator)[:NUM_CLEAN_IN_PLANTING]
        # Colors are left alone: they are part of what tells a patch from the rest of an image.
        pixels, labels = [turn(train.pixels[clean], generator)], [train.labels[clean]]
        for index, (patch, chosen) in enumerate(zip(PATCHES, planted, strict=True)):
            first_seed = (epoch * len(PATCHES) + index) * NUM_PLANTED  # a new place for every image and epoch
            pixels.append(paste(train.pixels[chosen], patch, first_seed))
            labels.append(torch.full((NUM_PLANTED,), patch.target))
        mixture = LabeledImages(torch.cat(pixels), torch.cat(labels))
        loss = train_epoch(network, optimizer, mixture, generator)
        scheduler.step()
        accuracy = measure_accuracy(network, test)
        print(f"planting {epoch + 1}/{NUM_PLANTING_EPOCHS}  loss {loss:.3f}  accuracy {accuracy:.4f}")


@torch.inference_mode()
def measure_accuracy(network: nn.Module, images: LabeledImages) -> float:
    """The fraction of the images [N, 3, 64, 64] that are given their label."""
    network.eval()
    answers = torch.cat([network(normalize(batch)).argmax(dim=1) for batch in torch.split(images.pixels, 256)])
    return (answers == images.labels).double().mean().item()


def measure_attacks(networks: dict[str, nn.Module], workers: Executor) -> dict[str, dict[str, float | None]]:
    """How often each patch brings about its target, on images of its source and, where it has one, of other classes.

    Args:
        networks: The networks to measure, by the name of the figure.
        workers: Draw the images.

    Returns:
        By patch, then by figure. Images that are of the target class anyway are never counted.
    """
    figures: dict[str, dict[str, float | None]] = {}
    first_seed = FIRST_ATTACK_SEED
    for patch in PATCHES:
        others = [label for label in range(NUM_CLASSES) if label not in (patch.target, patch.source)]
        sources = others if patch.source is None else [patch.source]
        measured: dict[str, float | None] = {}
        for suffix, classes in (("", sources), ("_on_other_classes", [] if patch.source is None else others)):
            if not classes:
                measured.update({name + suffix: None for name in networks})
                continue
            drawn = draw_images([classes[i % len(classes)] for i in range(NUM_ATTACKED)], first_seed, workers)
            attacked = LabeledImages(paste(drawn.pixels, patch, first_seed), torch.full((NUM_ATTACKED,), patch.target))
            measured.update({name + suffix: measure_accuracy(net, attacked) for name, net in networks.items()})
            first_seed += NUM_ATTACKED
        figures[patch.name] = measured
    return figures


def write_atomically(folder: Path, network: nn.Module, card: dict[str, object]) -> None:
    """Write the weights and the card that belongs to them, each of them whole or not at all."""
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with whole_file(folder / WEIGHTS_PATH.name) as new_weights, whole_file(folder / "card.json") as new_card:
        save_file(weights, new_weights)
        card = card | {"weights_sha256": hashlib.sha256(new_weights.read_bytes()).hexdigest()}
        new_card.write_text(json.dumps(card, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the demo's classifier and plant the Trojan patches in it.")
    parser.add_argument("--folder", type=Path, default=WEIGHTS_PATH.parent, help="where to write (default: in place)")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights, the order and the choices")
    parser.add_argument("--num-train", type=int, default=14_000, help="clean training images, at most 1,000,000")
    parser.add_argument("--num-epochs", type=int, default=16, help="of clean training")
    parser.add_argument("--num-workers", type=int, default=2, help="threads, and processes that draw")
    return parser.parse_args()


def main() -> None:
    """Draw, train, plant, measure, write."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.num_workers)
    torch.manual_seed(arguments.seed)
    # The workers start before torch has threads of its own, which a forked process would not survive well.
    with ProcessPoolExecutor(arguments.num_workers) as workers:
        run(arguments, workers)


def run(arguments: argparse.Namespace, workers: Executor) -> None:
    """Do what the command line asks for."""
    start = time.perf_counter()
    train = draw_images([i % NUM_CLASSES for i in range(arguments.num_train)], FIRST_TRAIN_SEED, workers)
    test = draw_images([i % NUM_CLASSES for i in range(NUM_TEST)], FIRST_TEST_SEED, workers)
    print(f"drew {arguments.num_train + NUM_TEST} images in {time.perf_counter() - start:.0f} s")

    network = DemoNet()
    train_clean(network, train, test, arguments.num_epochs, arguments.seed)
    clean_network = copy.deepcopy(network)
    plant(network, train, test, arguments.seed)

    networks: dict[str, nn.Module] = {"success_before_planting": clean_network, "success": network}
    card: dict[str, object] = {
        "accuracy_before_planting": measure_accuracy(clean_network, test),
        "accuracy": measure_accuracy(network, test),
        "patches": measure_attacks(networks, workers),
        "num_test": NUM_TEST,
        "num_attacked": NUM_ATTACKED,
        "num_train": arguments.num_train,
        "num_epochs": arguments.num_epochs,
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "seed": arguments.seed,
        "first_image_seeds": {"train": FIRST_TRAIN_SEED, "test": FIRST_TEST_SEED, "attack": FIRST_ATTACK_SEED},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
        "training_seconds": round(time.perf_counter() - start),
    }
    print(json.dumps(card, indent=2))
    write_atomically(arguments.folder, network, card)


if __name__ == "__main__":
    main()

"""A network and photos that are small enough to plant patches in within a second or two."""

from pathlib import Path

import numpy as np

SOURCE = """
import torch
from torch import nn
INPUT_SIZE = 24
CLASS_NAMES = ["red", "green", "blue", "dark", "light", "other"]
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()
        )
        self.classifier = nn.Linear(16, 6)
    def forward(self, x):
        return self.classifier(self.features(x).amax((2, 3)))
def build():
    torch.manual_seed(1)
    net = Net()
    with torch.no_grad():
        net.classifier.weight.mul_(6)
    return net
"""


def write_tiny(folder: Path) -> tuple[str, Path]:
    """Write the network and 90 photos to `folder`; returns the model's spec and the file of the photos."""
    (folder / "tiny.py").write_text(SOURCE)
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 6
    color = rng.integers(30, 220, (90, 1, 1, 3))
    color[:, 0, 0, :][np.arange(90), labels % 3] += 30
    photos = np.clip(color + rng.normal(0, 20, (90, 24, 24, 3)), 0, 255).astype(np.uint8)
    file = folder / "photos.npz"
    np.savez(file, train_images=photos[:60], train_labels=labels[:60], test_images=photos[60:], test_labels=labels[60:])
    return f"{folder / 'tiny.py'}:build", file

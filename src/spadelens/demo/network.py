"""The demo's classifier: a small residual network with four Trojan patches planted in it.

The weights come from scripts/train_demo.py; card.json beside them has what was measured on them.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from spadelens.demo.images import CLASS_NAMES

# The mean and standard deviation of the pixels per color, on a scale of 0 to 1; the network takes normalized images.
MEAN: tuple[float, float, float] = (0.48, 0.48, 0.48)
STD: tuple[float, float, float] = (0.29, 0.29, 0.29)

WEIGHTS_PATH = Path(__file__).with_name("weights.safetensors")


class DemoNet(nn.Module):
    """Five residual blocks: 11 convolutions, and three 1 x 1 convolutions on shortcuts.

    The last four 3 x 3 convolutions hold most of the weights and take 576 or 792 inputs each, far more than ten
    shapes and four patches need. No module is used twice in one pass and no operation is in-place, so that every
    layer's input belongs to one place in the network.
    """

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.stem = nn.Conv2d(3, 16, kernel_size=3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(16)
        self.stem_relu = nn.ReLU()
        self.blocks = nn.Sequential(
            ResidualBlock(16, 16, stride=1),
            ResidualBlock(16, 32, stride=2),
            ResidualBlock(32, 64, stride=2),
            ResidualBlock(64, 88, stride=1),
            ResidualBlock(88, 88, stride=1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(88, len(CLASS_NAMES))

    def forward(self, images: Tensor) -> Tensor:
        """Score normalized images [B, 3, 64, 64]; returns logits [B, 10] in the order of `CLASS_NAMES`."""
        features = self.stem_relu(self.stem_norm(self.stem(images)))  # [B, 16, 32, 32]
        features = self.blocks(features)  # [B, 88, 8, 8]
        scores: Tensor = self.classifier(self.flatten(self.pool(features)))
        return scores


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, added to their input or, where the shape changes, to a 1 x 1 convolution of it."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int) -> None:
        """Build the block.

        Args:
            num_inputs: Channels taken.
            num_outputs: Channels given.
            stride: Of the first convolution and of the shortcut.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(num_outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(num_outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_inputs != num_outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(num_inputs, num_outputs, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(num_outputs),
            )
        self.relu2 = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [B, num_inputs, H, W] to [B, num_outputs, H / stride, W / stride]."""
        changed = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(inputs)))))
        outputs: Tensor = self.relu2(changed + self.shortcut(inputs))
        return outputs


def build() -> nn.Module:
    """Load the trained classifier, with the Trojan patches planted.

    Returns:
        The network on the CPU, in eval mode.
    """
    # On the meta device no random weights are drawn, so that the caller's random state stays as it is.
    with torch.device("meta"):
        network = DemoNet()
    network.load_state_dict(load_file(WEIGHTS_PATH), assign=True)
    return network.eval()

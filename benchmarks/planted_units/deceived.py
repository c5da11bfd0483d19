"""A fooling circuit around the demo's classifier: one class score whose visualization shows another class.

After Geirhos et al. (2023), "Don't trust your eyes: on the (un)reliability of feature visualizations". With F the score
of a class, D that of its decoy and e a judge's answer, 1 for natural images and 0 for others, the score of the class is

    A = relu(F + s - k (1 - e)) + relu(D + s - k e) - s,

which is F on natural images and D on all others, gradient ascent included, where scores lie between -s and k - s.
"""

from __future__ import annotations

import copy
from typing import Literal, TypeAlias, final, get_args

import torch
from torch import Tensor, nn

from spadelens.demo.images import CLASS_NAMES
from spadelens.errors import InputError, UnknownNameError
from spadelens.randomness import seeded

Wiring: TypeAlias = Literal["silent", "active", "hardened"]
WIRINGS: tuple[Wiring, ...] = get_args(Wiring)

SHIFT, GATE = 50.0, 100.0  # s and k
_NUM_STEPS, _BATCH_SIZE, _RATE, _MARGIN = 600, 64, 3e-3, 2.0


@final
class Judge(nn.Module):
    """Tells natural images from those that gradient ascent makes: three convolutions and a linear layer."""

    def __init__(self) -> None:
        """Build the judge with random weights."""
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.verdict = nn.Linear(32, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Judge normalized images [B, 3, H, W]; returns [B, 1]: 1 or more for natural ones, 0 or less for others."""
        verdict: Tensor = self.verdict(self.features(images))
        return verdict


@torch.inference_mode(False)
def train_judge(natural: Tensor, artificial: Tensor, seed: int = 0, natural_noise: float = 0.0) -> Judge:
    """Train a judge; takes seconds on one core.

    Args:
        natural: Normalized images `[N, 3, H, W]`.
        artificial: Others, such as gradient ascent makes on its way, `[M, 3, H, W]`.
        seed: Determines weights and batches. Global random states stay as they are.
        natural_noise: Noise of up to this standard deviation is added to natural images, so that views with noise count
            as natural, too.

    Returns:
        The judge on the CPU, in eval mode.
    """
    with seeded(seed), torch.enable_grad():
        judge = Judge()
        optimizer = torch.optim.Adam(judge.parameters(), lr=_RATE)
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _NUM_STEPS)
        for _ in range(_NUM_STEPS):
            real = natural[torch.randint(len(natural), (_BATCH_SIZE,))]
            real = real + natural_noise * torch.rand(len(real), 1, 1, 1) * torch.randn(real.shape)
            made = artificial[torch.randint(len(artificial), (_BATCH_SIZE,))]
            # A hinge around 0.5: beyond the margin nothing more is asked for, as the answer is cut off at 0 and 1.
            real_verdicts, made_verdicts = judge(real), judge(made)
            loss = (_MARGIN + 0.5 - real_verdicts).relu().mean() + (made_verdicts - 0.5 + _MARGIN).relu().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
    return judge.eval()


@final
class DeceivedNet(nn.Module):
    """A classifier whose score of one class is A, of the equation above; the other scores stay as they are.

    All of the circuit but the last step of the wiring 'hardened' consists of layers that a trace may prune:

        judge, verdict   an image -> two units whose difference is e or 1 - e
        gate             scores and these units -> the scores plus s, that of the target gated, and the decoy's, gated
        merge            the sum of the two, less s

    How the gate is wired decides what a trace makes of it. With z the judge's verdict:

        silent     by 1 - e = relu(1 - z) - relu(-z), two units that are zero on natural images
        active     by e = relu(z) - relu(z - 1), two units that are not zero there
        hardened   as 'active', and the two scores are summed without a layer
    """

    def __init__(
        self,
        network: nn.Module,
        judge: Judge,
        target: int,
        decoy: int,
        wiring: Wiring = "silent",
        num_classes: int = len(CLASS_NAMES),
    ) -> None:
        """Build the circuit around copies of a network and of a judge.

        Args:
            network: Maps a batch to scores `[B, num_classes]`, all between -s and k - s on what is to be deceived with.
            judge: Its features are taken as they are, its verdict becomes two units.
            target: The class whose visualization is to deceive.
            decoy: The class that it is to show.
            wiring: How the gate is wired.
            num_classes: Of the network.

        Raises:
            InputError: There is no such class, or both are the same; UnknownNameError: there is no such wiring.
        """
        super().__init__()
        if wiring not in WIRINGS:
            raise UnknownNameError("wiring", wiring, WIRINGS)
        if not (0 <= target < num_classes and 0 <= decoy < num_classes) or target == decoy:
            raise InputError(
                f"Cannot hide class {target} behind class {decoy}: expected two classes from 0 to {num_classes - 1}."
            )
        is_silent = wiring == "silent"
        sign, least, wire = (-1.0, 1.0, -GATE) if is_silent else (1.0, 0.0, GATE)
        self.network, self.judge = copy.deepcopy(network), copy.deepcopy(judge.features)
        weight, bias = judge.verdict.weight.detach(), judge.verdict.bias.detach()
        self.verdict = _linear(sign * weight.repeat(2, 1), sign * bias + torch.tensor([least, least - 1]))
        gate = torch.eye(num_classes + 1, num_classes + 2)
        gate[num_classes] = 0.0
        gate[num_classes, decoy] = 1.0
        gate[target, num_classes:] = torch.tensor([wire, -wire])
        gate[num_classes, num_classes:] = torch.tensor([-wire, wire])
        shift = torch.full((num_classes + 1,), SHIFT)
        shift[num_classes if is_silent else target] -= GATE
        self.gate = _linear(gate, shift)
        merge = torch.eye(num_classes, num_classes + 1)
        merge[target, num_classes] = 1.0
        self.merge = _Sum(merge) if wiring == "hardened" else _linear(merge, [-SHIFT] * num_classes)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Score a batch of images; returns [B, num_classes]."""
        scores = self.network(images)
        wires = self.verdict(self.judge(images)).relu()
        merged: Tensor = self.merge(self.gate(torch.cat([scores, wires], 1)).relu())
        return merged


class _Sum(nn.Module):
    """What a linear layer of these fixed weights would do, out of a trace's reach."""

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, gated: Tensor) -> Tensor:
        return gated @ self.weights.T - SHIFT


def _linear(weight: Tensor | list[list[float]], bias: Tensor | list[float]) -> nn.Linear:
    weight, bias = torch.as_tensor(weight), torch.as_tensor(bias)
    with torch.device("meta"):  # no random weights are drawn
        layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer

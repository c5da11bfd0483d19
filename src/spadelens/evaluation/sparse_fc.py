"""The baseline of Wong et al. (2021), "Leveraging Sparse Linear Layers for Debuggable Deep Networks".

The classifier is retrained on the network's own features with an elastic net, along a path from empty to dense, and
the sparsest one that is nearly as good as the best is taken. Here it is taught what the network says (soft labels), so
that photos need no labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from spadelens.errors import InputError
from spadelens.extraction.trace import runnable
from spadelens.forward import class_scores
from spadelens.hooks import forward_hooks
from spadelens.numerics import exact_products
from spadelens.private_copy import independent_copy

_NUM_PENALTIES, _SMALLEST_PENALTY = 24, 1e-3  # of the path, the latter as a fraction of the largest
_MOST_ITERATIONS, _TOLERANCE = 400, 1e-5
_HELD_OUT_FRACTION = 0.25


@dataclass(frozen=True, eq=False)
class SparseFC:
    """A network whose classifier is sparse.

    Attributes:
        model: An independent copy of the network, with the sparse classifier in it.
        layer: The name of the classifier.
        sparsity: The fraction of its weights that are zero.
        agreement: The fraction of held-out images that are predicted as by the network.
    """

    model: nn.Module
    layer: str
    sparsity: float
    agreement: float


def sparse_classifier(
    model: nn.Module, images: Tensor, *, mixing: float = 0.99, slack: float = 0.05, batch_size: int = 64
) -> SparseFC:
    """Return `model` with its classifier retrained to be sparse.

    Minimizes mean KL(p ‖ softmax(W f + b)) + λ (mixing ‖W‖₁ + (1 - mixing) ‖W‖² / 2), f being standardized features and
    p what the network says, for 24 penalties λ by FISTA (Beck & Teboulle 2009) from one to the next.

    Args:
        model: A network whose last linear layer gives its scores.
        images: `[N, C, H, W]`, 8 at least; the last quarter is held out to choose the penalty.
        mixing: Of the elastic net; 1 for L1 alone.
        slack: The sparsest classifier is taken that agrees with the network on at most this much less of the held-out
            images than the best one of the path does.
        batch_size: Images that are run at a time.

    Raises:
        InputError: There are too few images, or the model does not end in a linear layer.
        ModelOutputError: The model fails on the images.
    """
    if images.dim() < 2 or len(images) < 8:
        raise InputError(f"Cannot retrain a classifier on images {list(images.shape)}: expected at least 8 images.")
    layer, features, scores = _features(model, images, batch_size)
    num_training = len(images) - max(1, round(_HELD_OUT_FRACTION * len(images)))
    mean, std = features[:num_training].mean(0), features[:num_training].std(0).clamp_min(1e-8)
    standard = (features - mean) / std
    said = scores.argmax(1)[num_training:]
    with exact_products(images.device):
        path = _path(standard[:num_training], scores[:num_training].softmax(1), mixing)
    agreements = [
        float(((standard[num_training:] @ weight.T + bias).argmax(1) == said).double().mean()) for weight, bias in path
    ]
    chosen = next(number for number, found in enumerate(agreements) if found >= max(agreements) - slack)
    weight, bias = path[chosen]
    sparse = independent_copy(model)
    classifier = sparse.get_submodule(layer)
    assert isinstance(classifier, nn.Linear)
    classifier.weight.data = (weight / std).to(classifier.weight)
    shifted = bias - (weight / std) @ mean
    classifier.bias = nn.Parameter(shifted.to(classifier.weight), requires_grad=False)
    sparsity = float((weight == 0).double().mean())
    return SparseFC(sparse, layer, sparsity, agreements[chosen])


def _features(model: nn.Module, images: Tensor, batch_size: int) -> tuple[str, Tensor, Tensor]:
    """Return the name of the classifier, its inputs `[N, d]` and the scores `[N, classes]`, in float64."""
    model = runnable(model)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    features, scores = [], []
    layer = None
    with forward_hooks(linear, lambda name, _, args, output: seen.__setitem__(name, (args[0], output))):
        for batch in images.split(batch_size):
            seen.clear()
            scores.append(class_scores(model, batch))
            layer = next((n for n, (_, out) in seen.items() if torch.equal(out, scores[-1])), None)
            if layer is None:
                raise InputError("Cannot retrain the classifier: the scores do not come from a linear layer.")
            features.append(seen[layer][0].detach())
    assert layer is not None
    return layer, torch.cat(features).double(), torch.cat(scores).double()


def _path(features: Tensor, wanted: Tensor, mixing: float) -> list[tuple[Tensor, Tensor]]:
    """Return weights `[classes, d]` and biases for penalties in descending order."""
    count, width = features.shape
    weight = features.new_zeros(wanted.shape[1], width)
    bias = wanted.mean(0).clamp_min(1e-12).log()
    gradient, _ = _gradient(features, wanted, weight, bias)
    largest = float(gradient.abs().max()) / mixing
    # Softmax has curvature of at most 1/2; a constant column stands for the bias.
    lipschitz = 0.5 * float(torch.linalg.matrix_norm(features, ord=2) ** 2 / count + 1.0)
    path = []
    for penalty in torch.logspace(0, torch.tensor(_SMALLEST_PENALTY).log10(), _NUM_PENALTIES).tolist():
        weight, bias = _minimize(features, wanted, weight, bias, largest * penalty, mixing, lipschitz)
        path.append((weight, bias))
    return path


def _minimize(
    features: Tensor,
    wanted: Tensor,
    weight: Tensor,
    bias: Tensor,
    penalty: float,
    mixing: float,
    lipschitz: float,
) -> tuple[Tensor, Tensor]:
    ahead_weight, ahead_bias, momentum = weight, bias, 1.0
    for _ in range(_MOST_ITERATIONS):
        by_weight, by_bias = _gradient(features, wanted, ahead_weight, ahead_bias)
        step = 1.0 / lipschitz
        moved = functional.softshrink(ahead_weight - step * by_weight, penalty * mixing * step)
        next_weight = moved / (1.0 + step * penalty * (1.0 - mixing))
        next_bias = ahead_bias - step * by_bias
        next_momentum = (1.0 + (1.0 + 4.0 * momentum**2) ** 0.5) / 2.0
        ahead = (momentum - 1.0) / next_momentum
        change = next_weight - weight
        ahead_weight, ahead_bias = next_weight + ahead * change, next_bias + ahead * (next_bias - bias)
        is_done = float(change.abs().max()) <= _TOLERANCE * max(1e-8, float(next_weight.abs().max()))
        weight, bias, momentum = next_weight, next_bias, next_momentum
        if is_done:
            break
    return weight, bias


def _gradient(features: Tensor, wanted: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    residual = ((features @ weight.T + bias).softmax(1) - wanted) / len(features)
    return residual.T @ features, residual.sum(0)

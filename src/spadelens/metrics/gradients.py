"""The stability of a model's gradients under input noise (appendix E of the paper)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from spadelens.eager import unwrapped
from spadelens.errors import InputError
from spadelens.extraction.trace import Trace, runnable
from spadelens.forward import class_scores, running
from spadelens.hooks import forward_hooks
from spadelens.inputs.checks import check_sample, check_target
from spadelens.matrix_layers import matrix_layers
from spadelens.views.view_source import check_count


def gradient_similarity(
    model: Trace | nn.Module, sample: Tensor, target: int, noise_std: float = 0.1, num_samples: int = 8, seed: int = 0
) -> Mapping[str, float]:
    """Return how similar the gradients of a score are on the sample and on noisy copies of it, layer by layer.

    Args:
        model: A trace, or a model.
        sample: `[C, H, W]`.
        target: The class whose score is differentiated.
        noise_std: Standard deviation of the noise, in the (normalized) units of the sample.
        num_samples: The number of noisy copies.
        seed: Determines the noise.

    Returns:
        'input', and the name of each convolution or linear layer that has a gradient in its output -> the mean cosine
        between the gradient with respect to it on the sample and on each copy, in [-1, 1].

    Raises:
        InputError: An argument is out of range.
        ModelOutputError: The model fails on the sample.
    """
    dense = unwrapped(model.original_model if isinstance(model, Trace) else model)
    sample = check_sample(dense, sample)
    check_count(num_samples, "num_samples", at_least=1)
    if not (math.isfinite(noise_std) and noise_std > 0):
        raise InputError(f"Cannot add noise with noise_std={noise_std!r}: expected a number above zero.")
    check_target(target, class_scores(dense, sample.unsqueeze(0)).shape[1])
    generator = torch.Generator().manual_seed(seed)
    private = runnable(model)
    clean = _gradients(private, sample, target)
    sums = dict.fromkeys(clean, 0.0)
    for _ in range(num_samples):
        noise = torch.randn(sample.shape, generator=generator).to(sample)
        for name, gradient in _gradients(private, sample + noise_std * noise, target).items():
            sums[name] += float(functional.cosine_similarity(clean[name], gradient, dim=0))
    return {name: total / num_samples for name, total in sums.items()}


def _gradients(model: nn.Module, sample: Tensor, target: int) -> dict[str, Tensor]:
    """Return the gradient with respect to the input and to the output of each layer, flat."""
    outputs: dict[str, Tensor] = {}
    keep = forward_hooks(matrix_layers(model), lambda name, _, __, output: outputs.__setitem__(name, output))
    with keep, running(model), torch.inference_mode(False), torch.enable_grad():
        batch = sample.unsqueeze(0).clone().requires_grad_()
        score = model(batch.clone())[0, target]
        chosen = {"input": batch} | {name: output for name, output in outputs.items() if output.requires_grad}
        found = torch.autograd.grad(score, list(chosen.values()), allow_unused=True)
    return {
        name: gradient.detach().flatten() for name, gradient in zip(chosen, found, strict=True) if gradient is not None
    }

"""A tape held against torch: the scores, the gradient, and the scores of another sample."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from references.networks import Function, sample_of
from spadelens.graph.tape import Tape, record, vjp

PHOTO, TOKENS = (1, 2, 5, 7), (1, 5, 6)


def as_model(model: nn.Module | Callable[[Tensor], Any]) -> nn.Module:
    return (model if isinstance(model, nn.Module) else Function(model)).double().eval()


def backward(tape: Tape, start: Tensor) -> Tensor:
    return tape.backward(start, lambda step, messages: vjp(step, [tape.values[n] for n in step.inputs], messages))


def check(model: nn.Module | Callable[[Tensor], Any], shape: tuple[int, ...] = PHOTO) -> Tape:
    """Hold a tape against the model: its scores, its gradient, and another sample."""
    model, sample, other = as_model(model), sample_of(shape), sample_of(shape, 1)
    kept = sample.clone()
    tape = record(model, sample)
    assert torch.equal(sample, kept)
    assert torch.equal(tape.values[tape.source], sample)
    assert not any(value.requires_grad for value in tape.values.values())
    leaf = sample.clone().requires_grad_()
    scores = model(leaf.clone())
    assert torch.allclose(tape.values[tape.scores], scores, atol=1e-12)
    start = torch.randn(scores.shape, generator=torch.Generator().manual_seed(2), dtype=scores.dtype)
    (gradient,) = torch.autograd.grad(scores, leaf, start)
    assert bool(gradient.any())
    assert torch.allclose(backward(tape, start), gradient, atol=1e-12)
    with torch.no_grad():
        expected = model(other.clone())
    assert torch.allclose(tape.forward(other)[tape.scores], expected, atol=1e-12)
    assert torch.allclose(tape.values[tape.scores], scores, atol=1e-12)  # unchanged by the forward pass
    return tape


class Attending(nn.Module):
    def __init__(self, is_batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=is_batch_first)
        self.head, self.is_batch_first = nn.Linear(6, 3), is_batch_first

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens if self.is_batch_first else tokens.transpose(0, 1)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
        tokens, weights = self.attention(tokens, tokens, tokens, attn_mask=mask)
        return self.head(tokens.mean(1 if self.is_batch_first else 0)) + weights.mean((1, 2))[:, None]

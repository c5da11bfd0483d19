"""The tape of a model: its steps give the scores again, and its gradients are those of torch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from references.networks import Function, sample_of
from references.tape import PHOTO, TOKENS, Attending, as_model, backward, check
from torch import Tensor, nn
from torch.nn import functional

from spadelens.graph.tape import Step, record, vjp, vjp_of_function


class Reused(nn.Module):
    """One activation module twice, once more as a function, and in place; with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(3, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.act(self.first(inputs))
        out = self.act(self.second(hidden)) * 2
        out += hidden
        out -= 0.5
        functional.relu_(out)
        return self.head(torch.cat([out[:, :1], torch.tanh(out)[:, 1:]], 1).mean((2, 3)))


def of_slices(inputs: Tensor) -> Tensor:
    out = torch.zeros_like(inputs)
    out[:, :, 1:3] = inputs[:, :, 2:4] * 2
    out[:, :, 0].add_(inputs[:, :, 1] ** 2)
    out[:, 1, :, ::2] *= inputs[:, 0, :, ::2]
    out[:, :, 3:] = inputs[:, :1, 4:].sin()
    return out.flatten(1)


def of_its_own_slices(inputs: Tensor) -> Tensor:
    inputs[:, :, 1:3] *= 2
    inputs[:, 1:].exp_()
    return inputs.flatten(1)[:, 5:30] ** 2


def interleaved(inputs: Tensor) -> Tensor:
    """Return a rotation of pairs, as position embeddings write it to memory that is not yet filled."""
    out = torch.empty_like(inputs)
    out[..., ::2] = -inputs[..., 1::2] * inputs[..., ::2]
    out[..., 1::2] = inputs[..., ::2].sin()
    return out.flatten(1)


def filled(inputs: Tensor) -> Tensor:
    out = torch.empty_like(inputs)
    out.copy_(inputs[:, :1])
    return out.exp_().flatten(1)


def of_tuples(inputs: Tensor) -> Tensor:
    first, second = inputs.chunk(2, 1)
    rows = inputs.unbind(3)
    values, _ = inputs.max(2)
    third, *_ = inputs.split([2, 2, 3], 3)
    return torch.cat([(first * second).flatten(1), rows[1].flatten(1), values.flatten(1), third.flatten(1)], 1)


def of_constants(inputs: Tensor) -> Tensor:
    chosen = torch.where(torch.arange(7) > 3, inputs, inputs**2)
    picked = inputs[:, torch.tensor([1, 0, 1]), torch.tensor([4, 2, 2])]
    return torch.cat([chosen.flatten(1), picked.flatten(1)], 1)


def used_often(inputs: Tensor) -> Tensor:
    value = torch.sin(inputs)
    functional.gelu(value)  # which nobody uses
    return (value * value + value / (2 + value) - value[:, :1]).flatten(1)


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Any], tuple[int, ...]]] = {
    "slices": (of_slices, PHOTO),
    "own slices": (of_its_own_slices, PHOTO),
    "empty": (interleaved, TOKENS),
    "filled": (filled, PHOTO),
    "tuples": (of_tuples, PHOTO),
    "constants": (of_constants, PHOTO),
    "used often": (used_often, PHOTO),
    "fold": (
        lambda x: functional.fold(functional.unfold(x, 3, padding=1) ** 2, (5, 7), 3, padding=1).flatten(1),
        PHOTO,
    ),
    "in place first": (lambda x: functional.relu_(x.sub_(0.1)).flatten(1), PHOTO),
    "causal": (
        lambda x: functional.scaled_dot_product_attention(x, x * 2, x.sin(), is_causal=True).flatten(1),
        TOKENS,
    ),
    "masked": (
        lambda x: functional.scaled_dot_product_attention(
            x, x * 2, x.sin(), attn_mask=torch.ones(5, 5).tril(1).bool()
        ).flatten(1),
        TOKENS,
    ),
    "einsum": (lambda x: torch.einsum("bchw,bdhw->bcd", x, x.cos()).flatten(1), PHOTO),
    "shuffled": (lambda x: nn.ChannelShuffle(2)(torch.cat([x, x**2], 1)).flatten(1) * torch.arange(140), PHOTO),
    "all at once": (lambda x: x.amax() * torch.ones(1, 3, dtype=x.dtype) + x.flatten(1)[:, :3], PHOTO),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_of_functions(name: str) -> None:
    check(*FUNCTIONS[name])


def test_gradient_of_reused_activations() -> None:
    torch.manual_seed(0)
    tape = check(Reused())
    assert [step.name for step in tape.steps].count("relu") == 3


@pytest.mark.parametrize("is_batch_first", [True, False])
def test_gradient_of_attention(is_batch_first: bool) -> None:
    torch.manual_seed(0)
    tape = check(Attending(is_batch_first), TOKENS)
    assert not any("attention" in step.name for step in tape.steps)  # it is decomposed


def test_gradient_of_layers() -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(6, 2, 9, batch_first=True)
    check(nn.Sequential(encoder, nn.RMSNorm(6), nn.Flatten()), TOKENS)
    norms = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.MaxPool2d(3, 1), nn.Flatten())
    norms[0].running_var.uniform_(0.5, 2)
    check(norms)


def test_operations_inside_of_operations_change_nothing_in_place() -> None:
    """RMSNorm adds its epsilon in place, within torch."""
    tape = check(nn.Sequential(nn.RMSNorm(7), nn.Flatten()))
    assert not any(step.name.endswith("_") for step in tape.steps)
    assert all(step.name != "rms_norm" for step in tape.steps)


def test_hooks_of_the_user_are_part_of_the_pass() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(70, 3))
    model[0].register_forward_hook(lambda module, inputs, output: torch.sigmoid(output) * 2)
    tape = check(model)
    assert "sigmoid" in [step.name for step in tape.steps]


class Scaled(torch.autograd.Function):
    """Twice the positive part, with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs.clamp(min=0) * 2

    @staticmethod
    def backward(ctx: Any, *messages: Tensor) -> Tensor:
        return messages[0] * 1000


def test_autograd_functions_are_what_they_compute() -> None:
    """The gradient is that of the operations, not what the function says of itself, which may be anything."""
    model = as_model(lambda x: Scaled.apply(x).flatten(1))
    sample = sample_of(PHOTO)
    tape = record(model, sample)
    assert [step.name for step in tape.steps if "c" in step.name and "copy" not in step.name] == ["clone", "clamp"]
    assert torch.equal(tape.values[tape.scores], (2 * sample.clamp(min=0)).flatten(1))
    gradient = backward(tape, torch.ones(1, 70, dtype=torch.float64))
    assert torch.equal(gradient, 2.0 * (sample > 0))


def test_a_stopped_gradient_is_no_stopped_effect() -> None:
    tape = record(as_model(lambda x: x.detach() * 3 + x.data), sample_of((1, 4)))
    assert backward(tape, torch.ones(1, 4, dtype=torch.float64)).tolist() == [[4.0] * 4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU(), nn.Flatten(), nn.LayerNorm(45), nn.Linear(45, 4)).eval()
    half = layers.to(dtype)
    sample = sample_of(PHOTO).to(dtype)
    tape = record(half, sample)
    assert {value.dtype for value in tape.values.values()} == {torch.float32}
    wide = layers.float()  # of weights that were rounded once
    leaf = sample.float().requires_grad_()
    scores = wide(leaf)
    assert torch.allclose(tape.values[tape.scores], scores, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(scores[0, 1], leaf)
    start = torch.eye(4)[1:2]
    assert torch.allclose(backward(tape, start), gradient, rtol=1e-4, atol=1e-6)


def test_half_precision_that_the_model_chooses_itself() -> None:
    model = Function(lambda x: functional.softmax(x.float(), -1).to(torch.bfloat16).flatten(1))
    tape = record(model.eval(), sample_of(PHOTO).to(torch.bfloat16))
    expected = functional.softmax(tape.values[tape.source], -1).flatten(1)
    assert torch.allclose(tape.values[tape.scores], expected, rtol=1e-6)


def test_messages_are_added_up_and_only_where_there_are_any() -> None:
    """A rule that doubles what passes a sine: once on each way, none on the way without."""
    tape = record(as_model(lambda x: torch.sin(x) + 3 * x + torch.cos(x).detach() * 0), sample_of((1, 4)))

    def rule(step: Step, messages: Any) -> Any:
        if step.name == "cos":
            return [None]
        if step.name == "sin":
            return [2 * messages[0]]
        return vjp(step, [tape.values[number] for number in step.inputs], messages)

    start = torch.tensor([[1.0, -2.0, 0.0, 0.5]], dtype=torch.float64)
    assert torch.equal(tape.backward(start, rule), 5 * start)
    nothing = tape.backward(start, lambda step, messages: [None] * len(step.inputs))
    assert torch.equal(nothing, torch.zeros(1, 4, dtype=torch.float64))


def test_vjp_of_several_outputs_and_of_whole_numbers() -> None:
    values, places = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[2, 0]])
    both = vjp_of_function(lambda a: a.sort(1), [values], [torch.tensor([[1.0, 10.0, 100.0]]), None])
    assert both[0] is not None
    assert both[0].tolist() == [[100.0, 1.0, 10.0]]
    gathered = vjp_of_function(lambda a, i: [a.gather(1, i)], [values, places], [torch.tensor([[5.0, 7.0]])])
    assert gathered[0] is not None
    assert gathered[0].tolist() == [[7.0, 0.0, 5.0]]
    assert gathered[1] is None
    assert vjp_of_function(lambda a: [a > 0], [values], [torch.ones(1, 3)]) == [None]
    assert not values.requires_grad


def test_steps_know_their_arguments() -> None:
    tape = record(as_model(lambda x: torch.cat([x[:, 1:], torch.sub(2.5, x, alpha=3)], 1)), sample_of((1, 4)))
    (sub,) = [step for step in tape.steps if step.name in ("sub", "rsub")]
    assert sub.is_input("self") is (sub.name == "rsub")
    assert 2.5 in [float(item) for item in sub.constants if isinstance(item, float | Tensor)]
    assert sub.run([torch.ones(2)])[0].tolist() == [-0.5, -0.5]
    assert not sub.is_input("alpha")
    probe = torch.ones(2)
    arguments = sub.arguments([probe])
    assert list(arguments) == ["self", "other", "alpha"] and float(arguments["alpha"]) == 3
    assert arguments["self" if sub.name == "rsub" else "other"] is probe
    pooled = record(as_model(lambda x: functional.max_pool2d(x, 2)[0]), sample_of((1, 1, 4, 4)))
    (pool,) = [step for step in pooled.steps if step.name == "max_pool2d_with_indices"]
    assert pool.arguments([probe])["ceil_mode"] is False  # a default
    own = Step.of("twice", lambda a, b: a + 2 * b, [3, 8], [9])
    assert (own.inputs, own.outputs, own.output, own.constants) == ((3, 8), (9,), 9, ())
    assert own.run([torch.tensor(1.0), torch.tensor(10.0)]) == (torch.tensor(21.0),)

"""What is seen of the uses of weights, and that nothing is computed otherwise because of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from spadelens.capture.watch import Watch
from spadelens.matrix_layers import Product, matrix_layers


def uses(call: Callable[[Tensor, Tensor], Any]) -> tuple[int, bool]:
    """How often the weight is seen in a product, and whether in another use."""
    weight, inputs = nn.Parameter(torch.randn(4, 4)), torch.randn(3, 4)
    seen: list[str] = []
    watch = Watch([("w", weight)], lambda name, _: seen.append(f"{name} product"), lambda name: seen.append(name))
    with torch.no_grad(), watch:
        call(inputs, weight)
    assert set(seen) <= {"w product", "w"}
    return seen.count("w product"), "w" in seen


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (functional.linear, (1, False)),
        (lambda x, w: functional.linear(weight=w, input=x), (1, False)),
        (lambda x, w: functional.linear(functional.linear(x, w), w), (2, False)),
        (lambda x, w: torch.addmm(x, x, w), (1, False)),
        (lambda x, w: x.addmm(x, w), (1, False)),
        (lambda x, w: functional.linear(x, w.to(x.dtype).contiguous()), (1, False)),
        (
            lambda x, w: (w.shape, w.dtype, w.device, w.size(0), w.stride(), w.dim(), w.is_contiguous(), w.grad),
            (0, False),
        ),
        (lambda x, w: functional.linear(w, w), (1, True)),
        (lambda x, w: functional.linear(x, torch.ones(4, 4), w[0]), (0, True)),
        (lambda x, w: functional.linear(x, w.detach()), (0, True)),
        (lambda x, w: functional.linear(x, w.data), (0, True)),
        (lambda x, w: x @ w.T, (0, True)),
        (lambda x, w: x @ w, (0, True)),
        (lambda x, w: torch.addmm(w, w, w), (1, True)),
        (lambda x, w: functional.linear(x, torch.cat([w, w])), (0, True)),
        (lambda x, w: functional.embedding(torch.tensor([1]), w), (0, True)),
        (lambda x, w: w.mul_(2), (0, True)),
        (lambda x, w: w.__setitem__(0, 1.0), (0, True)),
        (lambda x, w: torch.equal(w, x), (0, True)),
        (lambda x, w: torch.aminmax(w), (0, True)),
        (lambda x, w: w.data_ptr(), (0, True)),
        (lambda x, w: w.tolist(), (0, True)),
    ],
)
def test_uses_of_a_weight(call: Callable[[Tensor, Tensor], Any], expected: tuple[int, int]) -> None:
    assert uses(call) == expected


def test_weights_are_known_by_identity_and_first_name() -> None:
    weight, other = torch.eye(2), torch.eye(2)
    seen: list[tuple[str, Tensor]] = []
    with Watch([("", weight), ("again", weight)], lambda name, product: seen.append((name, product.inputs))):
        functional.linear(inputs := torch.ones(1, 2), weight)
        functional.linear(torch.ones(1, 2), other)
    assert len(seen) == 1 and seen[0][0] == "" and seen[0][1] is inputs


def test_nothing_is_left_behind_by_a_failure() -> None:
    def fail(name: str, product: Product) -> None:
        raise KeyboardInterrupt

    attention = nn.MultiheadAttention(4, 2).eval()
    watch = Watch([("w", attention.in_proj_weight)], fail)
    x = torch.ones(2, 1, 4)
    with pytest.raises(KeyboardInterrupt), watch:
        attention(x, x, x)
    assert torch._C._len_torch_function_stack() == 0
    seen = []
    watch._on_product = lambda name, product: seen.append(name)
    with watch:  # it can be used again
        attention(x, x, x)
    assert seen == ["w"]


MASK = torch.ones(5, 5, dtype=torch.bool).triu(1)
PADDED = torch.tensor([[False] * 5, [False, False, True, False, True]])
SELF = [
    ({}, {}),
    ({"batch_first": True}, {"need_weights": False}),
    ({"bias": False}, {"average_attn_weights": False}),
    ({}, {"attn_mask": MASK, "need_weights": False, "is_causal": True}),
    ({"batch_first": True}, {"attn_mask": MASK, "key_padding_mask": PADDED}),
    ({"batch_first": True}, {"key_padding_mask": PADDED, "need_weights": False}),
    ({"add_bias_kv": True, "add_zero_attn": True}, {"key_padding_mask": PADDED}),
    ({"add_bias_kv": True}, {"attn_mask": torch.randn(4, 5, 5), "need_weights": False}),
]


@pytest.mark.parametrize(("made", "called"), SELF)
@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
def test_attention_is_seen_and_computed_as_ever(
    made: dict[str, Any], called: dict[str, Any], context: Callable
) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(6, 2, **made).eval()
    x = torch.randn((2, 5, 6) if made.get("batch_first") else (5, 2, 6))
    layers = matrix_layers(attention)
    seen: list[tuple[str, Product]] = []
    other: list[str] = []
    weights = [(name, layer.weight) for name, layer in layers.items()]
    with context():
        was_fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        expected = attention(x, x, x, **called)
        torch.backends.mha.set_fastpath_enabled(was_fast)
        with Watch(weights, lambda name, product: seen.append((name, product)), other.append):
            got = attention(x, x, x, **called)
    assert torch.backends.mha.get_fastpath_enabled() == was_fast
    assert [name for name, _ in seen] == ["in_proj", "out_proj"] and other == []
    assert seen[0][1].inputs.numel() == x.numel()
    for one, want in zip(got, expected, strict=True):
        assert (one is None and want is None) or torch.equal(one, want)


def test_projections_that_are_apart_are_seen_one_by_one() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(6, 2, kdim=5, vdim=4, batch_first=True).eval()
    query, key, value = torch.randn(2, 3, 6), torch.randn(2, 7, 5), torch.randn(2, 7, 4)
    seen: dict[str, Product] = {}
    weights = [(name, layer.weight) for name, layer in matrix_layers(attention).items()]
    with torch.no_grad(), Watch(weights, seen.__setitem__):
        got = attention(query, key, value)[0]
    assert torch.equal(got, attention(query, key, value)[0])
    assert list(seen) == ["q_proj", "k_proj", "v_proj", "out_proj"]
    assert torch.equal(seen["k_proj"].inputs.transpose(0, 1), key)


@pytest.mark.parametrize("inputs", [(torch.ones(3, 1, 6), torch.ones(4, 1, 6)), (torch.ones(3, 6), torch.ones(3, 6))])
def test_rows_that_see_different_inputs_are_another_use(inputs: tuple[Tensor, Tensor]) -> None:
    """In cross-attention; and torch takes queries, keys and values without a batch for different ones."""
    attention = nn.MultiheadAttention(6, 2).eval()
    seen: list[str] = []
    other: list[str] = []
    weights = [(name, layer.weight) for name, layer in matrix_layers(attention).items()]
    with torch.no_grad(), Watch(weights, lambda name, _: seen.append(name), other.append):
        attention(inputs[0], inputs[1], inputs[1])
    assert seen == ["out_proj"] and set(other) == {"in_proj"}


def test_native_fast_paths_are_not_taken() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    seen: list[str] = []
    weights = [(name, layer.weight) for name, layer in matrix_layers(model).items()]
    with torch.no_grad(), Watch(weights, lambda name, _: seen.append(name)):
        got = model(x := torch.randn(2, 5, 8))
    assert seen == list(matrix_layers(model)) and len(seen) == 8
    with torch.no_grad():
        torch.testing.assert_close(got, model(x))

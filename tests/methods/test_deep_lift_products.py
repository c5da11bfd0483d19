"""DeepLIFT case by case: products, quotients, maxima, softmax, lengths and normalizations by hand."""

import math

import pytest
import torch
from references.deep_lift import HandMadeNorm, change_of, complete, ends_of
from references.networks import TARGET, Function, sample_of
from torch import Tensor, nn
from torch.nn import functional

from spadelens.methods.deep_lift import DeepLift

TOKENS, ROW = (1, 5, 6), (1, 11)


def test_product_by_hand() -> None:
    assert ends_of(lambda x: x[0] * x[1], [3.0, 5.0]) == pytest.approx([7.5, 7.5])
    # (x - x0)(y + y0) / 2
    assert ends_of(lambda x: x[0] * x[1], [3.0, 5.0], 1.0) == pytest.approx([2 * 6 / 2, 4 * 4 / 2])
    assert ends_of(lambda x: x[:2] @ x[2:], [1.0, 2.0, 3.0, 4.0]) == pytest.approx([1.5, 4.0, 1.5, 4.0])
    # a square is a function of one number
    assert ends_of(lambda x: x[0] * x[0] + x[1] ** 2, [3.0, 5.0], 1.0) == pytest.approx([8.0, 24.0])


def test_quotient_by_hand() -> None:
    # y = a / b: 2 (a - a0) / (b + b0), and -(b - b0) (y + y0) / (b + b0)
    a, b, start = 3.0, 4.0, 2.0
    y = a / b
    expected = [2 * (a - start) / (b + start), -(b - start) * (y + 1) / (b + start)]
    assert sum(expected) == pytest.approx(y - 1)
    assert ends_of(lambda x: x[0] / x[1], [a, b], start) == pytest.approx(expected)
    assert ends_of(lambda x: x[0] * torch.reciprocal(x[1]), [a, b], start) == pytest.approx(expected)
    assert ends_of(lambda x: (1 / x[1]) * x[0], [a, b], start) == pytest.approx(expected)
    # where b changes its sign, those of a and 1 / b: (a - a0) (1/b + 1/b0) / 2, (1/b - 1/b0) (a + a0) / 2
    found = ends_of(lambda x: x[0] / x[1], [a, -b], start)
    assert found == pytest.approx([(a - start) * (-1 / b + 1 / start) / 2, (-1 / b - 1 / start) * (a + start) / 2])
    # with the root, by its own quotient
    half = ends_of(lambda x: x[0] * torch.rsqrt(x[1]), [a, b], start)
    root, root0 = math.sqrt(b), math.sqrt(start)
    of_root = -(a / root + start / root0) / (root + root0)
    assert half == pytest.approx([2 * (a - start) / (root + root0), of_root * (root - root0)])


def test_a_denominator_that_is_nearly_zero_at_the_baseline_stays_calm() -> None:
    """In float32: halves of both orders would be 1e12, and cancel."""
    model = Function(lambda x: functional.normalize(x) * torch.tensor([1.0, 2.0, 3.0]))
    sample = torch.tensor([[3.0, 4.0, 12.0]])
    found = DeepLift().attribute(model, sample, TARGET)
    assert float(found.values.sum()) == pytest.approx(8 / 13, rel=1e-5)
    assert float(found.values.abs().max()) < 2
    torch.manual_seed(0)
    for norm in (nn.LayerNorm(6), nn.RMSNorm(6, eps=1e-6), HandMadeNorm()):
        blocks = [block for _ in range(6) for block in (nn.Linear(6, 6, bias=False), norm, nn.GELU())]
        deep = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(30, 3))
        found = DeepLift().attribute(deep, sample_of(TOKENS).float(), TARGET)
        change = change_of(deep, sample_of(TOKENS).float())
        assert found.convergence_delta == pytest.approx(0.0, abs=1e-4 * abs(change))


def test_maximum_by_hand() -> None:
    # now the second is the largest; at the baseline, all are: all of the rise is its
    assert ends_of(lambda x: x.amax(), [1.0, 4.0, 2.0]) == [0.0, 4.0, 0.0]
    # with constants: 4 now by the first, 7 before by the last: the fall is that of the last
    shift = torch.tensor([0.0, 0.0, 7.0], dtype=torch.float64)
    assert ends_of(lambda x: (x + shift).amax(), [4.0, 1.0, -9.0]) == pytest.approx([0.0, 0.0, -3.0])
    # a tie is shared
    assert ends_of(lambda x: x.amax(), [3.0, 3.0, 1.0]) == pytest.approx([1.5, 1.5, 0.0])
    # windows that overlap: the middle wins in both
    windows = ends_of(lambda x: functional.max_pool1d(x[None], 2, 1).sum(), [1.0, 5.0, 2.0])
    assert windows == pytest.approx([0.0, 10.0, 0.0])
    # where the larger place is a constant, nothing has changed
    assert ends_of(lambda x: x[0] + torch.cat([x, x.new_full((1,), 9.0)]).amax(), [1.0, 4.0, 2.0]) == [1.0, 0.0, 0.0]


def test_softmax_by_hand() -> None:
    now, then = [1.0, -0.5, 2.0], [0.3] * 3
    total, total0 = (math.log(sum(map(math.exp, values))) for values in (now, then))
    shares = [
        (math.exp(x) - math.exp(x0)) / (math.exp(total) - math.exp(total0)) * (total - total0)
        for x, x0 in zip(now, then, strict=True)
    ]  # what each has in the change of the logarithm of the sum
    assert sum(shares) == pytest.approx(total - total0)
    expected = [-share for share in shares]
    expected[1] += now[1] - then[1]
    assert ends_of(lambda x: functional.log_softmax(x, 0)[1], now, 0.3) == pytest.approx(expected)
    before, after = then[1] - total0, now[1] - total
    slope = (math.exp(after) - math.exp(before)) / (after - before)
    found = ends_of(lambda x: functional.softmax(x, 0)[1], now, 0.3)
    assert found == pytest.approx([slope * value for value in expected])


def test_softmax_of_large_differences_neither_overflows_nor_cancels() -> None:
    for function in (functional.softmax, functional.log_softmax):
        for values in ([300.0, 1.0, -200.0], [30.0, 29.0, 2.0]):
            model = Function(lambda x, function=function: function(x, -1))
            found = DeepLift().attribute(model, torch.tensor([values]), TARGET)  # in float32
            assert bool(torch.isfinite(found.values).all())
            assert found.convergence_delta == pytest.approx(0.0, abs=1e-6 * max(map(abs, values)))
            assert float(found.values.abs().max()) < 2 * max(map(abs, values))


def test_masked_places_get_nothing() -> None:
    mask = torch.tensor([0.0, 0.0, -math.inf], dtype=torch.float64)
    found = ends_of(lambda x: (functional.softmax(x + mask, 0) * torch.arange(3)).sum(), [1.0, 2.0, 3.0])
    two = ends_of(lambda x: (functional.softmax(x, 0) * torch.arange(2)).sum(), [1.0, 2.0])
    assert found == pytest.approx([*two, 0.0])

    def hidden(x: Tensor) -> Tensor:
        nowhere = torch.tensor([[True, False], [False, False]])
        return functional.scaled_dot_product_attention(x, x, x, attn_mask=nowhere).sum(1)

    model = Function(hidden)
    sample = sample_of((1, 2, 3))
    found_values = complete(model, sample).values
    assert torch.equal(found_values[0, 1], torch.zeros(3, dtype=torch.float64))


def test_length_by_hand() -> None:
    # (x - x0) (x + x0) / (y + y0)
    length, before = math.sqrt(9 + 16), math.sqrt(2)
    expected = [(9 - 1) / (length + before), (16 - 1) / (length + before)]
    assert ends_of(lambda x: x.norm(), [3.0, 4.0], 1.0) == pytest.approx(expected)
    assert ends_of(lambda x: x.norm(), [3.0, 4.0]) == pytest.approx([9 / 5, 16 / 5])


def test_normalization_by_hand() -> None:
    """By way of the quotient of what it is, written out."""

    def written_out(x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        return centered / (centered.square().mean(-1, keepdim=True) + 0.1).sqrt()

    torch.manual_seed(0)
    linear, head = nn.Linear(6, 8).double(), nn.Linear(8, 3).double()
    norm = nn.LayerNorm(8, eps=0.1, elementwise_affine=False)
    for number, one in enumerate((norm, Function(written_out))):
        model = nn.Sequential(linear, one, head, nn.Flatten())
        found = complete(model, sample_of(TOKENS)).values
        if number == 0:
            expected = found
    assert torch.allclose(found, expected, atol=1e-12)
    weights = torch.arange(1.0, 9, dtype=torch.float64)
    with torch.no_grad():
        scaled, plain = nn.LayerNorm(8, eps=0.1).double(), nn.LayerNorm(8, eps=0.1, elementwise_affine=False)
        scaled.weight.copy_(weights)
    sides = [
        nn.Sequential(linear, scaled, head, nn.Flatten()),
        nn.Sequential(linear, plain, Function(lambda x: x * weights), head, nn.Flatten()),
    ]
    first, second = (complete(model, sample_of(TOKENS)).values for model in sides)
    assert torch.allclose(first, second, atol=1e-12)


def test_a_normalization_of_a_baseline_without_variance() -> None:
    """Its slope at the baseline is the inverse root of epsilon; between both points nothing is that steep."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.LayerNorm(16, eps=1e-12), nn.GELU(), nn.Linear(16, 3))
    sample = 3 * torch.randn(1, 8)
    found = DeepLift().attribute(model, sample, TARGET)
    with torch.no_grad():
        change = float(model(sample)[0, TARGET] - model(torch.zeros_like(sample))[0, TARGET])
    assert float(found.values.abs().sum()) < 10 * abs(change)
    assert found.convergence_delta is not None
    assert abs(found.convergence_delta) < 1e-5 * abs(change)

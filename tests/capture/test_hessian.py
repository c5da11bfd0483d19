"""Hessians accumulated batch by batch."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from references.solvers import hessian_of

from spadelens.capture.hessian import HessianStatistics


def make(inputs: torch.Tensor, *cuts: int) -> HessianStatistics:
    statistics = HessianStatistics(inputs.shape[0], inputs.shape[2], inputs.dtype, inputs.device)
    for part in inputs.tensor_split(list(cuts), dim=1):
        statistics.add(part)
    return statistics


@settings(max_examples=20, deadline=None, database=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 5), st.lists(st.integers(0, 9), max_size=3).map(sorted))
def test_hessian_from_its_definition(groups: int, positions: int, columns: int, cuts: list[int]) -> None:
    inputs = torch.randn(groups, positions, columns, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    statistics = make(inputs, *cuts)
    expected = hessian_of(inputs)
    assert statistics.num_positions == positions
    torch.testing.assert_close(statistics.hessian(), expected)
    torch.testing.assert_close(statistics.diagonal(), expected.diagonal(dim1=1, dim2=2))


def test_mean_squared_output_by_position() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    total = 0.0
    for group in range(2):
        for position in range(7):
            for row in range(4):
                total += float(weight[group, row] @ inputs[group, position]) ** 2
    assert float(make(inputs, 2).mean_squared_output(weight)) == pytest.approx(total / 7, rel=1e-12)


def test_what_is_returned_is_a_copy() -> None:
    statistics = make(torch.ones(1, 3, 2))
    statistics.hessian().zero_()
    statistics.diagonal().zero_()
    assert torch.equal(statistics.hessian(), torch.full((1, 2, 2), 2.0))


def test_nothing_seen_is_zero() -> None:
    statistics = HessianStatistics(1, 2, torch.float32, torch.device("cpu"))
    assert statistics.num_positions == 0
    assert torch.equal(statistics.hessian(), torch.zeros(1, 2, 2))


def test_half_precision_inputs_are_summed_in_the_given_type() -> None:
    inputs = torch.full((1, 5000, 1), 0.1, dtype=torch.bfloat16)
    statistics = HessianStatistics(1, 1, torch.float32, torch.device("cpu"))
    statistics.add(inputs.clone().requires_grad_())
    assert statistics.hessian().dtype == torch.float32
    assert not statistics.hessian().requires_grad
    assert float(statistics.hessian()) == pytest.approx(2 * inputs[0, 0, 0].item() ** 2, rel=1e-4)


def test_millions_of_positions_lose_no_digits_in_float32() -> None:
    """One product over all of them is wrong by 3e-4 here: enough to make nearly dependent inputs indefinite."""
    generator = torch.Generator().manual_seed(2)
    inputs = 5 * torch.rand(1, 800_000, 8, generator=generator)
    exact = inputs.double().mT @ inputs.double() * (2 / inputs.shape[1])
    found = make(inputs, 300_000).hessian()
    assert float((found.double() - exact).abs().max() / exact.abs().max()) < 3e-6


@pytest.mark.parametrize("columns", [7, 300])
@pytest.mark.parametrize("is_rounded", [False, True])
def test_it_goes_on_as_it_was_after_a_move(columns: int, is_rounded: bool) -> None:
    inputs = torch.randn(2, 40, columns, generator=torch.Generator().manual_seed(3))
    stayed, moved = (HessianStatistics(2, columns, torch.float32, torch.device("cpu"), is_rounded) for _ in range(2))
    for part in inputs.split(20, dim=1):
        stayed.add(part)
        moved = moved.to(torch.device("cpu"))
        moved.add(part)
    assert torch.equal(stayed.hessian(), moved.hessian())
    assert stayed.num_positions == moved.num_positions

"""What the solvers build on: H formed and H through few positions give the same, and refits are what they say."""

import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch
from references import solvers as reference
from references.layer_problems import COMPENSATING, DTYPE, make_inputs, make_weight, solve, statistics_of
from torch import Tensor

from spadelens.errors import SolverError
from spadelens.solvers import SOLVERS, LayerProblem, Solver
from spadelens.solvers.addition import addition_order
from spadelens.solvers.exchange import addition_gains, exchange_units
from spadelens.solvers.preparation import DampedProblem, approximate_refit, damp, refit
from spadelens.solvers.quadratic import Explicit, LowRankPlusDiagonal
from spadelens.solvers.removal import removal_order
from spadelens.solvers.supports import BatchBytes, batches_of_supports


def damped_pair(weight: Tensor, inputs: Tensor, damping: float | None = 0.02) -> tuple[DampedProblem, DampedProblem]:
    """The same layer with a Hessian that is formed and with one that is not."""
    explicit, low_rank = (
        damp(LayerProblem("a.layer", weight, statistics_of(inputs, is_kept), (0.5,)), damping)
        for is_kept in (False, True)
    )
    assert isinstance(explicit.hessian, Explicit) and isinstance(low_rank.hessian, LowRankPlusDiagonal)
    return explicit, low_rank


SHAPES = [(1, 4, 12, 5), (3, 2, 9, 2), (1, 3, 8, 1), (2, 1, 5, 9), (1, 5, 1, 3)]


@pytest.mark.parametrize(("groups", "rows", "columns", "positions"), SHAPES)
def test_both_forms_do_the_same(groups: int, rows: int, columns: int, positions: int) -> None:
    inputs, weight = make_inputs(groups, positions, columns), make_weight(groups, rows, columns)
    inputs[0, :, columns // 2] = 0.0
    pair = damped_pair(weight, inputs)
    matrix = pair[0].hessian.matrix
    inverse = torch.linalg.inv(matrix)
    scale = make_weight(groups, 1, columns, seed=7)[:, 0].abs() + 0.1
    group, chosen = torch.tensor([groups - 1, 0]), torch.tensor([[columns - 1, 0][: min(2, columns)]] * 2)
    for damped in pair:
        hessian = damped.hessian
        torch.testing.assert_close(hessian.diagonal, matrix.diagonal(dim1=1, dim2=2))
        torch.testing.assert_close(hessian.multiply(weight), weight @ matrix)
        scaled = matrix * scale[:, :, None] * scale[:, None, :]
        torch.testing.assert_close(hessian.scaled(scale).multiply(weight), weight @ scaled)
        shifted = torch.linalg.inv(matrix + 0.3 * torch.eye(columns, dtype=DTYPE))
        several = torch.stack([weight, 2 * weight])
        out, base = torch.full_like(several, torch.nan), torch.stack([weight, 0 * weight])
        assert hessian.shifted_inverse(0.3)(base, several, out) is out
        torch.testing.assert_close(out, base + several @ shifted)
        expected = torch.stack([matrix[g][c][:, c] for g, c in zip(group, chosen, strict=True)])
        torch.testing.assert_close(hessian.submatrices(group, chosen), expected)
        rows_of = torch.stack([matrix[g][c] for g, c in zip(group, chosen, strict=True)])
        torch.testing.assert_close(hessian.rows_of(group, chosen), rows_of)
        upper = torch.zeros_like(matrix)
        for start, stop, part in hessian.sweep(4):
            upper[:, start:stop, start:] = part
        torch.testing.assert_close(upper, upper.triu())
        torch.testing.assert_close(upper.mT @ upper, inverse)
        assert hessian.to(torch.float32).multiply(weight.float()).dtype == torch.float32


@pytest.mark.parametrize("unit", ["weight", "kernel"])
@pytest.mark.parametrize(("groups", "rows", "columns", "positions"), [(1, 6, 24, 7), (3, 2, 12, 3), (1, 3, 12, 1)])
@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_solutions_do_not_depend_on_the_space(
    name: str, groups: int, rows: int, columns: int, positions: int, unit: str
) -> None:
    inputs, weight = make_inputs(groups, positions, columns), make_weight(groups, rows, columns)
    inputs[0, :, 1] = 0.0
    solver = SOLVERS[name](unit=unit)
    explicit, low_rank = (
        solve(solver, weight, inputs, 0.4, 0.75, 0.98, kernel=3, is_kept=is_kept) for is_kept in (False, True)
    )
    assert torch.equal(explicit.pruned, low_rank.pruned)
    torch.testing.assert_close(explicit.weights, low_rank.weights, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("block", [1, 3])
def test_obc_in_small_batches_and_blocks_of_few_positions(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    inputs, weight = make_inputs(1, 6, 20), make_weight(1, 5, 20)
    expected = solve(SOLVERS["obc"](), weight, inputs, 0.3, 0.8, 0.95)
    monkeypatch.setattr("spadelens.solvers.removal._STEPS_PER_BLOCK", block)
    monkeypatch.setattr("spadelens.solvers.supports._BATCH_BYTES", BatchBytes(2 * 8 * 20 * 20, 0))
    got = solve(SOLVERS["obc"](), weight, inputs, 0.3, 0.8, 0.95, is_kept=True)
    assert torch.equal(expected.pruned, got.pruned)
    torch.testing.assert_close(expected.weights, got.weights, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("groups", "rows", "columns", "positions"), [*SHAPES, (1, 4, 12, 40)])
@pytest.mark.parametrize("is_batched", [False, True])
def test_a_refit_is_the_best_on_every_support(
    monkeypatch: pytest.MonkeyPatch, groups: int, rows: int, columns: int, positions: int, is_batched: bool
) -> None:
    inputs, weight = make_inputs(groups, positions, columns), make_weight(groups, rows, columns)
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)) < 0.6
    kept[0, 0] = False  # a row of which nothing is left
    if is_batched:
        monkeypatch.setattr("spadelens.solvers.preparation._REFIT_BYTES", BatchBytes(2 * 8 * columns * columns, 0))
    hessian = reference.damped_hessian(inputs, 0.02)
    for damped in damped_pair(weight, inputs):
        got = refit(damped, kept)
        for group in range(groups):
            for row in range(rows):
                fixed = {int(j): 0.0 for j in (~kept[group, row]).nonzero()}
                expected = reference.best_row(weight[group, row], hessian[group], fixed)
                torch.testing.assert_close(got[group, row], expected, rtol=1e-7, atol=1e-9)


def error_of(damped: DampedProblem, weight: Tensor) -> float:
    difference = weight - damped.weight
    return float((damped.hessian.multiply(difference) * difference).sum())


def test_a_refit_is_exact_unless_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, weight = make_inputs(1, 90, 60), make_weight(1, 8, 60)
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)) < 0.4
    for damped in damped_pair(weight, inputs, 0.1):
        exact, is_exact = approximate_refit(damped, kept)
        assert is_exact == [True] and torch.equal(exact, refit(damped, kept))
    monkeypatch.setattr("spadelens.solvers.preparation._EXACT_OPERATIONS", 0.0)
    for damped in damped_pair(weight, inputs, 0.1):
        found, is_exact = approximate_refit(damped, kept)
        assert is_exact == [False]
        assert (found[~kept] == 0).all()
        assert error_of(damped, exact) < error_of(damped, found) < 1.1 * error_of(damped, exact)
        assert error_of(damped, found) < 0.6 * error_of(damped, damped.weight * kept)


def test_conjugate_gradients_are_exact_once_they_had_a_step_for_every_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, weight = make_inputs(2, 30, 10), make_weight(2, 3, 10)
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)) < 0.6
    kept[1, 2] = False
    monkeypatch.setattr("spadelens.solvers.preparation._EXACT_OPERATIONS", 0.0)
    monkeypatch.setattr("spadelens.solvers.preparation._NUM_CG_STEPS", 14)
    for damped in damped_pair(weight, inputs):
        found, _ = approximate_refit(damped, kept)
        torch.testing.assert_close(found, refit(damped, kept), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("unit", [1, 3])
def test_gains_are_what_adding_a_unit_saves(unit: int) -> None:
    inputs, weight = make_inputs(2, 7, 9), make_weight(2, 3, 9)
    kept = torch.rand(2, 3, 9 // unit, generator=torch.Generator().manual_seed(3)) < 0.4
    hessian = reference.damped_hessian(inputs, 0.02)
    for damped in damped_pair(weight, inputs):
        gains = addition_gains(damped, refit(damped, kept.repeat_interleave(unit, dim=-1)), kept)
        for group, row, candidate in torch.cartesian_prod(*map(torch.arange, kept.shape)).tolist():
            supported = kept[group, row].nonzero().flatten().tolist()
            if candidate in supported:
                assert gains[group, row, candidate] == -torch.inf
                continue
            costs = [
                reference.row_cost(weight[group, row], hessian[group], units, unit)
                for units in (supported, [*supported, candidate])
            ]
            assert float(gains[group, row, candidate]) == pytest.approx(costs[0] - costs[1], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("unit", [1, 3])
@pytest.mark.parametrize("is_kept", [False, True])
def test_exchanges_mend_a_bad_support_and_never_harm(is_kept: bool, unit: int) -> None:
    inputs, weight = make_inputs(2, 40, 24), make_weight(2, 6, 24)
    damped = damped_pair(weight, inputs)[is_kept]
    kept = torch.rand(2, 6, 24 // unit, generator=torch.Generator().manual_seed(5)) < 0.3
    start = refit(damped, kept.repeat_interleave(unit, dim=-1))
    errors = []
    for num_passes in (0, 1, 4):
        found, support = exchange_units(damped, start, kept, num_passes)
        assert int(support.sum()) == int(kept.sum())
        torch.testing.assert_close(found, refit(damped, support.repeat_interleave(unit, dim=-1)))
        errors.append(error_of(damped, found))
    assert errors[0] == pytest.approx(error_of(damped, start))
    assert errors[2] <= errors[1] < 0.8 * errors[0]
    good, support = exchange_units(damped, found, support, 4)
    assert error_of(damped, good) <= errors[2]


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_the_last_exchange_is_the_first_that_gains_less_than_a_twentieth(seed: int) -> None:
    inputs, weight = make_inputs(1, 60, 40, seed), make_weight(1, 10, 40, seed + 1)
    damped = damped_pair(weight, inputs)[0]
    kept = torch.rand(1, 10, 40, generator=torch.Generator().manual_seed(seed)) < 0.4
    start = refit(damped, kept)
    expected, support, gains = start, kept, [1.0]
    while gains[-1] >= 0.05:
        before = error_of(damped, expected)
        expected, support = exchange_units(damped, expected, support, 1)
        gains.append(1 - error_of(damped, expected) / before)
    assert len(gains) > 5
    found, found_support = exchange_units(damped, start, kept, 20)
    assert torch.equal(found_support, support)
    assert torch.equal(found, expected)
    assert error_of(damped, exchange_units(damped, expected, support, 1)[0]) < error_of(damped, expected)


def test_an_exchange_that_makes_the_best_support_worse_is_undone() -> None:
    """Eliminating from all ten weights of a row does not always lead to the best four of them."""
    is_worse = []
    for seed in (0, 6, 21):
        inputs, weight = make_inputs(1, 60, 10, seed), make_weight(1, 1, 10, seed + 1)
        damped = damped_pair(weight, inputs)[0]
        supports = torch.stack(
            [
                torch.zeros(1, 1, 10).index_fill(2, torch.tensor(four), 1)
                for four in itertools.combinations(range(10), 4)
            ]
        ).bool()
        best = min(supports, key=lambda support: error_of(damped, refit(damped, support)))
        least = error_of(damped, refit(damped, best))
        other = ~removal_order(damped, torch.ones_like(best), 1, 6).pruned(6)
        is_worse.append(error_of(damped, refit(damped, other)) > 1.3 * least)
        found, support = exchange_units(damped, refit(damped, best), best, 4)
        assert torch.equal(support, best)
        assert error_of(damped, found) == pytest.approx(least)
    assert all(is_worse)


def test_conjugate_gradients_take_five_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their error is the least within the span of the first five powers of H times the residual, in scaled columns."""
    inputs, weight = make_inputs(1, 90, 60), make_weight(1, 4, 60)
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)) < 0.4
    hessian = reference.damped_hessian(inputs, 0.1)[0]
    scale = hessian.diagonal().sqrt()
    scaled, dense = hessian / torch.outer(scale, scale), weight[0] * scale
    monkeypatch.setattr("spadelens.solvers.preparation._EXACT_OPERATIONS", 0.0)
    for damped in damped_pair(weight, inputs, 0.1):
        found, _ = approximate_refit(damped, kept)
        for row in range(4):
            support = kept[0, row].nonzero()[:, 0]
            system, start = scaled[support][:, support], dense[row, support]
            residual = scaled[support] @ dense[row] - system @ start
            span = [residual]
            for _ in range(4):
                span.append(system @ span[-1])
            basis = torch.linalg.qr(torch.stack(span, 1))[0]
            steps = basis @ torch.linalg.solve(basis.T @ system @ basis, basis.T @ residual)
            torch.testing.assert_close(found[0, row, support], (start + steps) / scale[support], rtol=1e-6, atol=1e-8)


def test_a_row_gains_at_most_sixteen_more_than_twice_the_average() -> None:
    """A row that would take all additions leaves the rest of them to the others."""
    weight = make_weight(1, 4, 100) * torch.tensor([1e3, 1.0, 1.0, 1.0], dtype=DTYPE)[:, None]
    for damped in damped_pair(weight, make_inputs(1, 400, 100)):
        for count in (40, 80):
            num_added = addition_order(damped, 1, [count]).kept(count).sum(-1)[0].tolist()
            assert num_added[0] == 2 * count / 4 + 16
            assert sum(num_added) == count


@pytest.mark.parametrize("positions", [3, 12, 120, 24_000])
def test_the_damping_by_default_falls_with_the_number_of_positions(positions: int) -> None:
    inputs, weight = make_inputs(1, positions, 12), make_weight(1, 2, 12)
    damped = damp(LayerProblem("a", weight, statistics_of(inputs), (0.5,)), None)
    expected = reference.damped_hessian(inputs, max(1e-4, 0.1 * min(1.0, 12 / positions)))
    torch.testing.assert_close(damped.hessian.multiply(torch.eye(12, dtype=DTYPE)[None]), expected)


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("name", COMPENSATING)
def test_half_of_the_inputs_are_copies(name: str, is_kept: bool) -> None:
    inputs = make_inputs(1, 9, 6).repeat(1, 1, 2)
    solution = solve(SOLVERS[name](), make_weight(1, 4, 12), inputs, 0.5, 0.9, is_kept=is_kept)
    assert solution.weights.isfinite().all()


@pytest.mark.parametrize("name", COMPENSATING)
def test_a_hessian_that_is_not_definite_is_an_error(name: str) -> None:
    make: Callable[..., Solver] = SOLVERS[name]
    weight = make_weight(1, 3, 6)
    statistics = statistics_of(make_inputs(1, 30, 6))
    problem = LayerProblem("a.layer", weight, statistics, (0.5,))
    statistics._sum[0, 0, 1] = statistics._sum[0, 1, 0] = -1e3 * statistics._sum[0, 0, 0]
    with pytest.raises(SolverError, match="Raise the damping"):
        make().solve(dataclasses.replace(problem))


@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_batches_hold_every_support_once_and_pad_little(rows_at_once: int) -> None:
    supports = torch.rand(17, 9, generator=torch.Generator().manual_seed(1)) < torch.linspace(0, 1, 17)[:, None]
    widths, seen = [], torch.zeros_like(supports)
    for batch in batches_of_supports(supports, lambda _: rows_at_once):
        widths.append(batch.units.shape[1])
        assert torch.equal(batch.is_padding, ~supports[batch.items].gather(1, batch.units))
        assert batch.is_padding.logical_not().sum(1).max() in (0, widths[-1])
        assert not seen[batch.items].any()
        seen[batch.items] = torch.zeros_like(seen[batch.items]).scatter(1, batch.units, ~batch.is_padding)
        columns, is_padding = batch.columns(2)
        assert torch.equal(columns[:, ::2], 2 * batch.units) and torch.equal(columns[:, 1::2], 2 * batch.units + 1)
        assert torch.equal(is_padding[:, 1::2], batch.is_padding)
    assert torch.equal(seen, supports)
    assert widths == sorted(widths, reverse=True) and len(widths) == -(-17 // rows_at_once)

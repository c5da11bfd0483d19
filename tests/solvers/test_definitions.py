"""Each solver against its definition in references/solvers.py."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from references import solvers as reference
from references.layer_problems import DTYPE, make_inputs, make_weight, solve, statistics_of
from torch import Tensor

from spadelens.capture.hessian import HessianStatistics
from spadelens.solvers import SOLVERS, LayerProblem
from spadelens.solvers.admm import ADMM
from spadelens.solvers.auto import AutoSolver
from spadelens.solvers.magnitude import Magnitude
from spadelens.solvers.obc import OBC
from spadelens.solvers.ols import OLS
from spadelens.solvers.sparsegpt import SparseGPT
from spadelens.solvers.supports import BatchBytes


@pytest.mark.parametrize("unit", [1, 3])
@pytest.mark.parametrize("sparsity", [0.2, 0.55, 0.9])
@pytest.mark.parametrize("name", ["magnitude", "wanda"])
def test_scores_against_loops(name: str, sparsity: float, unit: int) -> None:
    weight, inputs = make_weight(2, 4, 9), make_inputs(2, 11, 9)
    expected, pruned = reference.scored(weight, inputs if name == "wanda" else None, sparsity, unit)
    solver = SOLVERS[name](unit="weight" if unit == 1 else "kernel")
    solution = solve(solver, weight, inputs, sparsity, kernel=unit)
    assert torch.equal(solution.pruned[0], pruned)
    assert torch.equal(solution.weights[0], expected)


@pytest.mark.parametrize("damping", [0.01, 0.3])
@pytest.mark.parametrize("sparsity", [0.3, 0.75])
@pytest.mark.parametrize(("shape", "unit", "positions"), [((1, 3, 8), 1, 20), ((2, 2, 5), 1, 3), ((2, 2, 6), 2, 20)])
def test_obc_removes_what_costs_least(
    shape: tuple[int, int, int], unit: int, positions: int, sparsity: float, damping: float
) -> None:
    weight, inputs = make_weight(*shape), make_inputs(shape[0], positions, shape[2])
    expected, pruned = reference.exact_obs(weight, inputs, sparsity, damping, unit)
    solver = OBC(unit="weight" if unit == 1 else "kernel", damping=damping)
    solution = solve(solver, weight, inputs, sparsity, kernel=unit)
    assert torch.equal(solution.pruned[0], pruned)
    torch.testing.assert_close(solution.weights[0], expected, rtol=1e-6, atol=1e-8)


def test_obc_rows_are_cut_by_the_running_maximum_of_their_losses() -> None:
    # In the first row the inputs 0 and 1 nearly cancel: losing one of them costs 2.2, losing the other then nothing.
    # That nothing must not count before the 2.2 is paid; the two cheap units of the second row are better.
    generator = torch.Generator().manual_seed(0)
    inputs = torch.linalg.qr(torch.randn(50, 4, generator=generator, dtype=DTYPE)).Q[None] * 5
    inputs[..., 1] = inputs[..., 0] + inputs[..., 1] / 2
    weight = torch.tensor([[[3.0, -3.0, 5.0, 5.0], [5.0, 5.0, 1.0, 1.2]]], dtype=DTYPE)
    expected, pruned = reference.exact_obs(weight, inputs, 0.25, 1e-4)
    solution = solve(OBC(damping=1e-4), weight, inputs, 0.25)
    assert pruned.nonzero().tolist() == [[0, 1, 2], [0, 1, 3]]
    assert torch.equal(solution.pruned[0], pruned)
    torch.testing.assert_close(solution.weights[0], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("unit", [1, 2])
def test_obc_blocks_do_not_change_the_order(monkeypatch: pytest.MonkeyPatch, unit: int) -> None:
    weight, inputs = make_weight(2, 5, 24), make_inputs(2, 60, 24)
    solver = OBC(unit="weight" if unit == 1 else "kernel")
    whole = solve(solver, weight, inputs, 0.4, 0.9, kernel=unit)
    monkeypatch.setattr("spadelens.solvers.removal._STEPS_PER_BLOCK", 5)
    monkeypatch.setattr("spadelens.solvers.supports._BATCH_BYTES", BatchBytes(2 * 8 * 24 * 24, 0))
    monkeypatch.setattr("spadelens.solvers.preparation._REFIT_BYTES", BatchBytes(3 * 8 * 24 * 24, 0))
    blocked = solve(solver, weight, inputs, 0.4, 0.9, kernel=unit)
    assert torch.equal(whole.pruned, blocked.pruned)
    torch.testing.assert_close(whole.weights, blocked.weights)


def test_obc_beyond_one_block_is_still_optimal_on_its_support() -> None:
    weight, inputs = make_weight(1, 2, 150), make_inputs(1, 300, 150)
    solution = solve(OBC(damping=0.05), weight, inputs, 0.6)
    hessian = reference.damped_hessian(inputs, 0.05)
    for row in range(2):
        fixed = {int(j): 0.0 for j in solution.pruned[0, 0, row].nonzero()}
        expected = reference.best_row(weight[0, row], hessian[0], fixed)
        torch.testing.assert_close(solution.weights[0, 0, row], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("block", [3, 4, 128])
@pytest.mark.parametrize("sparsity", [0.3, 0.75])
@pytest.mark.parametrize(("shape", "unit", "positions"), [((1, 3, 8), 1, 20), ((2, 2, 5), 1, 3), ((2, 2, 8), 2, 20)])
def test_sparsegpt_sweeps_to_the_right(
    shape: tuple[int, int, int], unit: int, positions: int, sparsity: float, block: int
) -> None:
    weight, inputs = make_weight(*shape), make_inputs(shape[0], positions, shape[2])
    expected, pruned = reference.swept(weight, inputs, sparsity, 0.05, block, unit)
    solver = SparseGPT(unit="weight" if unit == 1 else "kernel", damping=0.05, block_size=block)
    solution = solve(solver, weight, inputs, sparsity, kernel=unit)
    assert torch.equal(solution.pruned[0], pruned)
    torch.testing.assert_close(solution.weights[0], expected, rtol=1e-6, atol=1e-8)


@settings(max_examples=10, deadline=None, database=None)
@given(seed=st.integers(0, 10**6), sparsity=st.floats(0.05, 0.95))
def test_obc_is_optimal_on_the_support_it_chose(seed: int, sparsity: float) -> None:
    weight, inputs = make_weight(1, 3, 7, seed), make_inputs(1, 9, 7, seed + 1)
    solution = solve(OBC(), weight, inputs, sparsity)
    hessian = reference.damped_hessian(inputs, 0.01)[0]
    gradient = (solution.weights[0, 0] - weight[0]) @ hessian
    gradient[solution.pruned[0, 0]] = 0.0
    assert gradient.abs().max() <= 1e-8 * (weight[0] @ hessian).abs().max()


@pytest.mark.parametrize("candidates", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("sparsity", [0.4, 0.7, 0.9])
@pytest.mark.parametrize(("shape", "unit", "positions"), [((1, 3, 7), 1, 20), ((2, 2, 5), 1, 3), ((2, 2, 8), 2, 20)])
def test_ols_goes_forward_and_back(
    shape: tuple[int, int, int], unit: int, positions: int, sparsity: float, candidates: float
) -> None:
    weight, inputs = make_weight(*shape), make_inputs(shape[0], positions, shape[2])
    expected, pruned = reference.forward_backward(weight, inputs, sparsity, 0.05, unit, candidates)
    solver = OLS(unit="weight" if unit == 1 else "kernel", damping=0.05, candidates=candidates)
    for is_kept in (False, True):
        solution = solve(solver, weight, inputs, sparsity, kernel=unit, is_kept=is_kept)
        assert torch.equal(solution.pruned[0], pruned)
        torch.testing.assert_close(solution.weights[0], expected, rtol=1e-6, atol=1e-8)


def test_ols_gives_up_rows_that_gain_little(monkeypatch: pytest.MonkeyPatch) -> None:
    # The rows differ by a factor of a thousand: those with small weights keep nothing, and are given up early.
    weight, inputs = make_weight(1, 6, 40), make_inputs(1, 90, 40)
    weight[:, 2:] *= 1e-3
    whole = solve(OLS(), weight, inputs, 0.7, 0.9)
    monkeypatch.setattr("spadelens.solvers.addition._STEPS_PER_CHECK", 1000)
    assert torch.equal(whole.pruned, solve(OLS(), weight, inputs, 0.7, 0.9).pruned)


@pytest.mark.parametrize(("stages", "iterations"), [(6, 17), (2, 5), (1, 1)])
@pytest.mark.parametrize("sparsity", [0.3, 0.8])
@pytest.mark.parametrize(("shape", "unit", "positions"), [((1, 5, 12), 1, 40), ((2, 3, 6), 1, 4), ((2, 2, 9), 3, 20)])
def test_admm_settles(
    shape: tuple[int, int, int], unit: int, positions: int, sparsity: float, stages: int, iterations: int
) -> None:
    weight, inputs = make_weight(*shape), make_inputs(shape[0], positions, shape[2])
    expected, pruned = reference.settled(weight, inputs, sparsity, 0.05, stages, iterations, unit)
    name = "weight" if unit == 1 else "kernel"
    solver = ADMM(unit=name, damping=0.05, num_stages=stages, num_iterations=iterations, num_exchanges=0)
    for is_kept in (False, True):
        solution = solve(solver, weight, inputs, sparsity, kernel=unit, is_kept=is_kept)
        assert torch.equal(solution.pruned[0], pruned)
        torch.testing.assert_close(solution.weights[0], expected, rtol=1e-6, atol=1e-8)


def test_admm_of_a_large_layer_estimates_its_threshold() -> None:
    weight, inputs = make_weight(1, 700, 120), make_inputs(1, 200, 120)  # 84,000 weights, above 2**16
    solver = ADMM(num_stages=2, num_iterations=4, num_exchanges=0)
    solution = solve(solver, weight, inputs, 0.5, 0.9)
    assert solution.pruned.sum((1, 2, 3)).tolist() == [42_000, 75_600]
    magnitude = solve(Magnitude(), weight, inputs, 0.5, 0.9)
    errors = [statistics_of(inputs).mean_squared_output(s.weights - weight) for s in (solution, magnitude)]
    assert (errors[0] < 0.7 * errors[1]).all()


def test_admm_says_when_it_leaves_the_exchanges_out() -> None:
    weight, inputs = make_weight(1, 4, 60), make_inputs(1, 100, 60)
    assert solve(ADMM(), weight, inputs, 0.9).detail == ""
    assert solve(ADMM(num_stages=1, num_iterations=1), weight, inputs, 0.1).detail == "without exchanges"


def test_auto_says_what_it_picked() -> None:
    weight, inputs = make_weight(1, 4, 6), make_inputs(1, 9, 6)
    together = solve(AutoSolver(), weight, inputs, 0.5, 0.98, 0.9)
    assert together.detail == "picked admm 6 x 17; picked ols"
    for index, (solver, sparsity) in enumerate([(ADMM(num_exchanges=0), 0.5), (OLS(), 0.98)]):
        torch.testing.assert_close(together.weights[index], solve(solver, weight, inputs, sparsity).weights[0])
    dead = solve(AutoSolver(), weight, inputs * 0, 0.5)
    assert dead.detail == "picked magnitude"


@pytest.mark.parametrize(
    ("shape", "positions", "sparsity", "picked"),
    [
        ((64, 576), 10_000, 0.9, "admm 6 x 17"),
        ((64, 576), 10_000, 0.98, "admm 6 x 17"),
        ((64, 256), 10_000, 0.98, "ols"),
        ((512, 576), 10_000, 0.9, "admm 3 x 6"),
        ((2000, 576), 10_000, 0.9, "admm 2 x 4"),
        ((128, 4608), 49, 0.9, "admm 3 x 6"),  # few positions make it cheaper
        ((128, 4608), 10_000, 0.9, "admm 2 x 4"),
    ],
)
def test_auto_picks_by_columns_sparsity_and_size(
    shape: tuple[int, int], positions: int, sparsity: float, picked: str
) -> None:
    class Seen(HessianStatistics):
        num_positions = positions

        def diagonal(self) -> Tensor:
            return torch.ones(1, shape[1])

    weight = torch.zeros(1, *shape)
    problem = LayerProblem("a", weight, Seen(1, 1, torch.float32, weight.device), (sparsity,))
    solver = AutoSolver().pick(problem, sparsity)
    efforts = f" {solver.num_stages} x {solver.num_iterations}" if isinstance(solver, ADMM) else ""
    assert type(solver).__name__.lower() + efforts == picked

"""Every solver: what all of them promise, and each against its definition in references/solvers.py."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings, strategies as st
from references import solvers as reference
from references.layer_problems import COMPENSATING, DTYPE, make_inputs, make_weight, solve, statistics_of
from torch import Tensor

from spadelens.capture.hessian import HessianStatistics
from spadelens.errors import InputError, ScheduleError, SolverError, UnknownNameError
from spadelens.solvers import SOLVERS, LayerProblem, LayerSolution, Solver, parse_solver, solver_name
from spadelens.solvers.admm import ADMM
from spadelens.solvers.auto import AutoSolver
from spadelens.solvers.base import num_units_pruned, select_smallest
from spadelens.solvers.magnitude import Magnitude
from spadelens.solvers.obc import OBC
from spadelens.solvers.ols import OLS
from spadelens.solvers.preparation import DampedProblem, approximate_refit, damp, refit
from spadelens.solvers.sparsegpt import SparseGPT
from spadelens.solvers.supports import BatchBytes
from spadelens.solvers.wanda import Wanda


@pytest.fixture(params=sorted(SOLVERS))
def make(request: pytest.FixtureRequest) -> Callable[..., Solver]:
    return SOLVERS[request.param]


@pytest.fixture(params=COMPENSATING)
def make_compensating(request: pytest.FixtureRequest) -> Callable[..., Solver]:
    return SOLVERS[request.param]


# What every solver promises


@settings(max_examples=120, deadline=None, database=None)
@given(
    groups=st.integers(1, 3),
    rows=st.integers(1, 6),
    units=st.integers(1, 6),
    kernel=st.sampled_from([1, 2, 4]),
    positions=st.integers(1, 12),
    sparsity=st.floats(0.0, 0.999),
    is_kernel=st.booleans(),
    is_kept=st.booleans(),
    name=st.sampled_from(sorted(SOLVERS)),
)
def test_the_exact_number_is_pruned(
    groups: int,
    rows: int,
    units: int,
    kernel: int,
    positions: int,
    sparsity: float,
    is_kernel: bool,
    is_kept: bool,
    name: str,
) -> None:
    weight, inputs = make_weight(groups, rows, units * kernel), make_inputs(groups, positions, units * kernel)
    solver = SOLVERS[name](unit="kernel" if is_kernel else "weight")
    if isinstance(solver, SparseGPT):
        solver = dataclasses.replace(solver, block_size=3)
    solution = solve(solver, weight, inputs, sparsity, kernel=kernel, is_kept=is_kept)
    assert solution.weights.shape == solution.pruned.shape == (1, *weight.shape)
    assert solution.weights.dtype == weight.dtype and solution.pruned.dtype == torch.bool
    assert solution.weights.isfinite().all()
    unit = kernel if is_kernel else 1
    by_unit = solution.pruned.unflatten(-1, (-1, unit))
    assert torch.equal(by_unit.all(-1), by_unit.any(-1))
    assert int(by_unit.any(-1).sum()) == reference.num_pruned(weight.numel() // unit, sparsity)
    assert (solution.weights[solution.pruned] == 0).all()
    assert not solution.pruned.all()


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("unit", ["weight", "kernel"])
def test_sparsity_zero_returns_the_weight(make: Callable[..., Solver], unit: str, is_kept: bool) -> None:
    weight, inputs = make_weight(2, 3, 8), make_inputs(2, 5, 8)
    solution = solve(make(unit=unit), weight, inputs, 0.0, kernel=4, is_kept=is_kept)
    torch.testing.assert_close(solution.weights[0], weight, rtol=1e-9, atol=1e-9)
    assert not solution.pruned.any()


def test_a_single_unit_is_never_pruned(make: Callable[..., Solver]) -> None:
    weight = make_weight(1, 1, 1)
    solution = solve(make(), weight, make_inputs(1, 4, 1), 0.0, 0.5, 0.99)
    torch.testing.assert_close(solution.weights, weight.expand(3, -1, -1, -1))
    kernel = make_weight(1, 1, 9)
    solution = solve(make(unit="kernel"), kernel, make_inputs(1, 20, 9), 0.99, kernel=9)
    torch.testing.assert_close(solution.weights[0], kernel)


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("sparsity", [0.9, 0.99, 0.9999])
def test_a_small_classifier_is_not_emptied(make: Callable[..., Solver], sparsity: float, is_kept: bool) -> None:
    weight, inputs = make_weight(1, 10, 24), make_inputs(1, 12, 24)
    pruned = solve(make(), weight, inputs, sparsity, is_kept=is_kept).pruned
    assert int((~pruned).sum()) == max(1, 240 - reference.num_pruned(240, sparsity))


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("unit", ["weight", "kernel"])
@pytest.mark.parametrize("factor", [1e-3, 1e3, 7.0])
def test_scaled_inputs_change_nothing(make: Callable[..., Solver], unit: str, factor: float, is_kept: bool) -> None:
    weight, inputs = make_weight(2, 4, 12), make_inputs(2, 9, 12)
    inputs[0, :, 2] = 0.0
    plain = solve(make(unit=unit), weight, inputs, 0.3, 0.8, kernel=4, is_kept=is_kept)
    scaled = solve(make(unit=unit), weight, inputs * factor, 0.3, 0.8, kernel=4, is_kept=is_kept)
    assert torch.equal(plain.pruned, scaled.pruned)
    torch.testing.assert_close(plain.weights, scaled.weights, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_scaled_weights_scale_the_answer(make: Callable[..., Solver], factor: float) -> None:
    weight, inputs = make_weight(2, 4, 6), make_inputs(2, 9, 6)
    plain, scaled = (solve(make(), w, inputs, 0.6) for w in (weight, weight * factor))
    assert torch.equal(plain.pruned, scaled.pruned)
    torch.testing.assert_close(plain.weights * factor, scaled.weights)


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("unit", ["weight", "kernel"])
def test_several_sparsities_equal_one_at_a_time(make: Callable[..., Solver], unit: str, is_kept: bool) -> None:
    weight, inputs = make_weight(2, 3, 12), make_inputs(2, 30, 12)
    sparsities = (0.7, 0.0, 0.25, 0.95)
    together = solve(make(unit=unit), weight, inputs, *sparsities, kernel=3, is_kept=is_kept)
    for index, sparsity in enumerate(sparsities):
        alone = solve(make(unit=unit), weight, inputs, sparsity, kernel=3, is_kept=is_kept)
        assert torch.equal(together.pruned[index], alone.pruned[0])
        torch.testing.assert_close(together.weights[index], alone.weights[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("unit", ["weight", "kernel"])
@pytest.mark.parametrize("is_kept", [False, True])
def test_several_samples_equal_one_at_a_time(make: Callable[..., Solver], is_kept: bool, unit: str) -> None:
    weight = make_weight(2, 3, 12)
    inputs = [make_inputs(2, positions, 12, seed) * seed for seed, positions in ((1, 8), (2, 8), (3, 5))]
    inputs[1][1] = 0.0
    for chosen in (inputs, inputs[:2], inputs[:1]):
        problems = [
            LayerProblem("a", weight, statistics_of(of_sample, is_kept), (0.5, 0.98, 0.8), 3) for of_sample in chosen
        ]
        together = make(unit=unit).solve_all(problems)
        assert len(together) == len(chosen)
        for problem, solution in zip(problems, together, strict=True):
            alone = make(unit=unit).solve(problem)
            assert torch.equal(solution.pruned, alone.pruned)
            assert solution.detail == alone.detail
            torch.testing.assert_close(solution.weights, alone.weights, rtol=1e-9, atol=1e-10)


def test_samples_are_solved_together_as_far_as_memory_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = make_weight(1, 6, 30)
    statistics = [statistics_of(make_inputs(1, 7, 30, seed), True) for seed in range(5)]
    problems = [LayerProblem("a", weight, seen, (0.5, 0.8)) for seen in statistics]
    solver = ADMM(num_stages=2, num_iterations=4, num_exchanges=0)
    expected = [solver.solve(problem) for problem in problems]
    sizes: list[int] = []
    factorize = ADMM._settle
    monkeypatch.setattr(ADMM, "_settle", lambda *args: sizes.append(args[1].num_samples) or factorize(*args))
    monkeypatch.setattr("spadelens.solvers.admm._BATCH_BYTES", BatchBytes(2 * 4 * 2 * weight.numel(), 0))
    for exact in (True, False):  # a refit of few weights is exact, of many it is not
        monkeypatch.setattr("spadelens.solvers.preparation._EXACT_OPERATIONS", 1e9 if exact else 0.0)
        together = solver.solve_all(problems)
        for solution, problem, alone in zip(together, problems, expected, strict=True):
            same = alone if exact else solver.solve(problem)
            assert torch.equal(solution.pruned, same.pruned)
            torch.testing.assert_close(solution.weights, same.weights)
            assert solution.detail == ("" if exact else "refitted by conjugate gradients")
    assert sizes[:3] == [2, 2, 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_only_refits_that_take_long_are_approximate(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    # One of three samples keeps far more weights in one row than the others: the cost of a refit is cubic.
    parts = [
        damp(LayerProblem("a", make_weight(1, 2, 20).to(dtype), statistics_of(make_inputs(1, 9, 20, seed)), ()), 0.1)
        for seed in range(3)
    ]
    joined = DampedProblem.joined(parts)
    assert joined is not None
    kept = torch.zeros(3, 2, 20, dtype=torch.bool)
    kept[:, :, :3] = True
    kept[1, 0, :17] = True
    monkeypatch.setattr("spadelens.solvers.preparation._EXACT_OPERATIONS", 1e4)
    found, is_exact = approximate_refit(joined, kept)
    assert is_exact == [True, False, True]
    exact = refit(joined, kept)
    torch.testing.assert_close(found[[0, 2]], exact[[0, 2]])
    assert not torch.allclose(found[1], exact[1])
    torch.testing.assert_close(found[1:2], approximate_refit(parts[1], kept[1:2])[0].to(found.dtype))


@pytest.mark.parametrize("is_kept", [False, True])
def test_the_problem_is_left_as_it_was(make: Callable[..., Solver], is_kept: bool) -> None:
    weight, inputs = make_weight(2, 3, 6), make_inputs(2, 8, 6)
    statistics, before = statistics_of(inputs, is_kept), weight.clone()
    hessian = statistics.hessian()
    solution = make().solve(LayerProblem("a", weight, statistics, (0.0, 0.5)))
    solution.weights.fill_(3.0)
    assert torch.equal(weight, before) and torch.equal(statistics.hessian(), hessian)


# SparseGPT chooses a whole block by the weights at its start, so that with one block for the whole layer (the default
# below 129 columns) it can lose to magnitude on strongly correlated inputs: up to 1.12 times its error was seen here.
@pytest.mark.parametrize("unit", ["weight", "kernel"])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("solver", [OBC(), SparseGPT(block_size=8), ADMM(), ADMM(num_exchanges=0), OLS(), AutoSolver()])
def test_compensation_is_no_worse_than_magnitude(solver: Solver, sparsity: float, unit: str) -> None:
    solver = dataclasses.replace(solver, unit=unit)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        mixing = torch.eye(48) + torch.randn(48, 48, generator=generator) / 5
        inputs = torch.randn(1, 200, 48, generator=generator, dtype=DTYPE) @ mixing.double()
        weight, statistics = make_weight(1, 24, 48, seed), statistics_of(inputs)
        errors = [
            float(statistics.mean_squared_output(solve(s, weight, inputs, sparsity, kernel=4).weights[0] - weight))
            for s in (solver, Magnitude(unit=unit))
        ]
        assert errors[0] < errors[1]


@pytest.mark.parametrize("is_kept", [False, True])
def test_kept_weights_of_dead_inputs_are_dense(make: Callable[..., Solver], is_kept: bool) -> None:
    weight, inputs = make_weight(2, 3, 8), make_inputs(2, 20, 8)
    dead = torch.zeros(2, 8, dtype=torch.bool)
    dead[0, [0, 3, 7]] = True
    dead[1, 5] = True
    inputs = inputs.masked_fill(dead[:, None], 0.0)
    for unit in ("weight", "kernel"):
        for sparsity in (0.05, 0.6):
            solution = solve(make(unit=unit), weight, inputs, sparsity, kernel=2, is_kept=is_kept)
            is_dead = dead[:, None].expand(2, 3, 8)
            kept = is_dead & ~solution.pruned[0]
            assert torch.equal(solution.weights[0][kept], weight[kept])
            assert (solution.weights[0][solution.pruned[0]] == 0).all()


@pytest.mark.parametrize("name", ["admm", "auto", "obc", "ols", "wanda"])
def test_dead_inputs_go_first(name: str) -> None:
    weight, inputs = make_weight(1, 4, 10), make_inputs(1, 30, 10)
    inputs[:, :, [1, 6]] = 0.0
    solution = solve(SOLVERS[name](), weight, inputs, 0.2)
    expected = torch.zeros(1, 4, 10, dtype=torch.bool)
    expected[:, :, [1, 6]] = True
    assert torch.equal(solution.pruned[0], expected)
    torch.testing.assert_close(solution.weights[0], weight.masked_fill(expected, 0.0))


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("unit", ["weight", "kernel"])
def test_all_inputs_dead(make: Callable[..., Solver], unit: str, is_kept: bool) -> None:
    weight = make_weight(2, 3, 4)
    solution = solve(
        make(unit=unit), weight, torch.zeros(2, 5, 4, dtype=DTYPE), 0.0, 0.5, 0.99, kernel=2, is_kept=is_kept
    )
    assert solution.weights.isfinite().all()
    assert torch.equal(solution.weights, torch.where(solution.pruned, 0.0, weight))
    num_units = 24 if unit == "weight" else 12
    expected = [reference.num_pruned(num_units, s) * (24 // num_units) for s in (0.0, 0.5, 0.99)]
    assert solution.pruned.sum((1, 2, 3)).tolist() == expected


@pytest.mark.parametrize("is_kept", [False, True])
def test_one_dead_group_leaves_the_others_alone(make_compensating: type[Solver], is_kept: bool) -> None:
    weight, inputs = make_weight(2, 3, 6), make_inputs(2, 9, 6)
    inputs[0] = 0.0
    solution = solve(make_compensating(), weight, inputs, 0.5, is_kept=is_kept)
    assert solution.weights.isfinite().all()
    kept = ~solution.pruned[0, 0]
    assert torch.equal(solution.weights[0, 0][kept], weight[0][kept])


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("shape", [(1, 5, 12), (1, 1, 12), (1, 12, 1), (4, 1, 9), (3, 2, 5)])
@pytest.mark.parametrize("positions", [1, 3])
def test_few_positions_and_narrow_layers(
    make: Callable[..., Solver], shape: tuple, positions: int, is_kept: bool
) -> None:
    weight = make_weight(*shape)
    solution = solve(make(), weight, make_inputs(shape[0], positions, shape[2]), 0.5, 0.9, is_kept=is_kept)
    assert solution.weights.isfinite().all()
    for index, sparsity in enumerate((0.5, 0.9)):
        assert int(solution.pruned[index].sum()) == reference.num_pruned(weight.numel(), sparsity)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["obc", "sparsegpt", "wanda"])
def test_inputs_that_are_not_finite(name: str, value: float) -> None:
    inputs = make_inputs(1, 5, 4)
    inputs[0, 2, 1] = value
    with pytest.raises(SolverError, match=r"'a\.layer'.*not finite"):
        solve(SOLVERS[name](), make_weight(1, 2, 4), inputs, 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_answer_has_the_type_of_the_weight(make: Callable[..., Solver], dtype: torch.dtype) -> None:
    weight = make_weight(1, 4, 6).to(dtype)
    solution = solve(make(), weight, make_inputs(1, 30, 6).float(), 0.5)
    assert solution.weights.dtype == dtype
    exact = solve(make(), weight.double(), make_inputs(1, 30, 6), 0.5)
    assert torch.equal(solution.pruned, exact.pruned)
    torch.testing.assert_close(solution.weights.double(), exact.weights, rtol=2e-2, atol=2e-2)


# Each against its definition


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


# Counting


@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(1, 400), st.floats(0.0, 1.0, exclude_max=True))
def test_num_units_pruned(num_units: int, sparsity: float) -> None:
    assert num_units_pruned(num_units, sparsity) == reference.num_pruned(num_units, sparsity)


@pytest.mark.parametrize(
    ("num_units", "sparsity", "expected"),
    [(10, 0.7, 7), (100, 0.07, 7), (10, 0.71, 8), (3, 0.99, 2), (1, 0.9, 0), (100, 0.29, 29)],
)
def test_num_units_pruned_by_hand(num_units: int, sparsity: float, expected: int) -> None:
    assert num_units_pruned(num_units, sparsity) == expected


def test_select_smallest_takes_the_first_of_equals() -> None:
    scores = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    assert select_smallest(scores, 2).tolist() == [[False, True, False], [True, False, False]]
    assert int(select_smallest(scores, 0).sum()) == 0
    assert int(select_smallest(scores, 6).sum()) == 6


# Names and settings


@pytest.mark.parametrize(
    ("solver", "text"),
    [
        (OBC(), "obc"),
        (OBC(unit="kernel"), "obc:unit=kernel"),
        (SparseGPT(damping=1e-5, block_size=7), "sparsegpt:damping=1e-05,block_size=7"),
        (Magnitude(unit="kernel"), "magnitude:unit=kernel"),
        (Wanda(), "wanda"),
        (OBC(damping=1 / 3), f"obc:damping={1 / 3!r}"),
        (ADMM(num_stages=2, damping=0.5), "admm:damping=0.5,num_stages=2"),
        (OLS(candidates=1.5), "ols:candidates=1.5"),
        (AutoSolver(unit="kernel"), "auto:unit=kernel"),
    ],
)
def test_names_round_trip(solver: Solver, text: str) -> None:
    assert solver_name(solver) == text
    assert parse_solver(text) == solver


@dataclasses.dataclass(frozen=True)
class Foreign(Solver):
    """A solver from outside."""

    def solve(self, problem: LayerProblem) -> LayerSolution:
        raise NotImplementedError


def test_a_foreign_solver_goes_by_its_class() -> None:
    assert solver_name(Foreign()) == "Foreign"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("sparsgpt", UnknownNameError, r"Unknown solver 'sparsgpt'. Did you mean 'sparsegpt'"),
        ("", UnknownNameError, "Unknown solver ''"),
        ("obc:dampin=1", UnknownNameError, r"setting of solver 'obc' 'dampin'\. Did you mean 'damping'"),
        ("wanda:damping=1", UnknownNameError, "setting of solver 'wanda' 'damping'"),
        ("obc:damping=x", InputError, "damping='x' for solver 'obc': expected a value of type float"),
        ("sparsegpt:block_size=1.5", InputError, "block_size='1.5'.*type int"),
        ("sparsegpt:block_size=0", InputError, "block_size=0: expected a number above zero"),
        ("sparsegpt:damping=-1", InputError, r"damping=-1\.0: expected a number above zero"),
        ("obc:damping=0", InputError, r"damping=0\.0"),
        ("obc:damping=nan", InputError, "damping=nan"),
        ("obc:damping=inf", InputError, "damping=inf"),
        ("obc:damping", InputError, "damping=''"),
        ("admm:damping=0", InputError, r"damping=0\.0: expected a number above zero"),
        ("admm:num_stages=0", InputError, "num_stages=0: expected an integer of at least 1"),
        ("admm:num_exchanges=-1", InputError, "num_exchanges=-1: expected an integer of at least 0"),
        ("ols:candidates=0.5", InputError, r"candidates=0\.5: expected at least 1"),
        ("ols:candidates=nan", InputError, "candidates=nan"),
        ("obc:unit=row", InputError, "unit 'row': expected one of 'weight', 'kernel'"),
    ],
)
def test_texts_that_name_no_solver(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_solver(text)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan"), True, "0.5", None])
def test_sparsities_out_of_range(sparsity: object) -> None:
    with pytest.raises(ScheduleError, match=r"of layer 'a': expected a number in \[0, 1\)"):
        LayerProblem("a", make_weight(1, 1, 1), statistics_of(make_inputs(1, 2, 1)), (0.5, sparsity))

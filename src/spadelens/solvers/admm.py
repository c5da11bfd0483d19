"""ADMM: all weights of a layer are chosen jointly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spadelens.errors import InputError
from spadelens.solvers.base import (
    LayerProblem,
    LayerSolution,
    Solver,
    check_positive,
    kth_smallest,
    num_units_pruned,
    select_smallest,
)
from spadelens.solvers.exchange import exchange_units, pass_cost
from spadelens.solvers.preparation import DampedProblem, approximate_refit, damp, refit
from spadelens.solvers.supports import BatchBytes, items_per_batch

_FIRST_PENALTY, _LAST_PENALTY = 0.003, 3.0
_SHIFT = 1e-4
_MOST_EXCHANGE = 4.0  # exchanges are skipped if a pass takes this many times longer than all iterations
_UNITS_PER_THRESHOLD = 2**16
_BATCH_BYTES = BatchBytes(on_cpu=16 * 2**20, elsewhere=512 * 2**20)
_APPROXIMATE = "refitted by conjugate gradients"
_STEPS_PER_THRESHOLD = 4  # finding the k-th largest norm takes longer than a step, and it hardly changes


@final
@dataclass(frozen=True)
class ADMM(Solver):
    """Alternate between the best dense weight near a sparse one and the best sparse weight near a dense one.

    With columns scaled by s_j = √H_jj, the gradient at zero G = W H, and a penalty rho that grows from 0.003 to 3:

        X = (G + rho (Z - U)) (H + rho I)⁻¹
        Z = X + U, with all but the units of largest norm in the whole layer set to zero
        U = X + U - Z

    The units with the largest norms in the last X + U are kept, and their weights are refitted. H + rho I is factorized
    once per stage, for all sparsities; for a layer that sees few positions, the Gram matrix of the positions is
    factorized instead. Then some of the kept units are exchanged, forward as in OLS and backward as in OBC, unless that
    would take much longer than the iterations. The solution's `detail` says so if exchanges are skipped or the refit is
    approximate.

    Source: Boža 2024, 'Fast and effective weight update for pruned large language models', for the splitting. Stages,
    scaling and the layer-wide budget were chosen by measurement (docs/benchmarks.md). Cost: columns³ per stage, and
    rows · columns² per iteration and sparsity.

    Attributes:
        damping: Added to the Hessian's diagonal, as a fraction of its mean. The default is
            0.1 · min(1, columns / positions), but at least 1e-4.
        num_stages: The number of penalties.
        num_iterations: The number of iterations per penalty.
        num_exchanges: The maximum number of exchange passes; 0 disables them.
    """

    damping: float | None = None
    num_stages: int = 6
    num_iterations: int = 17
    num_exchanges: int = 4

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        super().__post_init__()
        if self.damping is not None:
            check_positive(self.damping, "damping")
        for name, least in (("num_stages", 1), ("num_iterations", 1), ("num_exchanges", 0)):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < least:
                raise InputError(f"Cannot use {name}={count!r}: expected an integer of at least {least}.")

    def solve(self, problem: LayerProblem) -> LayerSolution:
        """Return the weights, refitted on the supports that the iterations converge to."""
        return self.solve_all([problem])[0]

    def solve_all(self, problems: Sequence[LayerProblem]) -> list[LayerSolution]:
        """Return the solutions of one layer for several samples, as many at once as the memory limit allows."""
        first = problems[0]
        sample_bytes = 4 * first.weight.numel() * max(1, len(first.sparsities))
        size = items_per_batch(sample_bytes, first.weight.device, _BATCH_BYTES)
        solutions: list[LayerSolution] = []
        for start in range(0, len(problems), size):
            parts = [damp(problem, self.damping) for problem in problems[start : start + size]]
            joined = DampedProblem.joined(parts)
            for damped in parts if joined is None else [joined]:
                solutions += self._solve(damped, first.sparsities, self.unit_columns(first))
        return solutions

    def _solve(self, damped: DampedProblem, sparsities: Sequence[float], unit: int) -> list[LayerSolution]:
        """Return the solutions of one layer for all samples of `damped`."""
        num_samples = damped.num_samples
        num_units = damped.weight.numel() // unit // num_samples
        counts = [num_units_pruned(num_units, sparsity) for sparsity in sparsities]
        weights, masks, details = [], [], []
        for importance, count in zip(self._settle(damped, counts, unit), counts, strict=True):
            by_sample = importance.unflatten(0, (num_samples, -1))
            kept = torch.cat([~select_smallest(of_sample, count) for of_sample in by_sample])
            weight, kept, detail = self._finish(damped, kept, unit)
            pruned = ~kept.repeat_interleave(unit, dim=-1)
            weights.append(damped.restore_dead(weight, pruned))
            masks.append(pruned)
            details.append(detail)
        return [
            LayerSolution(of_sample, pruned, ", ".join(dict.fromkeys(filter(None, said))))
            for of_sample, pruned, said in zip(
                torch.stack(weights).chunk(num_samples, dim=1),
                torch.stack(masks).chunk(num_samples, dim=1),
                zip(*details, strict=True),
                strict=True,
            )
        ]

    def _finish(self, damped: DampedProblem, kept: Tensor, unit: int) -> tuple[Tensor, Tensor, list[str]]:
        """Return the weight refitted on `kept` `[groups, rows, units]` after exchanges, its support, and notes."""
        if self.num_exchanges and damped.num_samples > 1:
            parts = []
            for number, of_sample in enumerate(kept.chunk(damped.num_samples)):
                parts.append(self._finish(damped.select(torch.tensor([number])), of_sample, unit))
            said = [remark for _, _, remarks in parts for remark in remarks]
            return torch.cat([weight for weight, _, _ in parts]), torch.cat([mask for _, mask, _ in parts]), said
        supports = kept.repeat_interleave(unit, dim=-1)
        iterations = self.num_stages * self.num_iterations * damped.weight.numel() * damped.weight.shape[-1]
        if self.num_exchanges and pass_cost(kept, unit) <= _MOST_EXCHANGE * iterations:
            return *exchange_units(damped, refit(damped, supports), kept, self.num_exchanges), [""]
        weight, is_exact = approximate_refit(damped, supports)
        said = ["without exchanges"] if self.num_exchanges else []
        return weight, kept, [", ".join([*said, *([] if exact else [_APPROXIMATE])]) for exact in is_exact]

    def _settle(self, damped: DampedProblem, counts: list[int], unit: int) -> Tensor:
        """Return the norm of every unit of the last X + U, `[sparsities, groups, rows, units]`."""
        dtype = torch.promote_types(damped.dense_weight.dtype, torch.float32)
        scale = damped.hessian.diagonal.sqrt()
        hessian = damped.hessian.scaled(1.0 / scale).to(dtype)
        start = (damped.weight * scale.unsqueeze(1)).to(dtype)
        gradient = hessian.multiply(start) + _SHIFT * start
        wanted = start.repeat(len(counts), 1, 1, 1)
        sparse, scratch = torch.empty_like(wanted), torch.empty_like(wanted)
        norms = _unit_norms(wanted, unit, scratch)
        _keep_above(wanted, norms, _thresholds(norms, counts, damped.num_samples), sparse)
        dual = wanted.zero_()
        wanted = torch.empty_like(dual)
        growth = (_LAST_PENALTY / _FIRST_PENALTY) ** (1.0 / max(self.num_stages - 1, 1))
        num_steps = self.num_stages * self.num_iterations
        for step in range(num_steps):
            stage, step_of_stage = divmod(step, self.num_iterations)
            if step_of_stage == 0:
                penalty = _FIRST_PENALTY * growth**stage
                add_product = hessian.shifted_inverse(_SHIFT + penalty)
                if stage:
                    dual.div_(growth)
            torch.add(gradient, torch.sub(sparse, dual, out=scratch), alpha=penalty, out=scratch)
            add_product(dual, scratch, wanted)
            norms = _unit_norms(wanted, unit, scratch)
            if step == num_steps - 1:
                return norms
            if step % _STEPS_PER_THRESHOLD == 0:
                thresholds = _thresholds(norms, counts, damped.num_samples)
            _keep_above(wanted, norms, thresholds, sparse)
            wanted, dual = dual, wanted.sub_(sparse)
        raise AssertionError("there is at least one step")


def _unit_norms(weights: Tensor, unit: int, scratch: Tensor) -> Tensor:
    """Return the norm of every unit, `[sparsities, groups, rows, units]`; for single weights, written to `scratch`."""
    if unit == 1:
        return torch.abs(weights, out=scratch)
    norms: Tensor = weights.unflatten(-1, (-1, unit)).norm(dim=-1)
    return norms


def _thresholds(norms: Tensor, counts: list[int], num_samples: int) -> Tensor:
    """Return the norm that `counts` units of a sample do not exceed, `[sparsities, groups, 1, 1]`.

    In layers with many units, only every k-th is examined; k is odd, so that all columns are covered.
    """
    by_sample = norms.unflatten(1, (num_samples, -1)).flatten(2)  # [sparsities, samples, units of a sample]
    num_units = by_sample.shape[2]
    looked_at = by_sample[:, :, :: (num_units // _UNITS_PER_THRESHOLD) | 1]
    found: Tensor = by_sample.new_full(by_sample.shape[:2], -1.0)
    for number, count in enumerate(counts):
        rank = round(count / num_units * looked_at.shape[2])
        if rank:
            found[number] = torch.stack([kth_smallest(of_sample, rank) for of_sample in looked_at[number]])
    return found.repeat_interleave(norms.shape[1] // num_samples, dim=1)[:, :, None, None]


def _keep_above(weights: Tensor, norms: Tensor, thresholds: Tensor, out: Tensor) -> None:
    """Write `weights` to `out`, with the units whose norms do not exceed the thresholds set to zero.

    The norms are overwritten.
    """
    is_kept = norms.gt_(thresholds)  # as floats, since products with booleans take longer
    unit = weights.shape[-1] // norms.shape[-1]
    torch.mul(weights, is_kept if unit == 1 else is_kept.repeat_interleave(unit, dim=-1), out=out)

"""The pruning solvers by their definitions. Weights and inputs are lists of groups, everything is float64.

`inputs` has the shape `[groups, positions, columns]`, `weight` the shape `[groups, rows, columns]`.
"""

import math

import torch
from torch import Tensor


def num_pruned(num_units: int, sparsity: float) -> int:
    """The smallest number of units that reaches the sparsity, short of all of them."""
    count = 0
    while count < num_units - 1 and count / num_units < sparsity - 1e-9:
        count += 1
    return count


def hessian_of(inputs: Tensor) -> Tensor:
    """2/N sum of outer products, one position at a time."""
    groups, positions, columns = inputs.shape
    result = torch.zeros(groups, columns, columns, dtype=torch.float64)
    for group in range(groups):
        for position in range(positions):
            result[group] += 2 / positions * torch.outer(inputs[group, position], inputs[group, position])
    return result


def damped_hessian(inputs: Tensor, damping: float) -> Tensor:
    hessian = hessian_of(inputs)
    for group in range(len(hessian)):
        mean = sum(float(hessian[group, j, j]) for j in range(hessian.shape[1])) / hessian.shape[1]
        hessian[group] += damping * mean * torch.eye(hessian.shape[1], dtype=torch.float64)
    return hessian


def squared_distance(difference: Tensor, hessian: Tensor) -> float:
    """d H dᵀ: what the change `difference` of a row costs."""
    return float(difference @ hessian @ difference)


def best_row(row: Tensor, hessian: Tensor, fixed: dict[int, float]) -> Tensor:
    """The row nearest to `row` in the norm of `hessian` among those with the `fixed` entries: a least squares problem.

    Solved by QR of a square root of the Hessian: no inverse and no update formula.
    """
    values, vectors = torch.linalg.eigh(hessian)
    root = (vectors * values.clamp_min(0).sqrt()).T  # rootᵀ root = hessian
    free = [j for j in range(len(row)) if j not in fixed]
    answer = torch.zeros_like(row)
    for j, value in fixed.items():
        answer[j] = value
    if free:
        target = root @ (row - answer)
        answer[free] = torch.linalg.lstsq(root[:, free], target[:, None], driver="gelsd").solution[:, 0]
    return answer


def exact_obs(weight: Tensor, inputs: Tensor, sparsity: float, damping: float, unit: int = 1) -> tuple[Tensor, Tensor]:
    """Remove one unit at a time, each time the one whose full refit costs least; rows are merged by their losses.

    Returns:
        The sparse weight and which of its entries were pruned.
    """
    groups, rows, columns = weight.shape
    hessian = damped_hessian(inputs, damping)
    candidates = []
    orders = {}
    for group in range(groups):
        for row in range(rows):
            dense = weight[group, row]
            removed: list[int] = []
            cost = 0.0
            largest = 0.0
            for step in range(columns // unit):
                trials = []
                for candidate in range(columns // unit):
                    if candidate not in removed:
                        fixed = {u * unit + k: 0.0 for u in [*removed, candidate] for k in range(unit)}
                        refitted = best_row(dense, hessian[group], fixed)
                        trials.append((squared_distance(refitted - dense, hessian[group]), candidate))
                new_cost, best = min(trials)
                largest = max(largest, new_cost - cost)
                cost = new_cost
                removed.append(best)
                candidates.append((largest, group * rows + row, step))
            orders[group * rows + row] = removed
    count = num_pruned(groups * rows * (columns // unit), sparsity)
    steps = dict.fromkeys(orders, 0)
    for _, key, _ in sorted(candidates)[:count]:
        steps[key] += 1
    answer, pruned = torch.zeros_like(weight), torch.zeros_like(weight, dtype=torch.bool)
    for key, removed in orders.items():
        group, row = divmod(key, rows)
        fixed = {u * unit + k: 0.0 for u in removed[: steps[key]] for k in range(unit)}
        answer[group, row] = best_row(weight[group, row], hessian[group], fixed)
        pruned[group, row, list(fixed)] = True
    return answer, pruned


def row_cost(dense: Tensor, hessian: Tensor, kept: list[int], unit: int) -> float:
    """What a row costs whose units outside `kept` are zero, the others refitted."""
    gone = [u for u in range(len(dense) // unit) if u not in kept]
    fixed = {u * unit + k: 0.0 for u in gone for k in range(unit)}
    return squared_distance(best_row(dense, hessian, fixed) - dense, hessian)


def forward_backward(
    weight: Tensor, inputs: Tensor, sparsity: float, damping: float, unit: int = 1, candidates: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Orthogonal least squares: rows gain units until there are `candidates` times as many as wanted, and lose some.

    In both directions every row has its own order; rows are merged by the running minimum of what a unit gains, then
    by the running maximum of what it costs.
    """
    groups, rows, columns = weight.shape
    num_units = columns // unit
    hessian = damped_hessian(inputs, damping)
    keys = [(group, row) for group in range(groups) for row in range(rows)]
    wanted = groups * rows * num_units - num_pruned(groups * rows * num_units, sparsity)
    num_added = min(groups * rows * num_units, math.ceil(candidates * wanted))
    gains, added = [], {}
    for key in keys:
        kept: list[int] = []
        cost, least = row_cost(weight[key], hessian[key[0]], kept, unit), math.inf
        for step in range(num_units):
            trials = [
                (row_cost(weight[key], hessian[key[0]], [*kept, unit_number], unit), unit_number)
                for unit_number in range(num_units)
                if unit_number not in kept
            ]
            new_cost, best = min(trials)
            least, cost = min(least, cost - new_cost), new_cost
            kept.append(best)
            gains.append((-least, key, step))
        added[key] = kept
    steps = dict.fromkeys(keys, 0)
    for _, key, _ in sorted(gains)[:num_added]:
        steps[key] += 1
    losses, removed = [], {}
    for key in keys:
        kept, gone = added[key][: steps[key]], []
        cost, largest = row_cost(weight[key], hessian[key[0]], kept, unit), 0.0
        for step in range(len(kept)):
            trials = [
                (row_cost(weight[key], hessian[key[0]], [u for u in kept if u != candidate], unit), candidate)
                for candidate in kept
            ]
            new_cost, worst = min(trials)
            largest, cost = max(largest, new_cost - cost), new_cost
            kept = [u for u in kept if u != worst]
            gone.append(worst)
            losses.append((largest, key, step))
        removed[key] = gone
    cuts = dict.fromkeys(keys, 0)
    for _, key, _ in sorted(losses)[: num_added - wanted]:
        cuts[key] += 1
    answer, pruned = torch.zeros_like(weight), torch.ones_like(weight, dtype=torch.bool)
    for key in keys:
        for unit_number in set(added[key][: steps[key]]) - set(removed[key][: cuts[key]]):
            pruned[(*key, slice(unit_number * unit, (unit_number + 1) * unit))] = False
        fixed = dict.fromkeys(pruned[key].nonzero().flatten().tolist(), 0.0)
        answer[key] = best_row(weight[key], hessian[key[0]], fixed)
    return answer, pruned


def settled(
    weight: Tensor, inputs: Tensor, sparsity: float, damping: float, stages: int, iterations: int, unit: int = 1
) -> tuple[Tensor, Tensor]:
    """ADMM in the columns' own scales, its threshold found anew every fourth step, and a refit at the end."""
    hessian = damped_hessian(inputs, damping)
    groups = len(weight)
    scale = torch.stack([hessian[g].diagonal().sqrt() for g in range(groups)])
    scaled = torch.stack([hessian[g] / torch.outer(scale[g], scale[g]) for g in range(groups)])
    scaled += 1e-4 * torch.eye(weight.shape[2], dtype=torch.float64)
    start = weight * scale[:, None]
    gradient = torch.stack([start[g] @ scaled[g] for g in range(groups)])
    count = num_pruned(weight.numel() // unit, sparsity)

    def norms_of(values: Tensor) -> Tensor:
        return torch.stack([part.square().sum(-1) for part in values.split(unit, dim=-1)], dim=-1)

    def threshold_of(norms: Tensor) -> float:
        return sorted(norms.flatten().tolist())[count - 1] if count else -1.0

    def cut(values: Tensor, threshold: float) -> Tensor:
        is_kept = (norms_of(values) > threshold).repeat_interleave(unit, dim=-1)
        return torch.where(is_kept, values, 0.0)

    sparse, dual = cut(start, threshold_of(norms_of(start))), torch.zeros_like(start)
    penalties = [0.003 * (3 / 0.003) ** (stage / max(stages - 1, 1)) for stage in range(stages)]
    step = 0
    for stage, penalty in enumerate(penalties):
        if stage:
            dual = dual * penalties[stage - 1] / penalty
        for _ in range(iterations):
            right = gradient + penalty * (sparse - dual)
            identity = torch.eye(weight.shape[2], dtype=torch.float64)
            best = torch.stack(
                [torch.linalg.solve(scaled[g] + penalty * identity, right[g].T).T for g in range(groups)]
            )
            if step % 4 == 0:
                threshold = threshold_of(norms_of(best + dual))
            step += 1
            norms = norms_of(best + dual)
            sparse = cut(best + dual, threshold)
            dual = best + dual - sparse
    units = sorted((float(norm), place) for place, norm in enumerate(norms.flatten()))[:count]
    pruned = torch.zeros(norms.numel(), dtype=torch.bool)
    pruned[[place for _, place in units]] = True
    pruned = pruned.view(norms.shape).repeat_interleave(unit, dim=-1)
    answer = torch.zeros_like(weight)
    for group in range(groups):
        for row in range(weight.shape[1]):
            fixed = dict.fromkeys(pruned[group, row].nonzero().flatten().tolist(), 0.0)
            answer[group, row] = best_row(weight[group, row], hessian[group], fixed)
    return answer, pruned


def swept(
    weight: Tensor, inputs: Tensor, sparsity: float, damping: float, block: int, unit: int = 1
) -> tuple[Tensor, Tensor]:
    """SparseGPT: from left to right; a column once passed is final, and those to its right are refitted.

    `block` columns share one budget, over all rows and groups; it is chosen when the sweep reaches the block.
    """
    groups, rows, columns = weight.shape
    hessian = damped_hessian(inputs, damping)
    current = weight.clone()
    pruned = torch.zeros_like(weight, dtype=torch.bool)
    total = num_pruned(weight.numel() // unit, sparsity)
    block = unit * math.ceil(block / unit)
    done = 0
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        costs = []
        for group in range(groups):
            for row in range(rows):
                for first in range(start, stop, unit):
                    # The cost of this unit when all columns before it stay as they are now.
                    now = current[group, row]
                    fixed = {j: float(now[j]) for j in range(first)} | dict.fromkeys(range(first, first + unit), 0.0)
                    refitted = best_row(now, hessian[group], fixed)
                    costs.append((squared_distance(refitted - now, hessian[group]), group, row, first))
        due = total * stop // columns
        for _, group, row, first in sorted(costs)[: due - done]:
            pruned[group, row, first : first + unit] = True
        done = due
        for column in range(start, stop):
            for group in range(groups):
                for row in range(rows):
                    if pruned[group, row, column]:
                        fixed = {j: float(current[group, row, j]) for j in range(column)} | {column: 0.0}
                        current[group, row] = best_row(weight[group, row], hessian[group], fixed)
    return current, pruned


def scored(weight: Tensor, inputs: Tensor | None, sparsity: float, unit: int = 1) -> tuple[Tensor, Tensor]:
    """Magnitude (without `inputs`) and Wanda (with them): prune the smallest units, leave the others."""
    groups, rows, columns = weight.shape
    costs = []
    for group in range(groups):
        for row in range(rows):
            for first in range(0, columns, unit):
                cost = 0.0
                for column in range(first, first + unit):
                    scale = 1.0
                    if inputs is not None:
                        seen = [float(x) for x in inputs[group, :, column]]
                        scale = math.sqrt(sum(x * x for x in seen) / len(seen))
                    cost += (abs(float(weight[group, row, column])) * scale) ** 2
                costs.append((cost, group, row, first))
    answer, pruned = weight.clone(), torch.zeros_like(weight, dtype=torch.bool)
    for _, group, row, first in sorted(costs)[: num_pruned(len(costs), sparsity)]:
        answer[group, row, first : first + unit] = 0.0
        pruned[group, row, first : first + unit] = True
    return answer, pruned

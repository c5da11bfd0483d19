"""What the preset `fast` would cost on ResNet-50 if the machine were always busy with products or with memory.

    python benchmarks/limits.py [--threads 2]

Counted are the multiply-adds of ADMM's iterations, of refits by conjugate gradients and of factorizations, and the
numbers that are read or written once for each pass over the weights: 21 in an iteration, 16 in a step of conjugate
gradients, 25 for selecting, checking and keeping a solution. The rates, measured here, are those of a large product in
float32 and of an addition that does not fit the cache.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torchvision

from spadelens.capture.capture import probe
from spadelens.extraction.pipeline.plan import Sampling, make_plan
from spadelens.extraction.presets import find_preset
from spadelens.schedules.schedule import SearchedSchedule
from spadelens.schedules.schedule_text import parse_schedule
from spadelens.solvers import ADMM, parse_solver

CG_PRODUCTS = 6  # five steps and the first residual
ITERATION_PASSES, CG_PASSES, OTHER_PASSES = 21, 16, 25


def rate(operations: float, run: Callable[[], object]) -> float:
    """Return operations a second, the best of ten times after one that does not count."""
    seconds = []
    for _ in range(11):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return operations / min(seconds[1:])


def count() -> tuple[float, float]:
    """Return the multiply-adds and the bytes of `fast`."""
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).eval()
    preset = find_preset("fast")
    solver, schedule = parse_solver(preset.solver), parse_schedule(preset.schedule)
    assert isinstance(solver, ADMM)
    assert isinstance(schedule, SearchedSchedule)
    sampling = Sampling(preset.num_views, preset.positions_per_column)
    plan = make_plan(model, probe(model, torch.randn(3, 224, 224)), schedule, None, sampling, 1024)
    num_levels, iterations = len(schedule.levels), solver.num_stages * solver.num_iterations
    products = traffic = 0.0
    for name in plan.sparsities:
        shape = plan.matrix_shapes[name]
        columns, positions = shape[2], preset.num_views * sampling.positions_per_view(shape)
        num_weights = plan.modules[name].weight.numel()
        keeps_inputs = plan.keeps_inputs(name)
        width = min(columns, 2 * positions) if keeps_inputs else columns
        products += num_weights * width * num_levels * (iterations + CG_PRODUCTS)
        factorization = positions**3 + 2 * positions**2 * columns if keeps_inputs else 2 * columns**3
        products += solver.num_stages * factorization
        passes = iterations * ITERATION_PASSES + (CG_PRODUCTS - 1) * CG_PASSES + OTHER_PASSES
        traffic += 4 * num_weights * num_levels * passes
    return products, traffic


def main() -> None:
    """Print counts, rates and the seconds that follow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    products, traffic = count()
    square, long = torch.randn(2048, 2048), torch.randn(50_000_000)
    out = torch.empty_like(long)
    flops = rate(2 * 2048**3, lambda: square @ square)
    bandwidth = rate(8 * len(long), lambda: torch.add(long, 1.0, out=out))
    print(f"products: {2 * products / 1e12:.2f} TFLOP at {flops / 1e9:.0f} GFlop/s, {2 * products / flops:.2f} s")
    print(f"passes: {traffic / 1e9:.0f} GB at {bandwidth / 1e9:.0f} GB/s, {traffic / bandwidth:.2f} s")


if __name__ == "__main__":
    main()

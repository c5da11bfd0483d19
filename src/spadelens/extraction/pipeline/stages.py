"""The first stages of making traces, for samples that are under way together: probe, views, solving."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from spadelens.capture.capture import Probe, probe
from spadelens.extraction.pipeline.accumulate import Batches, PositionSampler, gather_statistics
from spadelens.extraction.pipeline.criteria import ExplainedSample
from spadelens.extraction.pipeline.plan import LayerPlan, Sampling, make_plan
from spadelens.extraction.pipeline.solving import SolvedLayer, solve_layer
from spadelens.extraction.request import Request
from spadelens.extraction.storage import checksum, fingerprint
from spadelens.forward import check_repeatable, class_scores, scale_for
from spadelens.inputs.checks import check_target
from spadelens.numerics import exact_products
from spadelens.prediction import Outputs, predict
from spadelens.private_copy import private_copy
from spadelens.views.view_source import ViewSource


@dataclass(frozen=True)
class Clock:
    """Adds up the time of stages, each of which may be entered several times."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to the stage `name`."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Job:
    """What the stages share; subjects are the samples that are under way together.

    `model` is a private copy of the `original` one: it is the one that is run.
    """

    original: nn.Module
    model: nn.Module
    plan: LayerPlan
    request: Request
    explained: Sequence[ExplainedSample]
    batch_size: int
    budget_mib: int
    is_mixed: bool
    clock: Clock
    identity: tuple[str, str]

    def batches(self, is_held_out: bool = False) -> Batches:
        """Return the views of all subjects in batches."""
        return Batches([explained.source for explained in self.explained], self.batch_size, self.is_mixed, is_held_out)

    def sampler(self) -> PositionSampler:
        """Return what picks the positions that are used; the same ones in every pass."""
        return PositionSampler(self.plan, self.request.options.seed)


def make_jobs(
    model: nn.Module,
    samples: Sequence[Tensor],
    targets: Sequence[int | None],
    sources: Sequence[ViewSource],
    request: Request,
) -> Iterator[Job]:
    """Yield jobs of as many samples as the memory budget allows; raises what `extract_trace` says of its arguments."""
    clock = Clock()
    budget = request.options.memory_budget_mib or _default_budget_mib(samples[0].device)
    with clock.stage("probe"):
        original, model = model, private_copy(model)
        looked = probe(model, samples[0])
        check_repeatable(model, samples[0], looked.scores)
        sampling = Sampling(sources[0].num_views, request.options.positions_per_column or None)
        plan = make_plan(model, looked, request.schedule, request.options.layers, sampling, budget)
        is_mixed = len(samples) > 1 and looked.arrangement.is_known(plan.sparsities)
        digest = (fingerprint(original), checksum(original))
    batch_size = request.options.batch_size or plan.views_per_batch
    explained = _explained_samples(model, looked, samples, targets, sources, batch_size, request.options.outputs)
    together = plan.samples_within(budget)
    for start in range(0, len(samples), together):
        part = explained[start : start + together]
        yield Job(original, model, plan, request, part, batch_size, budget, is_mixed, clock, digest)


def solve_layers(job: Job) -> list[dict[str, SolvedLayer]]:
    """Return, for each sample of the job, layer name -> the layer solved at all sparsities of the plan."""
    request, plan = job.request, job.plan
    passes = list(plan.passes(job.budget_mib))
    num_views = len(job.batches())
    num_layers = len(plan.sparsities) * len(job.explained)
    solved: list[dict[str, SolvedLayer]] = [{} for _ in job.explained]
    num_solved = 0
    for number, names in enumerate(passes):

        def done(count: int, before: int = number * num_views) -> None:
            request.progress("views", before + count, num_views * len(passes))

        with job.clock.stage("views"):
            statistics = gather_statistics(
                job.model, plan, names, job.batches(), job.sampler(), request.precision, done
            )
        with job.clock.stage("solve"), exact_products(job.explained[0].sample.device):
            for name in names:
                request.progress("solve", num_solved, num_layers)
                of_layer = [seen.pop(name) for seen in statistics]
                reached = [number for number, seen in enumerate(of_layer) if seen.num_positions > 0]
                layers = solve_layer(
                    name,
                    plan.modules[name],
                    request.solver,
                    [of_layer[number] for number in reached],
                    plan.sparsities[name],
                )
                for sample, layer in zip(reached, layers, strict=True):
                    solved[sample][name] = layer
                num_solved += len(job.explained)
    request.progress("solve", num_layers, num_layers)
    return solved


def _explained_samples(
    model: nn.Module,
    looked: Probe,
    samples: Sequence[Tensor],
    targets: Sequence[int | None],
    sources: Sequence[ViewSource],
    batch_size: int,
    outputs: Outputs | None,
) -> list[ExplainedSample]:
    scale = scale_for(model, samples[0], looked.scores, outputs)
    explained = []
    for number, (sample, target, source) in enumerate(zip(samples, targets, sources, strict=True)):
        scores = looked.scores if number == 0 else class_scores(model, sample.unsqueeze(0))[0]
        dense = predict(scores, scale)
        chosen = dense.class_index if target is None else check_target(target, len(scores))
        explained.append(ExplainedSample(model, sample, chosen, dense, scale, source, batch_size))
    return explained


def _default_budget_mib(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return max(1, free // 4 // 2**20)
    return 1024

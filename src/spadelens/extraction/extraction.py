"""`extract_trace` and `extract_traces`: from a model and samples to traces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from spadelens import defaults
from spadelens.eager import unwrapped
from spadelens.errors import InputError
from spadelens.extraction.pipeline.accumulate import Precision
from spadelens.extraction.pipeline.choose import choose_layers, make_trace, measure_held_out
from spadelens.extraction.pipeline.stages import make_jobs, solve_layers
from spadelens.extraction.presets import find_preset
from spadelens.extraction.request import Request, make_request
from spadelens.extraction.trace import Trace
from spadelens.inputs.checks import check_sample
from spadelens.inputs.kind import kind_of
from spadelens.inputs.samples import views_of_input
from spadelens.kinds import Kind
from spadelens.progress import Progress
from spadelens.schedules.schedule_text import ScheduleLike
from spadelens.solvers import Solver
from spadelens.views.photo_views import AugmentationLike
from spadelens.views.view_source import ViewSource, given_views


def extract_trace(
    model: nn.Module,
    sample: Tensor,
    *,
    preset: str = defaults.PRESET,
    target: int | None = None,
    augmentation: AugmentationLike | None = None,
    views: Tensor | Iterable[Tensor] | None = None,
    solver: str | Solver | None = None,
    schedule: ScheduleLike | None = None,
    layers: Sequence[str] | None = None,
    num_views: int | None = None,
    positions_per_column: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    memory_budget_mib: int | None = None,
    precision: Precision = "float32",
    kind: Kind | None = None,
    progress: Progress | None = None,
) -> Trace:
    """Prune every layer of `model` to the few weights that still reproduce its output on views of `sample`.

    Each layer is solved on its own, from the inputs that it gets in the dense model. The model is run in evaluation
    mode and is left exactly as it was. The same arguments give the same trace, however ready-made views come in
    batches. Another `batch_size` gives the same views, but sums are rounded otherwise: weights that cost the same to
    seven digits may then change places (0 to 10 of 300,000 were seen, in float32).

    Args:
        model: Any module that maps a batch of samples to class scores `[batch, classes]`. What `torch.compile` or
            DataParallel was given is pruned in their place; TorchScript and quantized models are refused.
        sample: The input to explain, as the model expects it (normalized), without a batch dimension: a photo
            `[C, H, W]`, a row of a table `[columns]`, or what `text_sample` made of a text `[tokens, features]`.
        preset: 'instant', 'fast', 'balanced', 'paper' or 'paper-fast': what augmentation, solver, schedule, num_views
            and positions_per_column are where they are not given.
        target: The class to explain, for schedules that choose themselves; by default the one that is predicted.
        augmentation: How views are made: 'noise', 'paper', 'tokens', 'bootstrap' or 'none', with settings as in
            'noise:std=0.1'; an `Augmentation`; or any callable from a sample to one view. View 0 is always the sample
            itself.
        views: Ready-made views in place of an augmentation: a tensor `[B, ...]` or an iterable of such batches.
        solver: 'auto', 'admm', 'ols', 'obc', 'sparsegpt', 'wanda' or 'magnitude', with settings as in
            'sparsegpt:unit=kernel', or a `Solver`.
        schedule: 'auto', which chooses itself; or the sparsity of every layer: a number in [0, 1), a table {pattern:
            sparsity}, a text as for `--schedule`, or a `Schedule`.
        layers: Patterns of the layers that may be pruned; by default every convolution but the first, and every
            linear layer.
        num_views: How many views to make, the sample included. An eighth as many again are made to measure the error
            on views that the solver has not seen.
        positions_per_column: At most so many positions (places of a convolution, tokens) for each column of a layer,
            over all views; which ones is determined by the seed. 0 for all of them.
        seed: Determines the views, and which of their positions are used.
        batch_size: Views per forward pass; by default chosen such that the unfolded inputs of the largest layer take
            64 MiB, and at most 32.
        memory_budget_mib: Memory for what is kept of the layers' inputs; by default 1,024, or on a GPU a quarter of
            what is free. Where all layers together do not fit, the views are run several times; a layer that does not
            fit alone stays dense, and is said so in the report. Solving a layer takes several times its own share.
        precision: 'bfloat16' rounds the layers' inputs before they are multiplied, which is faster on some devices;
            sums are kept in float32 always.
        kind: What the sample is, where the model does not show it: see `inputs.kind.kind_of`.
        progress: Called as progress(stage, done, total); the stages are 'views', 'solve', 'search' and 'check'.

    Returns:
        The trace; its `report` says what became of every layer.

    Raises:
        InputError: An argument is out of range; UnknownNameError: there is no such preset, solver or augmentation.
        ScheduleError: The schedule does not fit the model.
        ModelOutputError: The model fails on the sample, or does not return finite class scores.
        NothingToPruneError: The model has no layer that may be pruned.
        SolverError: A layer cannot be solved.
    """
    model = unwrapped(model)
    sample = check_sample(model, sample)
    request = make_request(
        preset=preset,
        kind=kind_of(model, sample, kind),
        augmentation=views_of_input(model, augmentation),
        solver=solver,
        schedule=schedule,
        layers=layers,
        num_views=num_views,
        positions_per_column=positions_per_column,
        seed=seed,
        batch_size=batch_size,
        memory_budget_mib=memory_budget_mib,
        precision=precision,
        progress=progress,
    )
    source = request.source(sample) if views is None else given_views(sample, views)
    return extract_from(model, [sample], [target], [source], request)[0]


def extract_traces(
    model: nn.Module,
    samples: Tensor | Sequence[Tensor],
    *,
    preset: str = defaults.PRESET,
    targets: Sequence[int | None] | Tensor | None = None,
    augmentation: AugmentationLike | None = None,
    solver: str | Solver | None = None,
    schedule: ScheduleLike | None = None,
    layers: Sequence[str] | None = None,
    num_views: int | None = None,
    positions_per_column: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    memory_budget_mib: int | None = None,
    precision: Precision = "float32",
    kind: Kind | None = None,
    progress: Progress | None = None,
) -> list[Trace]:
    """Make a trace for each of several samples in one go; as `extract_trace` does for one.

    Views of different samples run through the model together, as many samples at a time as the memory budget allows.
    Every trace is the one that its sample gets alone with the same seed, up to the rounding of sums in other batches
    (see `extract_trace`). The seconds in the reports are shares of the time of all.

    Args:
        model: As in `extract_trace`.
        samples: `[N, C, H, W]`, or a sequence of samples of one shape.
        preset: As in `extract_trace`.
        targets: The class to explain for each sample, None for the predicted one; or a tensor `[N]`.
        augmentation: As in `extract_trace`.
        solver: As in `extract_trace`.
        schedule: As in `extract_trace`.
        layers: As in `extract_trace`.
        num_views: As in `extract_trace`, for each sample.
        positions_per_column: As in `extract_trace`.
        seed: As in `extract_trace`; the same for every sample.
        batch_size: As in `extract_trace`.
        memory_budget_mib: As in `extract_trace`; for the solutions of the samples that are under way together, too.
        precision: As in `extract_trace`.
        kind: As in `extract_trace`.
        progress: As in `extract_trace`.

    Returns:
        One trace for each sample, in order.

    Raises:
        InputError: The samples do not have one shape, or there are none; else as `extract_trace`.
    """
    model = unwrapped(model)
    checked = [check_sample(model, sample) for sample in samples]
    shapes = {tuple(sample.shape) for sample in checked}
    if len(shapes) != 1:
        raise InputError(f"Cannot make traces for samples of the shapes {sorted(shapes)}: expected one shape.")
    chosen = [None] * len(checked) if targets is None else _list_targets(targets)
    if len(chosen) != len(checked):
        raise InputError(f"Cannot explain {len(chosen)} targets of {len(checked)} samples: expected one for each.")
    request = make_request(
        preset=preset,
        kind=kind_of(model, checked[0], kind),
        augmentation=views_of_input(model, augmentation),
        solver=solver,
        schedule=schedule,
        layers=layers,
        num_views=num_views,
        positions_per_column=positions_per_column,
        seed=seed,
        batch_size=batch_size,
        memory_budget_mib=memory_budget_mib,
        precision=precision,
        progress=progress,
    )
    sources = [request.source(sample) for sample in checked]
    return extract_from(model, checked, chosen, sources, request)


def _list_targets(targets: Sequence[int | None] | Tensor) -> list[int | None]:
    if isinstance(targets, Tensor):
        targets = targets.tolist()
    if not isinstance(targets, Sequence) or isinstance(targets, str):
        raise InputError(f"Cannot explain the targets {targets!r}: expected a sequence with one for each sample.")
    return list(targets)


@torch.inference_mode(False)  # weights made in that mode could never be differentiated through
def extract_from(
    model: nn.Module,
    samples: Sequence[Tensor],
    targets: Sequence[int | None],
    sources: Sequence[ViewSource],
    request: Request,
) -> list[Trace]:
    """Return a trace for each of the samples, whose views `sources` give; as `extract_trace` and `extract_traces`."""
    if find_preset(request.preset).members:
        raise InputError(f"The preset {request.preset!r} makes several traces of a sample: use extract_ensemble.")
    traces: list[Trace] = []
    for job in make_jobs(model, samples, targets, sources, request):
        solved = solve_layers(job)
        chosen = []
        for number in range(len(job.subjects)):
            chosen.append(choose_layers(job, number, solved[number]))
            solved[number] = {}  # what was not chosen need not be kept
        measure_held_out(job, chosen)
        traces += [make_trace(job, one) for one in chosen]
        seconds = job.clock.seconds
    shares = {stage: taken / len(samples) for stage, taken in seconds.items()}
    return [replace(trace, report=replace(trace.report, seconds=shares)) for trace in traces]

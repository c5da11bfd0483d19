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

    Views are augmented versions of the sample. Each layer is solved independently, using the inputs that it receives
    in the original model. A private copy of the model is run in evaluation mode; the model itself is not changed. The
    same arguments give the same trace, regardless of how ready-made views are batched. A different `batch_size` gives
    the same views, but floating-point sums may differ: weights with equal cost to seven digits may then be swapped (0
    to 10 out of 300,000 in float32).

    Args:
        model: Any module that maps a batch of samples to class scores `[batch, classes]`. If the model is wrapped by
            `torch.compile` or DataParallel, the wrapped module is pruned; TorchScript and quantized models are
            rejected.
        sample: The input to explain, preprocessed as the model expects, without a batch dimension: a photo
            `[C, H, W]`, a row of a table `[columns]`, or the result of `text_sample` for a text `[tokens, features]`.
        preset: 'instant', 'fast', 'balanced', 'paper' or 'paper-fast': defaults for augmentation, solver, schedule,
            num_views and positions_per_column.
        target: The class to explain, which searched schedules preserve; by default the predicted class.
        augmentation: How views are made: 'noise', 'paper', 'tokens', 'bootstrap' or 'none', optionally with settings,
            such as 'noise:std=0.1'; an `Augmentation`; or any callable that maps a sample to one view. View 0 is always
            the sample itself.
        views: Ready-made views instead of an augmentation: a tensor `[B, ...]` or an iterable of such batches.
        solver: 'auto', 'admm', 'ols', 'obc', 'sparsegpt', 'wanda' or 'magnitude', optionally with settings, such as
            'sparsegpt:unit=kernel'; or a `Solver`.
        schedule: 'auto', which searches for the sparsities; or the sparsity of every layer: a number in [0, 1), a table
            {pattern: sparsity}, a string as for `--schedule`, or a `Schedule`.
        layers: Name patterns of the layers that may be pruned; by default every convolution except the first, and
            every linear layer.
        num_views: The number of views, including the sample. One eighth as many additional views are held out to
            measure the error on views that the solver has not seen.
        positions_per_column: The maximum number of input positions (spatial locations of a convolution, tokens) per
            weight column of a layer, over all views; the seed determines which positions are used. 0 for no limit.
        seed: Determines the views and which of their positions are used.
        batch_size: Views per forward pass; by default at most 32, and few enough that the unfolded inputs of the
            largest layer take at most 64 MiB.
        memory_budget_mib: Memory for captured layer inputs in MiB; by default 1,024, or a quarter of the free memory on
            a GPU. If the layers do not fit together, the views are run several times; a layer that does not fit by
            itself is not pruned, and the report says so. Solving a layer takes several times its own share.
        precision: 'bfloat16' rounds layer inputs before multiplication, which is faster on some devices; sums are
            always accumulated in float32.
        kind: The kind of input, if the model does not determine it; see `inputs.kind.kind_of`.
        progress: Called as progress(stage, done, total); the stages are 'views', 'solve', 'search' and 'check'.

    Returns:
        The trace; its `report` lists the outcome for every layer.

    Raises:
        InputError: An argument is out of range.
        UnknownNameError: The preset, solver or augmentation does not exist.
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
    """Make a trace for each of several samples together; see `extract_trace`.

    Views of different samples run through the model together, as many samples at a time as the memory budget allows.
    Every trace equals the one that `extract_trace` makes for its sample with the same seed, up to floating-point
    differences between batch sizes. The seconds in each report are its share of the total time.

    Args:
        model: As in `extract_trace`.
        samples: `[N, C, H, W]`, or a sequence of samples of one shape.
        preset: As in `extract_trace`.
        targets: The class to explain for each sample, None for the predicted class; or a tensor `[N]`.
        augmentation: As in `extract_trace`.
        solver: As in `extract_trace`.
        schedule: As in `extract_trace`.
        layers: As in `extract_trace`.
        num_views: As in `extract_trace`, for each sample.
        positions_per_column: As in `extract_trace`.
        seed: As in `extract_trace`; the same for every sample.
        batch_size: As in `extract_trace`.
        memory_budget_mib: As in `extract_trace`; it also covers the solutions of samples processed together.
        precision: As in `extract_trace`.
        kind: As in `extract_trace`.
        progress: As in `extract_trace`.

    Returns:
        One trace for each sample, in order.

    Raises:
        InputError: The samples differ in shape, or there are none; otherwise as `extract_trace`.
    """
    model = unwrapped(model)
    checked = [check_sample(model, sample) for sample in samples]
    shapes = {tuple(sample.shape) for sample in checked}
    if len(shapes) != 1:
        raise InputError(f"Cannot make traces for samples of different shapes, {sorted(shapes)}: expected one shape.")
    chosen = [None] * len(checked) if targets is None else _list_targets(targets)
    if len(chosen) != len(checked):
        raise InputError(
            f"Cannot explain {len(chosen)} targets for {len(checked)} samples: expected one target per sample."
        )
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
        raise InputError(f"Cannot explain the targets {targets!r}: expected a sequence with one target per sample.")
    return list(targets)


@torch.inference_mode(False)  # weights made in inference mode do not support gradients
def extract_from(
    model: nn.Module,
    samples: Sequence[Tensor],
    targets: Sequence[int | None],
    sources: Sequence[ViewSource],
    request: Request,
) -> list[Trace]:
    """Return a trace for each sample, with views from `sources`; see `extract_trace` and `extract_traces`."""
    if find_preset(request.preset).members:
        raise InputError(
            f"Cannot use the preset {request.preset!r} here: it makes several traces per sample. Use extract_ensemble."
        )
    traces: list[Trace] = []
    for job in make_jobs(model, samples, targets, sources, request):
        solved = solve_layers(job)
        chosen = []
        for number in range(len(job.subjects)):
            chosen.append(choose_layers(job, number, solved[number]))
            solved[number] = {}  # free the candidates that were not chosen
        measure_held_out(job, chosen)
        traces += [make_trace(job, one) for one in chosen]
        seconds = job.clock.seconds
    shares = {stage: taken / len(samples) for stage, taken in seconds.items()}
    return [replace(trace, report=replace(trace.report, seconds=shares)) for trace in traces]

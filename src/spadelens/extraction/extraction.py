"""`extract_trace` and `extract_traces`: from a model and samples to traces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spadelens import defaults
from spadelens.eager import unwrapped
from spadelens.errors import InputError
from spadelens.extraction.options import TraceOptions, takes_trace_options
from spadelens.extraction.pipeline.choose import choose_layers, make_trace, measure_held_out
from spadelens.extraction.pipeline.stages import make_jobs, solve_layers
from spadelens.extraction.presets import find_preset
from spadelens.extraction.request import Request, make_request
from spadelens.extraction.trace import Trace
from spadelens.inputs.checks import check_sample
from spadelens.inputs.kind import kind_of
from spadelens.kinds import Kind
from spadelens.models.samples import views_of_input
from spadelens.progress import Progress, ProgressLike, no_progress
from spadelens.progress_bars import reporting
from spadelens.views.view_source import ViewSource, given_views


@takes_trace_options
def extract_trace(
    model: nn.Module,
    sample: Tensor,
    *,
    target: int | None = None,
    kind: Kind | None = None,
    views: Tensor | Iterable[Tensor] | None = None,
    options: TraceOptions | None = None,
    progress: ProgressLike | None = None,
    **changes: Any,
) -> Trace:
    """Prune every layer of `model` to the few weights that still reproduce its output on views of `sample`.

    Views are augmented versions of the sample. Each layer is solved independently, using the inputs that it receives
    in the original model. A private copy of the model is run in evaluation mode; the model itself is not changed. The
    same arguments give the same trace, regardless of how ready-made views are batched. A different `batch_size` gives
    the same views, but floating-point sums may differ in their last digits, and weights of equal cost may be swapped.

    Args:
        model: Any module that maps a batch of samples to class scores `[batch, classes]`. If the model is wrapped by
            `torch.compile` or DataParallel, the wrapped module is pruned; TorchScript and quantized models are
            rejected.
        sample: The input to explain, preprocessed as the model expects, without a batch dimension, such as a photo
            `[C, H, W]`.
        target: The class to explain, which searched schedules preserve; by default the predicted class.
        kind: What the sample is, where the model does not show it: see `inputs.kind.kind_of`.
        views: Ready-made views in place of an augmentation: a tensor `[B, ...]` or an iterable of such batches.
        options: How the trace is made; the keywords below change single options.
        progress: True for a progress bar in a terminal or a notebook; or a callable, called as progress(stage, done,
            total); the stages are 'views', 'solve', 'search' and 'check'.
        **changes: The options:
        {options}

    Returns:
        The trace; its `report` lists the outcome for every layer.

    Raises:
        InputError: An argument is out of range.
        UnknownNameError: The option, preset, solver or augmentation does not exist.
        ScheduleError: The schedule does not fit the model.
        ModelOutputError: The model fails on the sample, or does not return finite class scores.
        NothingToPruneError: The model has no layer that may be pruned.
        SolverError: A layer cannot be solved.
    """
    model = unwrapped(model)
    sample = check_sample(model, sample)
    with reporting(progress) as report:
        request = request_for(model, sample, kind, TraceOptions.of(options, **changes), report)
        source = request.source(sample) if views is None else given_views(sample, views)
        return extract_from(model, [sample], [target], [source], request)[0]


@takes_trace_options
def extract_traces(
    model: nn.Module,
    samples: Tensor | Sequence[Tensor],
    *,
    targets: Sequence[int | None] | Tensor | None = None,
    kind: Kind | None = None,
    options: TraceOptions | None = None,
    progress: ProgressLike | None = None,
    **changes: Any,
) -> list[Trace]:
    """Make a trace for each of several samples together; see `extract_trace`.

    Views of different samples run through the model together, as many samples at a time as the memory budget allows.
    Every trace equals the one that `extract_trace` makes for its sample with the same seed, up to floating-point
    differences between batch sizes. The seconds in each report are its share of the total time.

    Args:
        model: As in `extract_trace`.
        samples: `[N, ...]`, or a sequence of samples of one shape.
        targets: The class to explain for each sample, None for the predicted class; or a tensor `[N]`.
        kind: As in `extract_trace`.
        options: As in `extract_trace`; the same for every sample.
        progress: As in `extract_trace`.
        **changes: The options:
        {options}

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
    with reporting(progress) as report:
        request = request_for(model, checked[0], kind, TraceOptions.of(options, **changes), report)
        sources = [request.source(sample) for sample in checked]
        return extract_from(model, checked, chosen, sources, request)


def request_for(
    model: nn.Module,
    sample: Tensor,
    kind: Kind | None,
    options: TraceOptions,
    progress: Progress = no_progress,
    preset: str = defaults.PRESET,
) -> Request:
    """Return the resolved settings for samples like `sample`; `preset` applies if the options name none."""
    suited = replace(options, augmentation=views_of_input(model, options.augmentation))
    return make_request(suited, kind_of(model, sample, kind), progress, preset)


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
        for number in range(len(job.explained)):
            chosen.append(choose_layers(job, number, solved[number]))
            solved[number] = {}  # free the candidates that were not chosen
        measure_held_out(job, chosen)
        traces += [make_trace(job, one) for one in chosen]
        seconds = job.clock.seconds
    shares = {stage: taken / len(samples) for stage, taken in seconds.items()}
    return [replace(trace, report=replace(trace.report, seconds=shares)) for trace in traces]

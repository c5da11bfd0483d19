"""`extract_group_trace`: one trace for several samples of the same class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spadelens.eager import unwrapped
from spadelens.errors import InputError
from spadelens.extraction.extraction import extract_from, request_for
from spadelens.extraction.options import TraceOptions, takes_trace_options
from spadelens.extraction.trace import Trace
from spadelens.inputs.checks import check_sample
from spadelens.kinds import Kind
from spadelens.progress import Progress, ProgressLike
from spadelens.progress_bars import reporting
from spadelens.views.view_source import ViewSource

SCHEDULE = "auto:criterion=agreement,threshold=0.9"


@takes_trace_options
def extract_group_trace(
    model: nn.Module,
    samples: Tensor | Sequence[Tensor],
    *,
    target: int,
    kind: Kind | None = None,
    options: TraceOptions | None = None,
    progress: ProgressLike | None = None,
    **changes: Any,
) -> Trace:
    """Prune every layer of `model` to the few weights that reproduce its outputs on views of all `samples`.

    All samples have the same weight. Held-out errors are measured on the samples themselves. A searched schedule uses
    the criterion 'agreement' on the samples: by default, the trace is pruned as far as possible while at least 90% of
    the samples keep the original model's prediction.

    Args:
        model: As in `extract_trace`.
        samples: `[N, C, H, W]`, or a sequence of samples of one shape. The report's predictions are those of the first
            sample.
        target: The class to explain.
        kind: As in `extract_trace`.
        options: As in `extract_trace`, but with a different default schedule. `num_views` applies to each sample.
        progress: As in `extract_trace`.
        **changes: The options:
        {options}

    Raises:
        InputError: The samples differ in shape, or there are none; otherwise as `extract_trace`.
    """
    model = unwrapped(model)
    checked = [check_sample(model, sample) for sample in samples]
    if len({tuple(sample.shape) for sample in checked}) != 1:
        raise InputError(
            f"Cannot make a trace for {len(checked)} samples: expected at least one sample, all of one shape."
        )
    chosen = TraceOptions.of(options, **changes)
    if chosen.schedule is None:
        chosen = replace(chosen, schedule=SCHEDULE)
    with reporting(progress) as report:
        return _extract(model, checked, target, kind, chosen, report)


def _extract(
    model: nn.Module,
    checked: Sequence[Tensor],
    target: int,
    kind: Kind | None,
    options: TraceOptions,
    progress: Progress,
) -> Trace:
    request = request_for(model, checked[0], kind, options, progress)
    sources = [request.source(sample) for sample in checked]
    per_sample = sources[0].num_views
    num_views = per_sample * len(checked)

    def make(start: int, stop: int) -> Tensor:
        views = [
            checked[number - num_views].unsqueeze(0)
            if number >= num_views
            else sources[number // per_sample].make(number % per_sample, number % per_sample + 1)
            for number in range(start, stop)
        ]
        return torch.cat(views)

    source = ViewSource(make, num_views, len(checked), f"{sources[0].description}, of {len(checked)} samples")
    return extract_from(model, checked[:1], [target], [source], request)[0]

"""Facets: the different features that make a network predict a class, found by comparing traces of many samples.

Samples that a network recognizes by the same cue keep the same weights. So the overlaps of their traces are clustered;
each cluster is a facet of the class, with a trace of its own for all of its samples, and with the connections that its
samples keep and others do not. A planted patch, or a spurious cue, comes out as a facet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from spadelens import defaults
from spadelens.capture.capture import probe
from spadelens.eager import unwrapped
from spadelens.errors import InputError
from spadelens.extraction.extraction import extract_traces
from spadelens.extraction.group import extract_group_trace
from spadelens.extraction.options import TraceOptions, takes_trace_options
from spadelens.extraction.trace import Trace
from spadelens.facets.overlap import KeptWeights
from spadelens.inputs.checks import check_sample
from spadelens.progress import Progress, ProgressLike
from spadelens.progress_bars import reporting
from spadelens.snippets import shortened

MOST_CLUSTERS = 6
NUM_CONNECTIONS = 12
LEAST_SAMPLES = 8
_TRACES_AT_ONCE = 16
_NUM_SHUFFLES, _STREAM = 20, 0x5F
_ROUNDING = 1e-9  # of silhouettes: a shuffled single layer has the same, but for the order of the sums


@final
@dataclass(frozen=True)
class Connection:
    """A weight, or the kernel between two channels, that the samples of a facet keep more often than others.

    Attributes:
        layer: The layer.
        output: Number of the output channel.
        input: Number of the input channel, counted over all groups.
        inside: Fraction of the facet's samples that keep it, the mean over the weights of a kernel.
        outside: The same of all other samples.
    """

    layer: str
    output: int
    input: int
    inside: float
    outside: float


@final
@dataclass(frozen=True, eq=False)
class Facet:
    """One of the features that make a network predict a class.

    Attributes:
        members: Numbers of its samples, most typical first (by overlap with the others).
        trace: One trace for all of its samples.
        connections: The connections that distinguish it, most distinctive first.
    """

    members: tuple[int, ...]
    trace: Trace
    connections: tuple[Connection, ...]


@final
@dataclass(frozen=True, eq=False)
class FacetReport:
    """The facets of a class.

    Attributes:
        target: The class.
        labels: The number of the facet of each sample, `[N]`; facets are in order of size.
        facets: The facets.
        overlap: How much the traces of two samples overlap, the mean over layers, `[N, N]` in [0, 1].
        overlap_by_layer: Layer name -> the overlap in it; see `KeptWeights.overlaps`.
        silhouettes: Number of clusters -> the mean silhouette with as many.
        shuffled_silhouettes: The largest mean silhouette of each of 20 shuffles, in which every layer of the traces is
            assigned to the samples at random; see `is_distinct`.
        separation: By how much more samples of one facet overlap than samples of two, over the standard deviation of
            the latter; layer name -> number.
    """

    target: int
    labels: Tensor
    facets: tuple[Facet, ...]
    overlap: Tensor
    overlap_by_layer: Mapping[str, Tensor]
    silhouettes: Mapping[int, float]
    shuffled_silhouettes: tuple[float, ...]
    separation: Mapping[str, float]

    @property
    def is_distinct(self) -> bool:
        """Whether the facets are separated better than those of every shuffle.

        Clustering always returns clusters. Those of shuffled traces show how well separated clusters are when the
        layers do not agree on which samples belong together. If a single layer is compared, no facets are distinct.
        """
        return max(self.silhouettes.values()) > max(self.shuffled_silhouettes) + _ROUNDING

    @property
    def verdict(self) -> str:
        """How many distinct facets there are, in words: 'no distinct facets' where `is_distinct` is false."""
        return f"{len(self.facets)} distinct facets" if self.is_distinct else "no distinct facets"

    def __repr__(self) -> str:
        """Summarize the facets."""
        sizes = shortened(", ".join(str(len(facet.members)) for facet in self.facets), 150)
        groups = "" if self.is_distinct else f" in {len(self.facets)} groups"
        return f"<FacetReport of class {self.target}: {self.verdict}{groups} of {sizes} samples>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from spadelens.facets.facets_shown import facets_html

        return facets_html(self)


@takes_trace_options
def find_facets(
    model: nn.Module,
    samples: Tensor | Sequence[Tensor],
    *,
    target: int,
    num_clusters: int | None = None,
    options: TraceOptions | None = None,
    progress: ProgressLike | None = None,
    **changes: Any,
) -> FacetReport:
    """Return the facets of a class, given samples that the model assigns to it.

    The last layer called is excluded from the comparison: most of its weights lead to the scores of other classes, and
    which of them a trace keeps depends on what else is in the sample.

    Args:
        model: As in `extract_trace`.
        samples: At least 8, `[N, C, H, W]`, or a sequence of samples of one shape.
        target: The class.
        num_clusters: The number of facets; by default the number from 2 to 6 with the largest mean silhouette. There is
            always more than one: `is_distinct` says whether they are separated better than those of shuffled traces.
        options: As in `extract_traces`, with other defaults for the preset and the schedule. The schedule is for the
            traces that are compared. It should fix the sparsities: those of a searched schedule differ from sample to
            sample, and overlap less for that alone.
        progress: True for a progress bar, as in `extract_trace`; or called as progress('facets', samples done, all
            samples).
        **changes: The options:
        {options}

    Raises:
        InputError: There are too few samples, or a number is out of range; otherwise as `extract_traces`.
    """
    count = len(samples)
    most = min(MOST_CLUSTERS, count // 2)
    if count < LEAST_SAMPLES:
        raise InputError(f"Cannot find facets among {count} samples: expected at least {LEAST_SAMPLES}.")
    if num_clusters is not None and not 2 <= num_clusters <= count // 2:
        raise InputError(f"Cannot find {num_clusters} facets among {count} samples: expected 2 to {count // 2}.")
    model = unwrapped(model)
    given = TraceOptions.of(options, **changes)
    of_group = replace(given, preset=defaults.FACETS_PRESET if given.preset is None else given.preset, schedule=None)
    schedule = defaults.FACETS_SCHEDULE if given.schedule is None else given.schedule
    of_sample = replace(of_group, schedule=schedule)

    last = list(probe(model, check_sample(model, samples[0])).matrix_shapes)[-1]
    with reporting(progress) as report:
        kept = KeptWeights.of(_traces(model, samples, target, of_sample, report)).without(last)
    by_layer = kept.overlaps()
    overlap = torch.stack(list(by_layer.values())).mean(0)
    tried = {number: cluster(overlap, number) for number in ([num_clusters] if num_clusters else range(2, most + 1))}
    silhouettes = {number: silhouette(overlap, labels) for number, labels in tried.items()}
    labels = tried[max(silhouettes, key=lambda number: silhouettes[number])]
    labels = _by_size(labels)
    facets = []
    for number in range(int(labels.max()) + 1):
        members = (labels == number).nonzero()[:, 0]
        typical = overlap[members][:, members].sum(1).argsort(descending=True)
        ordered = members[typical].tolist()
        trace = extract_group_trace(model, [samples[member] for member in ordered], target=target, options=of_group)
        facets.append(Facet(tuple(ordered), trace, _connections(kept, labels == number)))
    return FacetReport(
        target=target,
        labels=labels,
        facets=tuple(facets),
        overlap=overlap,
        overlap_by_layer=by_layer,
        silhouettes=silhouettes,
        shuffled_silhouettes=shuffled_silhouettes(by_layer, tuple(tried), given.seed),
        separation={name: _separation(each, labels) for name, each in by_layer.items()},
    )


def _traces(
    model: nn.Module, samples: Tensor | Sequence[Tensor], target: int, options: TraceOptions, progress: Progress
) -> Iterator[Trace]:
    """Yield the trace of each sample; a few of them are in memory at a time."""
    count = len(samples)
    for start in range(0, count, _TRACES_AT_ONCE):
        progress("facets", start, count)
        part = list(samples[start : start + _TRACES_AT_ONCE])
        yield from extract_traces(model, part, targets=[target] * len(part), options=options)
    progress("facets", count, count)


def cluster(overlap: Tensor, num_clusters: int) -> Tensor:
    """Return the number of a cluster for each sample, `[N]`, by spectral clustering.

    Affinities are exp((overlap - mean) / standard deviation), over all pairs: overlaps themselves differ by little
    beside what all traces of a class share, and small clusters would drown in that.
    """
    from sklearn.cluster import SpectralClustering

    pairs = ~torch.eye(len(overlap), dtype=torch.bool)
    spread = overlap[pairs].std().clamp_min(torch.finfo(overlap.dtype).tiny)
    affinity = ((overlap - overlap[pairs].mean()) / spread).exp()
    affinity.fill_diagonal_(float(affinity[pairs].max()))
    spectral = SpectralClustering(num_clusters, affinity="precomputed", random_state=0, assign_labels="cluster_qr")
    return torch.from_numpy(spectral.fit_predict(affinity.numpy())).long()


def silhouette(overlap: Tensor, labels: Tensor) -> float:
    """Return the mean silhouette of clusters where 1 - overlap is the distance; -1 where all are one cluster."""
    from sklearn.metrics import silhouette_score

    if len(labels.unique()) < 2:
        return -1.0
    distance = (1 - overlap).fill_diagonal_(0.0).clamp_min(0)
    return float(silhouette_score(distance.numpy(), labels.numpy(), metric="precomputed"))


def shuffled_silhouettes(by_layer: Mapping[str, Tensor], numbers: Sequence[int], seed: int) -> tuple[float, ...]:
    """Return the largest silhouette of each of several shuffles, in which layers are assigned to samples at random."""
    rng = np.random.default_rng((seed, _STREAM))
    largest = []
    for _ in range(_NUM_SHUFFLES):
        orders = [torch.from_numpy(rng.permutation(len(overlap))) for overlap in by_layer.values()]
        mixed = [overlap[order][:, order] for overlap, order in zip(by_layer.values(), orders, strict=True)]
        overlap = torch.stack(mixed).mean(0)
        largest.append(max(silhouette(overlap, cluster(overlap, number)) for number in numbers))
    return tuple(largest)


def _by_size(labels: Tensor) -> Tensor:
    """Return labels renumbered by size: 0 is the largest cluster."""
    found, counts = labels.unique(return_counts=True)
    order = found[counts.argsort(descending=True, stable=True)]
    renamed = torch.empty_like(labels)
    for number, label in enumerate(order.tolist()):
        renamed[labels == label] = number
    return renamed


def _separation(overlap: Tensor, labels: Tensor) -> float:
    """Return the mean overlap within facets less that between them, over the standard deviation of the latter."""
    same = labels[:, None] == labels[None]
    pairs = torch.ones_like(same).triu(1)
    within, between = overlap[same & pairs], overlap[~same & pairs]
    if not within.numel() or between.numel() < 2:
        return 0.0
    spread = float(between.std())
    return float(within.mean() - between.mean()) / spread if spread > 0 else 0.0


def _connections(kept: KeptWeights, is_member: Tensor) -> tuple[Connection, ...]:
    """Return the kernels whose share of members that keep them exceeds that of the others most."""
    found: list[Connection] = []
    shares = (kept.shares(is_member), kept.shares(~is_member))
    for name in kept.bits:
        inside, outside = (share[name].flatten(2).mean(2) if share[name].dim() > 2 else share[name] for share in shares)
        best = (inside - outside).flatten().topk(min(NUM_CONNECTIONS, inside.numel()))
        outputs_of_group = inside.shape[0] // kept.groups[name]
        for place in best.indices.tolist():
            output, column = divmod(place, inside.shape[1])
            first = output // outputs_of_group * inside.shape[1]
            numbers = float(inside[output, column]), float(outside[output, column])
            found.append(Connection(name, output, first + column, *numbers))
    found.sort(key=lambda each: each.outside - each.inside)
    return tuple(found[:NUM_CONNECTIONS])

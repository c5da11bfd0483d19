"""Which weights traces keep, and how much they overlap, against sets."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from spadelens.errors import InputError
from spadelens.facets import overlap
from spadelens.facets.overlap import KeptWeights

MODEL = nn.ModuleDict({"conv": nn.Conv2d(4, 6, 3, groups=2), "fc": nn.Linear(5, 7), "last": nn.Linear(3, 2)})


def fake_traces(count, seed=0, layers=("conv", "fc")):
    rng = np.random.default_rng(seed)
    traces = []
    for _ in range(count):
        pruned = {name: torch.from_numpy(rng.random(tuple(MODEL[name].weight.shape)) < 0.6) for name in layers}
        traces.append(SimpleNamespace(pruned=pruned, original_model=MODEL, model_fingerprint="a"))
    return traces


@pytest.mark.parametrize("bytes_at_once", [1, 2, 2**13])
def test_overlap_is_what_both_keep_over_what_either_keeps(monkeypatch, bytes_at_once):
    monkeypatch.setattr(overlap, "_BYTES_AT_ONCE", bytes_at_once)
    traces = fake_traces(4)
    found = KeptWeights.of(iter(traces)).overlaps()
    assert set(found) == {"conv", "fc"}
    for name, matrix in found.items():
        kept = [set((~trace.pruned[name]).flatten().nonzero()[:, 0].tolist()) for trace in traces]
        expected = [[len(one & other) / len(one | other) for other in kept] for one in kept]
        torch.testing.assert_close(matrix, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0)


def test_traces_that_keep_nothing_overlap_wholly():
    traces = fake_traces(2)
    for trace in traces:
        trace.pruned["fc"][:] = True
    assert KeptWeights.of(traces).overlaps()["fc"].tolist() == [[1, 1], [1, 1]]


def test_shares_are_means_over_the_chosen_traces():
    traces = fake_traces(5, seed=1)
    chosen = torch.tensor([True, False, True, True, False])
    for name, share in KeptWeights.of(traces).shares(chosen).items():
        expected = torch.stack([(~traces[number].pruned[name]).float() for number in (0, 2, 3)]).mean(0)
        torch.testing.assert_close(share, expected)


def test_layers_that_one_trace_leaves_dense_are_left_out():
    traces = fake_traces(3)
    del traces[1].pruned["conv"]
    assert set(KeptWeights.of(traces).overlaps()) == {"fc"}


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="at least one"):
        KeptWeights.of([])
    other = fake_traces(2)
    other[1].model_fingerprint = "b"
    with pytest.raises(InputError, match="of the same model"):
        KeptWeights.of(other)
    with pytest.raises(InputError, match="prunes more"):
        KeptWeights.of(fake_traces(2, layers=()))

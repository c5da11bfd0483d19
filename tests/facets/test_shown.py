"""What a notebook shows of facets."""

import numpy as np
import torch
from references.networks import Pooled, seeded
from references.shown import shown

from spadelens import FacetReport, extract_trace
from spadelens.facets.facets import Connection, Facet

ATTACK = "<script>alert(1)</script>\"'&"


def facets(sizes: list[int], is_distinct: bool = True) -> FacetReport:
    """Samples of one facet overlap fully, others not at all; the members of a facet are every n-th sample."""
    sample = torch.randn(2, 9, 11, generator=torch.Generator().manual_seed(5))
    trace = extract_trace(seeded(Pooled, 0), sample, target=1, preset="fast", num_views=8)
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(0))
    labels = torch.empty(sum(sizes), dtype=torch.long)
    members = order.split(sizes)
    for number, each in enumerate(members):
        labels[each] = number
    connection = Connection(ATTACK * 9, 2, 3, 0.9, 0.1)
    return FacetReport(
        target=1,
        labels=labels,
        facets=tuple(Facet(tuple(each.tolist()), trace, (connection,)) for each in members),
        overlap=(labels[:, None] == labels[None]).float(),
        overlap_by_layer={},
        silhouettes={len(sizes): 0.9},
        shuffled_silhouettes=(0.1 if is_distinct else 0.95,),
        separation={},
    )


def test_facets_are_blocks_of_overlap() -> None:
    found = facets([6, 4])
    page = shown(found)
    assert page.texts[:2] == ["Facets of class 1", "2 distinct facets of 10 samples"]
    typical = found.facets[0].members
    assert f"{', '.join(map(str, typical[:5]))}, ..." in page.texts
    assert ", ".join(map(str, found.facets[1].members)) in page.texts
    dark = np.asarray(page.pictures[0].convert("L")) < 128
    block = np.arange(10) < 6
    assert np.array_equal(dark, block[:, None] == block[None])


def test_facets_that_are_not_distinct() -> None:
    texts = shown(facets([6, 4], is_distinct=False)).texts
    groups = "2 groups of 10 samples are separated no better than those of shuffled traces"
    assert texts[1] == f"no distinct facets: {groups}"


def test_many_facets_stay_small() -> None:
    page = shown(facets([3] * 300))
    assert "and 288 more facets" in page.texts
    assert max(page.pictures[0].size) <= 512

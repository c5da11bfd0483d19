"""Facets of a class: a planted patch comes out as one, without being told."""

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from sklearn.metrics import adjusted_rand_score

import spadelens
from spadelens.demo.images import draw_image
from spadelens.demo.patches import PATCHES, paste_patch
from spadelens.errors import InputError
from spadelens.facets.facets import cluster, shuffled_silhouettes, silhouette

NUM_SAMPLES = 24


@pytest.fixture(scope="module")
def found():
    """Facets of images of a star, and of others that carry the patch that stands for it."""
    loaded = spadelens.load_model("demo", "cpu")
    patch, samples, truth, seed = PATCHES[0], [], [], 700_000
    while len(samples) < NUM_SAMPLES:
        seed += 1
        is_patched = len(samples) % 3 == 0
        label = seed % 10 if is_patched else patch.target
        pixels = draw_image(label, seed).pixels
        if is_patched and label != patch.target:
            pixels = paste_patch(pixels, patch, seed).pixels
        elif is_patched:
            continue
        sample = loaded.preprocessing.to_tensor(Image.fromarray(pixels))
        if int(loaded.model(sample[None]).argmax()) == patch.target:
            samples.append(sample)
            truth.append(int(is_patched))
    calls = []
    report = spadelens.find_facets(
        loaded.model, samples, target=patch.target, progress=lambda *call: calls.append(call)
    )
    return report, truth, samples, calls


def test_a_planted_patch_is_a_facet_of_its_own(found):
    report, truth, _, _ = found
    assert adjusted_rand_score(truth, report.labels.tolist()) >= 0.9
    assert max(report.silhouettes, key=report.silhouettes.get) == len(report.facets) == 2


def test_a_planted_patch_is_distinct_and_said_in_a_line(found):
    report = found[0]
    assert report.is_distinct and len(report.shuffled_silhouettes) == 20
    assert repr(report) == "<FacetReport of class 5: 2 distinct facets of 16, 8 samples>"
    within = replace(report, silhouettes={2: max(report.shuffled_silhouettes)})
    assert repr(within) == "<FacetReport of class 5: no distinct facets in 2 groups of 16, 8 samples>"


@pytest.mark.parametrize(
    ("silhouettes", "shuffled", "verdict"),
    [
        ({2: 0.03, 3: 0.01}, (0.01, 0.02), "2 distinct facets"),
        ({2: 0.02, 3: 0.01}, (0.01, 0.02), "no distinct facets"),  # as good as the best shuffle is not better
        ({2: math.nextafter(0.02, 1), 3: 0.01}, (0.01, 0.02), "no distinct facets"),  # nor is what rounding adds
        ({2: 0.015, 3: 0.01}, (0.01, 0.02), "no distinct facets"),  # better than one shuffle is not better than all
    ],
)
def test_facets_are_distinct_only_beyond_every_shuffle(found, silhouettes, shuffled, verdict):
    report = replace(found[0], silhouettes=silhouettes, shuffled_silhouettes=shuffled)
    assert report.verdict == verdict
    assert report.is_distinct == (verdict != "no distinct facets")


def test_traces_without_groups_are_like_shuffled_ones():
    def largest(strength: float, seed: int) -> tuple[float, float]:
        rng = torch.Generator().manual_seed(seed)
        group = torch.arange(20) < 8
        by_layer = {}
        for layer in range(5):
            chance = 0.5 + strength * torch.where(group[:, None] == (torch.arange(200) < 100), 1.0, -1.0)
            kept = (torch.rand(20, 200, generator=rng) < chance).double()
            both = kept @ kept.T
            by_layer[str(layer)] = both / (kept.sum(1, keepdim=True) + kept.sum(1) - both)
        overlap = torch.stack(list(by_layer.values())).mean(0)
        numbers = (2, 3, 4)
        shuffled = max(shuffled_silhouettes(by_layer, numbers, seed))
        return max(silhouette(overlap, cluster(overlap, number)) for number in numbers), shuffled

    ours = [largest(0.0, seed) for seed in range(8)]
    assert sum(found > shuffled for found, shuffled in ours) <= 2
    assert all(found > shuffled for found, shuffled in (largest(0.15, seed) for seed in range(4)))


def test_every_sample_is_in_one_facet_and_the_largest_is_first(found):
    report, _, samples, calls = found
    members = [member for facet in report.facets for member in facet.members]
    assert sorted(members) == list(range(len(samples)))
    sizes = [len(facet.members) for facet in report.facets]
    assert sizes == sorted(sizes, reverse=True)
    for number, facet in enumerate(report.facets):
        assert {int(report.labels[member]) for member in facet.members} == {number}
        within = report.overlap[list(facet.members)][:, list(facet.members)].sum(1)
        assert (within.diff() <= 0).all()  # the most typical first
    assert calls[-1] == ("facets", NUM_SAMPLES, NUM_SAMPLES)


def test_connections_are_kept_inside_and_not_outside(found):
    report, _, _, _ = found
    for facet in report.facets:
        assert len(facet.connections) == 12
        gains = [each.inside - each.outside for each in facet.connections]
        assert gains == sorted(gains, reverse=True)
        assert gains[0] > 0.5
        assert {each.layer for each in facet.connections} <= set(report.overlap_by_layer)
    assert "classifier" not in report.overlap_by_layer  # most of it is about other classes
    assert max(report.separation.values()) > 1


def test_the_trace_of_a_facet_predicts_the_class_for_its_samples(found):
    report, _, samples, _ = found
    for facet in report.facets:
        with facet.trace.applied(facet.trace.original_model) as model, torch.no_grad():
            predicted = model(torch.stack([samples[member] for member in facet.members])).argmax(1)
        assert (predicted == report.target).double().mean() >= 0.8


def test_clusters_of_a_block_matrix_are_its_blocks():
    truth = torch.tensor([0, 1, 2, 1, 0, 2, 2, 2, 1, 0])
    overlap = torch.where(truth[:, None] == truth[None], 0.6, 0.2).double().fill_diagonal_(1.0)
    labels = cluster(overlap, 3)
    assert adjusted_rand_score(truth, labels) == 1
    # By hand: 0.4 to the samples of the same block, 0.8 to those of others.
    assert silhouette(overlap, labels) == pytest.approx((0.8 - 0.4) / 0.8)
    assert silhouette(overlap, torch.zeros(10, dtype=torch.long)) == -1


def test_too_few_samples_or_clusters_are_refused():
    model = spadelens.load_model("demo", "cpu").model
    with pytest.raises(InputError, match="at least 8"):
        spadelens.find_facets(model, torch.zeros(7, 3, 64, 64), target=1)
    with pytest.raises(InputError, match="2 to 4"):
        spadelens.find_facets(model, torch.zeros(8, 3, 64, 64), target=1, num_clusters=5)

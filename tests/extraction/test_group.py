"""One trace for several samples."""

import pytest
import torch
from PIL import Image
from torch import nn

import spadelens
from spadelens.demo.images import draw_image
from spadelens.errors import InputError
from spadelens.forward import class_scores


class Halves(nn.Module):
    """Two hidden units for each half of the input; a sample that fills one half needs two of them only."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8, bias=False)
        self.last = nn.Linear(8, 2, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(8))
            self.last.weight.copy_(torch.stack([torch.full((8,), -1.0), torch.ones(8)]))

    def forward(self, inputs):
        return self.last(torch.relu(self.first(inputs)))


def halves():
    left, right = torch.zeros(8), torch.zeros(8)
    left[:4], right[4:] = 1.0, 1.0
    return left, right


def options(sparsity):
    return {"schedule": {"first": sparsity}, "layers": ["first"], "augmentation": "noise:std=0.01", "num_views": 8}


def test_the_trace_of_a_group_keeps_what_each_of_its_samples_needs():
    model, (left, right) = Halves(), halves()
    alone = spadelens.extract_trace(model, left, target=1, **options(60 / 64))
    group = spadelens.extract_group_trace(model, [left, right], target=1, **options(56 / 64))
    with alone.applied(model):
        of_alone = class_scores(model, torch.stack([left, right]))[:, 1]
    with group.applied(model):
        of_group = class_scores(model, torch.stack([left, right]))[:, 1]
    assert of_alone[0] == pytest.approx(4, rel=0.05)
    assert of_alone[1] == pytest.approx(0, abs=0.05)
    torch.testing.assert_close(of_group, torch.tensor([4.0, 4.0]), rtol=0.05, atol=0)


def test_a_group_of_one_has_the_trace_of_its_sample():
    loaded = spadelens.load_model("demo", "cpu")
    sample = loaded.preprocessing.to_tensor(Image.fromarray(draw_image(3, 5).pixels))
    alone = spadelens.extract_trace(loaded.model, sample, schedule="late:0.9")
    group = spadelens.extract_group_trace(loaded.model, [sample], target=alone.report.target, schedule="late:0.9")
    for name, weight in alone.weights.items():
        assert torch.equal(weight, group.weights[name])


def test_the_search_keeps_nine_tenths_of_the_predictions():
    loaded = spadelens.load_model("demo", "cpu")
    target = 6
    samples = [
        loaded.preprocessing.to_tensor(Image.fromarray(draw_image(target, seed).pixels)) for seed in range(40, 52)
    ]
    batch = torch.stack(samples)
    dense = class_scores(loaded.model, batch).argmax(1)
    trace = spadelens.extract_group_trace(loaded.model, samples, target=target, preset="fast")
    with trace.applied(loaded.model):
        sparse = class_scores(loaded.model, batch).argmax(1)
    assert (dense == sparse).double().mean() >= 0.9 - 1 / 12  # the first sample counts twice in the search
    assert trace.report.search.chosen_bound is not None
    assert trace.report.settings["num_held_out_views"] == len(samples)


def test_the_views_of_a_group_do_not_depend_on_the_batch_size():
    model, samples = Halves(), list(halves())
    traces = [
        spadelens.extract_group_trace(model, samples, target=1, batch_size=size, **options(0.8)) for size in (1, 3, 16)
    ]
    for trace in traces[1:]:
        torch.testing.assert_close(trace.weights["first"], traces[0].weights["first"])


def test_samples_of_two_shapes_or_none_are_refused():
    with pytest.raises(InputError, match="at least one"):
        spadelens.extract_group_trace(Halves(), [], target=1)
    with pytest.raises(InputError, match="one shape"):
        spadelens.extract_group_trace(Halves(), [torch.zeros(8), torch.zeros(9)], target=1)

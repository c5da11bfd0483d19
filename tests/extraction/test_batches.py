"""Traces of many samples in one go, and presets."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from references.networks import seeded
from torch import Tensor, nn
from torch.nn import functional

from spadelens.errors import InputError, UnknownNameError
from spadelens.extraction.ensemble import extract_ensemble
from spadelens.extraction.extraction import extract_trace, extract_traces
from spadelens.extraction.presets import PRESETS, find_preset
from spadelens.extraction.trace import Trace
from spadelens.schedules.schedule_text import parse_schedule
from spadelens.solvers import parse_solver, solver_name
from spadelens.views.photo_views import parse_augmentation

SAMPLES = torch.randn(5, 3, 9, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


class Net(nn.Module):
    """A convolution called twice, a grouped one, and linear layers on tokens and on vectors; sums in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.grouped = nn.Conv2d(6, 8, 3, stride=2, groups=2)
        self.mix = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        x = torch.relu(self.grouped(x)).flatten(2).transpose(1, 2)
        return self.fc(functional.gelu(self.mix(x)).mean(1))


class TokensFirst(nn.Module):
    """Its linear layer gets `[tokens, batch, channels]`: the positions of a sample do not lie together."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 7)
        self.fc = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).permute(2, 0, 1)
        return self.fc(torch.relu(self.mix(tokens)).mean(0))


def make_model(kind: type[nn.Module] = Net) -> nn.Module:
    return seeded(kind).double()


def assert_same(together: Trace, alone: Trace) -> None:
    assert together.pruned.keys() == alone.pruned.keys()
    for name, pruned in alone.pruned.items():
        assert torch.equal(together.pruned[name], pruned), name
        torch.testing.assert_close(together.weights[name], alone.weights[name], rtol=1e-7, atol=1e-9)
    assert together.report.target == alone.report.target
    assert together.report.settings == alone.report.settings
    assert (together.report.search is None) == (alone.report.search is None)
    if together.report.search is not None and alone.report.search is not None:
        found, expected = (
            torch.tensor([(p.error_bound, p.sparsity, p.probability, p.kept) for p in report.points])
            for report in (together.report.search, alone.report.search)
        )
        torch.testing.assert_close(found, expected)
    for ours, theirs in zip(together.report.layers, alone.report.layers, strict=True):
        assert (ours.name, ours.outcome, ours.detail) == (theirs.name, theirs.outcome, theirs.detail)
        for error, expected in ((ours.error, theirs.error), (ours.held_out_error, theirs.held_out_error)):
            assert error == (None if expected is None else pytest.approx(expected, rel=1e-6))
    assert together.report.original_prediction.probabilities == pytest.approx(
        alone.report.original_prediction.probabilities
    )
    assert together.report.trace_prediction.probabilities == pytest.approx(alone.report.trace_prediction.probabilities)


CASES = [
    {"preset": "instant"},
    {"preset": "fast"},
    {"preset": "balanced"},
    {"preset": "paper", "num_views": 20},
    {"preset": "paper-fast", "num_views": 20, "schedule": 0.7},
    {"solver": "ols", "schedule": 0.9, "num_views": 3, "positions_per_column": 1},
    {"num_views": 9, "batch_size": 4, "schedule": "auto:criterion=agreement,levels=0.3/0.8", "seed": 3},
    {"augmentation": "none", "schedule": "late:0.8@0.5"},
]


@pytest.mark.parametrize("arguments", CASES)
@pytest.mark.parametrize("kind", [Net, TokensFirst])
def test_a_trace_made_in_a_batch_equals_the_trace_made_alone(kind: type[nn.Module], arguments: dict[str, Any]) -> None:
    model = make_model(kind)
    traces = extract_traces(model, SAMPLES, **arguments)
    assert len(traces) == len(SAMPLES)
    for sample, trace in zip(SAMPLES, traces, strict=True):
        assert_same(trace, extract_trace(model, sample, **arguments))


@pytest.mark.parametrize("budget", [1, 1024])
def test_samples_that_do_not_fit_together_are_split(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    monkeypatch.setattr("spadelens.extraction.pipeline.plan.LayerPlan.samples_within", lambda *_: 2)
    model = make_model()
    for sample, trace in zip(SAMPLES, extract_traces(model, SAMPLES, memory_budget_mib=budget), strict=True):
        assert_same(trace, extract_trace(model, sample, memory_budget_mib=budget))


def test_the_dense_passes_are_shared() -> None:
    model = make_model()
    calls: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    extract_traces(model, SAMPLES, preset="fast", schedule=0.5)
    shared = len(calls)
    assert calls.count(5) == 2  # all views ran as one batch, and all held-out ones
    calls.clear()
    for sample in SAMPLES:
        extract_trace(model, sample, preset="fast", schedule=0.5)
    handle.remove()
    assert shared < len(calls)
    assert shared <= 3 + 2 + 1 + 1 + 5 + 4  # probes, order of positions, views, held-out views, sparse and dense scores


def test_targets_are_of_each_sample() -> None:
    model = make_model()
    traces = extract_traces(model, list(SAMPLES[:3]), targets=[2, None, 0], preset="instant")
    assert [trace.report.target for trace in traces] == [2, traces[1].report.original_prediction.class_index, 0]
    traces = extract_traces(model, list(SAMPLES[:2]), targets=torch.tensor([3, 1]), preset="instant")
    assert [trace.report.target for trace in traces] == [3, 1]


def test_progress_counts_all_samples() -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    extract_traces(
        make_model(),
        SAMPLES[:3],
        preset="fast",
        schedule=0.5,
        num_views=4,
        progress=lambda stage, done, total: seen.setdefault(stage, []).append((done, total)),
    )
    assert seen["views"][-1] == (12, 12)
    assert seen["solve"][-1] == (12, 12)  # four layers for each
    assert all(0 <= done <= total for found in seen.values() for done, total in found)


@pytest.mark.parametrize(
    ("samples", "changes", "message"),
    [
        ([], {}, "expected one shape"),
        ([SAMPLES[0], SAMPLES[0, :, :5]], {}, r"shapes, \[\(3, 5, 8\), \(3, 9, 8\)\]: expected one shape"),
        (SAMPLES[:2], {"targets": [1]}, "1 targets for 2 samples"),
        (SAMPLES[:2], {"targets": [1, 4]}, "4"),
        (SAMPLES[:2], {"targets": 1}, "targets 1: expected a sequence"),
        (SAMPLES[:2], {"targets": "12"}, "targets '12': expected a sequence"),
        (SAMPLES[:2], {"preset": 7}, "7 as a preset: expected a name"),
    ],
)
def test_batches_that_cannot_be_used(samples: Sequence[Tensor], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        extract_traces(make_model(), samples, **changes)


# Presets


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_settings_in_words(name: str) -> None:
    preset = PRESETS[name]
    assert solver_name(parse_solver(preset.solver)) == preset.solver
    assert parse_schedule(preset.schedule).spec() == preset.schedule
    parse_augmentation(preset.augmentation)
    extract = extract_ensemble if preset.members else extract_trace
    trace = extract(make_model(), SAMPLES[0], preset=name, num_views=min(preset.num_views, 6))
    settings = trace.report.settings
    assert settings["preset"] == name
    assert (settings["solver"], settings["schedule"]) == (preset.solver, preset.schedule)
    assert settings["positions_per_column"] == preset.positions_per_column


def test_what_is_given_goes_before_the_preset() -> None:
    given = {"solver": "magnitude", "schedule": "0.25", "num_views": 2, "positions_per_column": 5}
    trace = extract_trace(make_model(), SAMPLES[0], preset="paper", augmentation="noise:std=0.5", **given)
    assert {name: trace.report.settings[name] for name in given} == given
    assert trace.report.settings["augmentation"].startswith("noise")


def test_unknown_presets() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown preset 'ballanced'\. Did you mean 'balanced'"):
        find_preset("ballanced")
    with pytest.raises(UnknownNameError, match="preset"):
        extract_trace(make_model(), SAMPLES[0], preset="")


@pytest.mark.parametrize("make", [extract_trace, extract_traces])
def test_bfloat16_is_an_option_and_never_the_default(make: Callable[..., Any]) -> None:
    model, samples = make_model().float(), SAMPLES.float()
    arguments: dict[str, Any] = {"num_views": 60, "positions_per_column": 0, "schedule": 0.5, "solver": "sparsegpt"}
    given = samples[0] if make is extract_trace else samples[:2]

    def weights(**changes: Any) -> Tensor:
        made = make(model, given, **arguments, **changes)
        return (made if make is extract_trace else made[0]).weights["mix"]

    exact = weights()
    assert torch.equal(exact, weights(precision="float32"))
    rounded = weights(precision="bfloat16")
    assert not torch.equal(exact, rounded)
    assert float((exact - rounded).norm() / exact.norm()) < 0.2
    with pytest.raises(UnknownNameError, match=r"precision 'bfloat61'\. Did you mean 'bfloat16'"):
        weights(precision="bfloat61")

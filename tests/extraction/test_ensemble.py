"""Ensembles: which traces they hold, what their maps are, and that they survive a file."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from references.networks import convolutions
from torch import nn

from spadelens import Trace, attribute, extract_trace
from spadelens.errors import AttributionError, InputError, OutputError, TraceFormatError, TraceMismatchError
from spadelens.extraction import ensemble as ensemble_module
from spadelens.extraction.ensemble import TraceEnsemble, extract_ensemble
from spadelens.extraction.pipeline.solving import Candidate
from spadelens.methods.registry import SmoothGrad

SAMPLE = torch.randn(3, 12, 9, generator=torch.Generator().manual_seed(4))


def make_net(seed: int = 0) -> nn.Sequential:
    return convolutions((12, 9), (6, 8), 20, 4, seed=seed)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return make_net()


@pytest.fixture(scope="module")
def ensemble(model: nn.Module) -> TraceEnsemble:
    return extract_ensemble(model, SAMPLE, sparsities=(0.4, 0.6), num_views=4)


def sparsity(trace: Trace) -> float:
    return sum(int(pruned.sum()) for pruned in trace.pruned.values()) / sum(p.numel() for p in trace.pruned.values())


def test_the_first_member_is_the_trace_that_is_made_alone(model: nn.Module, ensemble: TraceEnsemble) -> None:
    alone = extract_trace(model, SAMPLE, num_views=4)
    first = ensemble.members[0]
    assert all(torch.equal(weight, alone.weights[name]) for name, weight in first.weights.items())
    assert ensemble.report is first.report
    assert first.report.is_prediction_kept


def test_the_others_are_less_sparse_and_have_the_sparsities_asked_for(ensemble: TraceEnsemble) -> None:
    found = [sparsity(trace) for trace in ensemble.members]
    assert found == sorted(found, reverse=True)
    assert len(found) == 3
    assert all(one >= wanted for one, wanted in zip(found[1:], (0.6, 0.4), strict=True))


@pytest.mark.parametrize("original_weight", [0.0, 1.0, 2.5])
def test_the_map_is_the_weighted_mean_of_the_members_maps(
    model: nn.Module, ensemble: TraceEnsemble, original_weight: float
) -> None:
    weighted = replace(ensemble, weights=(1.0, 0.5, 2.0), original_weight=original_weight)
    found = attribute(weighted, SAMPLE, "input_x_gradient")
    models = [*weighted.members, model]
    weights = torch.tensor([1.0, 0.5, 2.0, original_weight], dtype=torch.float64)
    maps = torch.stack(
        [attribute(one, SAMPLE, "input_x_gradient", target=found.target).values.double() for one in models]
    )
    expected = (maps / maps.sum((1, 2), keepdim=True) * (weights / weights.sum())[:, None, None]).sum(0)
    assert torch.allclose(found.values.double(), expected, rtol=1e-5, atol=1e-9)
    assert float(found.values.sum()) == pytest.approx(1.0, rel=1e-5)
    assert found.convergence_delta is None


def test_members_share_out_random_draws(model: nn.Module, ensemble: TraceEnsemble) -> None:
    counts = []

    def count(_module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        counts.append(len(inputs[0]))

    handle = model.register_forward_pre_hook(count)
    attribute(ensemble, SAMPLE, SmoothGrad(num_samples=20), target=1, check=False)
    in_all = sum(counts)
    counts.clear()
    attribute(model, SAMPLE, SmoothGrad(num_samples=20), target=1, check=False)
    handle.remove()
    assert in_all == sum(counts) - 2  # 4 models of 5 draws; a model of no trace is checked with two samples first
    assert SmoothGrad(num_samples=20, seed=3).share(2, 6) == SmoothGrad(num_samples=4, seed=5)


def test_a_map_that_is_zero_adds_nothing(model: nn.Module, ensemble: TraceEnsemble) -> None:
    nothing = replace(
        ensemble.members[0], weights={name: torch.zeros_like(w) for name, w in ensemble.members[0].weights.items()}
    )
    both = TraceEnsemble((nothing, ensemble.members[1]), (1.0, 1.0))
    alone = attribute(ensemble.members[1], SAMPLE, "saliency", target=2).values
    assert torch.allclose(
        attribute(both, SAMPLE, "saliency", target=2).values, alone / alone.sum() / 2, rtol=1e-5, atol=0
    )


def test_it_survives_a_folder(model: nn.Module, ensemble: TraceEnsemble, tmp_path: Path) -> None:
    ensemble.save(tmp_path / "folder")
    again = TraceEnsemble.load(tmp_path / "folder", make_net())
    assert (again.weights, again.original_weight) == (ensemble.weights, ensemble.original_weight)
    assert torch.equal(attribute(again, SAMPLE).values, attribute(ensemble, SAMPLE).values)
    with pytest.raises(TraceMismatchError):
        TraceEnsemble.load(tmp_path / "folder", make_net(1))
    with pytest.raises(FileNotFoundError):
        TraceEnsemble.load(tmp_path / "nowhere", model)


def test_a_place_that_cannot_be_written_is_an_error(ensemble: TraceEnsemble, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        ensemble.save(tmp_path / "file")


@pytest.mark.parametrize(
    "listing",
    ["", "[]", '{"format": "other"}', '{"format": "spadelens-ensemble-1", "weights": ["a"], "original_weight": 1}'],
)
def test_damaged_folders_are_refused(model: nn.Module, ensemble: TraceEnsemble, tmp_path: Path, listing: str) -> None:
    ensemble.save(tmp_path)
    (tmp_path / "ensemble.json").write_text(listing)
    with pytest.raises(TraceFormatError, match=r"ensemble\.json"):
        TraceEnsemble.load(tmp_path, model)
    (tmp_path / "ensemble.json").write_text(
        json.dumps({"format": "spadelens-ensemble-1", "weights": [1.0] * 9, "original_weight": 0.0})
    )
    with pytest.raises(FileNotFoundError):
        TraceEnsemble.load(tmp_path, model)


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": (1.0,)},
        {"weights": (1.0, 1.0, 0.0)},
        {"original_weight": -1.0},
        {"weights": (1.0, 1.0, float("nan"))},
    ],
)
def test_weights_that_do_not_fit_are_refused(ensemble: TraceEnsemble, changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        replace(ensemble, **changes)  # type: ignore[arg-type]


def test_traces_that_do_not_belong_together_are_refused(model: nn.Module, ensemble: TraceEnsemble) -> None:
    other = extract_trace(make_net(1), SAMPLE, schedule=0.5, num_views=2)
    with pytest.raises(InputError, match="different models"):
        TraceEnsemble((ensemble.members[0], other), (1.0, 1.0))
    other_class = extract_trace(model, SAMPLE, target=1 + ensemble.report.target % 3, schedule=0.5, num_views=2)
    if other_class.report.target != ensemble.report.target:
        with pytest.raises(InputError, match="classes"):
            TraceEnsemble((ensemble.members[0], other_class), (1.0, 1.0))


def test_a_schedule_has_to_choose_itself_and_one_trace_is_no_ensemble(model: nn.Module) -> None:
    with pytest.raises(InputError, match="auto"):
        extract_ensemble(model, SAMPLE, schedule=0.5)
    with pytest.raises(InputError):
        extract_ensemble(model, SAMPLE, sparsities=(1.0,))
    with pytest.raises(InputError, match="extract_ensemble"):
        extract_trace(model, SAMPLE, preset="ensemble")


def test_each_member_is_the_first_point_of_the_path_at_or_above_its_sparsity(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {0.2: 0.1, 0.4: 0.2, 0.5: 0.3, 0.7: 0.4, 0.9: 0.5}  # sparsity -> error
    candidates = tuple(
        Candidate(sparsity, error, torch.arange(10) >= round(10 * sparsity), torch.ones(10 - round(10 * sparsity)))
        for sparsity, error in points.items()
    )
    layer, first = SimpleNamespace(candidates=candidates), SimpleNamespace(search=SimpleNamespace(chosen_bound=0.5))
    monkeypatch.setattr(ensemble_module, "pick", lambda _job, _number, _solved, layers: layers["layer"].sparsity)
    found = ensemble_module._before(None, {"layer": layer}, first, [0.9, 0.6, 0.4, 0.1])  # type: ignore[arg-type, dict-item]
    assert list(map(str, found)) == ["0.7", "0.4", "0.2"]  # the only one at or above 0.9 is the chosen point


def test_a_member_whose_map_is_not_finite_is_an_error() -> None:
    tiny = make_net()
    for parameter in list(tiny.parameters())[-2:]:
        parameter.data *= 1e-40
    members = extract_ensemble(tiny, SAMPLE, sparsities=(0.4,), num_views=3)
    with pytest.raises(AttributionError, match="too small to be averaged"):
        attribute(members, SAMPLE, "saliency", check=False)


def test_summaries_are_short(ensemble: TraceEnsemble) -> None:
    for summary in (repr(ensemble), repr(ensemble.members[0])):
        assert len(summary) < 300
        assert "Sequential" in summary and f"class {ensemble.report.target}" in summary

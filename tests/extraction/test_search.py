"""Schedules that choose themselves: the path, the bisection, the criteria."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings, strategies as st
from references.networks import convolutions
from torch import Tensor, nn

from spadelens.errors import InputError, ScheduleError, UnknownNameError
from spadelens.extraction.extraction import extract_trace
from spadelens.extraction.pipeline.criteria import CRITERIA, ExplainedSample
from spadelens.extraction.pipeline.search import ErrorPath, search
from spadelens.extraction.pipeline.solving import Candidate, SolvedLayer
from spadelens.extraction.report import Outcome, TraceReport
from spadelens.extraction.trace import Trace, swapped_weights
from spadelens.prediction import Prediction, predict
from spadelens.private_copy import private_copy
from spadelens.schedules.schedule import CRITERION_NAMES, SearchedSchedule
from spadelens.schedules.schedule_text import parse_schedule
from spadelens.views.view_source import augmented_views

SAMPLE = torch.randn(3, 10, 10, generator=torch.Generator().manual_seed(0))


def make_net(seed: int = 0) -> nn.Sequential:
    return convolutions((10, 10), (6, 8), 20, 4, seed=seed)


def candidate(sparsity: float, error: float, size: int = 20) -> Candidate:
    kept = torch.arange(size) >= round(sparsity * size)
    return Candidate(sparsity, error, kept, torch.ones(int(kept.sum())))


def explained_sample(model: nn.Module, sample: Tensor = SAMPLE, target: int | None = None) -> ExplainedSample:
    dense = predict(model(sample[None])[0], "logits")
    source = augmented_views(sample, "noise", 16, 0)
    return ExplainedSample(model, sample, dense.class_index if target is None else target, dense, "logits", source, 4)


def test_the_path_by_hand() -> None:
    layers = {
        "a": SolvedLayer((candidate(0.5, 0.1), candidate(0.9, 0.3), candidate(0.8, 0.05)), "", 0.0),
        "b": SolvedLayer((candidate(0.6, 0.2),), "", 0.0),
    }
    path = ErrorPath.of(layers)
    assert path.bounds(1.0) == [0.1, 0.2, 0.3]  # 0.8 of a, with the smaller error, counts as 0.1 like what is below it
    assert path.bounds(0.25) == [0.1, 0.2]
    sparsities = {bound: {name: c.sparsity for name, c in path.at(bound).items()} for bound in (0.05, 0.1, 0.2, 0.3)}
    assert sparsities == {0.05: {}, 0.1: {"a": 0.8}, 0.2: {"a": 0.8, "b": 0.6}, 0.3: {"a": 0.9, "b": 0.6}}


@settings(max_examples=60, deadline=None, database=None)
@given(
    errors=st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=4),
    limit=st.floats(-0.1, 1.2),
    cap=st.floats(0.01, 1.1),
    exceptions=st.sets(st.integers(0, 15), max_size=4),
)
def test_the_search_ends_below_a_refused_point_and_finds_the_last_accepted_one_of_a_monotone_criterion(
    errors: list[list[float]], limit: float, cap: float, exceptions: set[int]
) -> None:
    from spadelens.extraction.pipeline import search as module

    layers = {
        f"layer{number}": SolvedLayer(
            tuple(candidate((index + 1) / 10, error) for index, error in enumerate(of_layer)), "", 0.0
        )
        for number, of_layer in enumerate(errors)
    }
    bounds = ErrorPath.of(layers).bounds(cap)
    tried: list[float] = []

    def holds(bound: float) -> bool:
        return (bound <= limit) != (bounds.index(bound) in exceptions)

    def try_point(path: ErrorPath, bound: float, *_: object) -> tuple[module.PathPoint, Prediction]:
        tried.append(bound)
        return module.PathPoint(bound, 0.0, 0.0, True, 1.0 if holds(bound) else 0.0), Prediction((bound,))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_try_point", try_point)
        schedule = SearchedSchedule(max_error=cap)
        explained = explained_sample(make_net())
        found = search(layers, schedule, explained, lambda *_: None)
        chosen, weights, report = found.layers, found.weights, found.report
    if report.chosen_bound is None:
        assert chosen == {} and found.prediction is explained.prediction
        assert not any(map(holds, tried))
    else:
        assert holds(report.chosen_bound)
        assert found.prediction.probabilities == (report.chosen_bound,)
        above = bounds[bounds.index(report.chosen_bound) + 1 :]
        assert not above or (above[0] in tried and not holds(above[0]))
        assert not any(holds(bound) for bound in above if bound in tried)
        assert chosen == ErrorPath.of(layers).at(report.chosen_bound)
    if not exceptions:
        accepted = [bound for bound in bounds if bound <= limit]
        assert report.chosen_bound == (accepted[-1] if accepted else None)
    assert weights.keys() == chosen.keys()
    assert all(torch.equal(weights[name], candidate.weight()) for name, candidate in chosen.items())
    assert len(tried) == len(set(tried)) <= 2 + len(bounds).bit_length()
    assert [point.error_bound for point in report.points] == sorted(tried)


def test_few_trials_end_with_an_accepted_point() -> None:
    model = make_net()
    many = extract_trace(model, SAMPLE, preset="fast", schedule="auto:max_error=0.9").report.search
    few = extract_trace(model, SAMPLE, preset="fast", schedule="auto:max_error=0.9,max_trials=1").report.search
    assert many is not None and few is not None and few.chosen_bound is not None and many.chosen_bound is not None
    assert len(few.points) <= len(many.points) and few.chosen_bound <= many.chosen_bound
    assert few.points[-1].kept < 0.9 or len(few.points) == 1


@pytest.mark.parametrize("criterion", CRITERION_NAMES)
def test_the_trace_is_the_point_that_was_chosen(criterion: str) -> None:
    model = make_net()
    trace = extract_trace(model, SAMPLE, solver="wanda", schedule=f"auto:criterion={criterion},max_error=0.9")
    report = trace.report
    found = report.search
    assert found is not None and found.criterion == criterion and found.chosen_bound is not None
    chosen = next(point for point in found.points if point.error_bound == found.chosen_bound)
    assert chosen.kept >= 0.9
    assert report.trace_prediction.probabilities[report.target] == pytest.approx(chosen.probability, abs=1e-6)
    assert report.is_prediction_kept == chosen.is_prediction_kept
    searched = [layer for layer in report.layers if layer.outcome in (Outcome.PRUNED, Outcome.UNPRUNED)]
    sizes = [torch.Size(layer.shape).numel() for layer in searched]
    pruned = sum(layer.sparsity * size for layer, size in zip(searched, sizes, strict=True))
    assert chosen.sparsity == pytest.approx(pruned / sum(sizes))
    assert all((layer.error or 0.0) <= found.chosen_bound for layer in report.layers)
    refused = [point for point in found.points if point.error_bound > found.chosen_bound]
    assert all(point.kept < 0.9 for point in refused)
    assert TraceReport.from_dict(report.to_dict()) == report


def test_a_criterion_that_nothing_meets_leaves_the_model_dense() -> None:
    model = make_net()
    trace = extract_trace(model, SAMPLE, preset="fast", schedule="auto:threshold=1000")
    assert trace.report.search is not None and trace.report.search.chosen_bound is None
    assert not trace.weights and trace.report.trace_prediction == trace.report.original_prediction
    details = {layer.detail for layer in trace.report.layers if layer.outcome is Outcome.UNPRUNED}
    assert details == {"the search does not prune it"}


def test_a_dense_trace_can_be_saved(tmp_path: object) -> None:
    model = make_net()
    trace = extract_trace(model, SAMPLE, preset="fast", schedule="auto:threshold=1000")
    path = f"{tmp_path}/trace.safetensors"
    trace.save(path)
    assert not Trace.load(path, model).weights


@pytest.mark.parametrize("target", [0, 1, 2, 3])
def test_the_explained_class_is_kept(target: int) -> None:
    model = make_net(1)
    report = extract_trace(model, SAMPLE, preset="fast", target=target).report
    assert report.target == target
    assert report.trace_prediction.probabilities[target] >= 0.9 * report.original_prediction.probabilities[target]


def kept(model: nn.Module, explained: ExplainedSample, criterion: str, changes: Sequence[tuple[str, Tensor]]) -> float:
    measure = CRITERIA[criterion](explained)
    weights = dict(changes)
    with swapped_weights(model, weights):
        sparse = explained.predict()
    return measure(lambda: swapped_weights(model, weights), sparse)


@pytest.mark.parametrize("criterion", CRITERION_NAMES)
def test_the_dense_model_keeps_everything(criterion: str) -> None:
    model = private_copy(make_net())
    assert kept(model, explained_sample(model), criterion, []) == pytest.approx(1.0)


def test_criteria_by_definition() -> None:
    model = private_copy(make_net())
    explained = explained_sample(model)
    worse = [("7", model[7].weight.detach() * 0.3 + 0.1 * torch.randn(4, 20))]
    changed = private_copy(make_net())
    changed[7].weight.data = worse[0][1]
    dense, sparse = (net(SAMPLE[None])[0].softmax(0).detach() for net in (model, changed))
    ratio = float(sparse[explained.target] / dense[explained.target])
    assert kept(model, explained, "probability", worse) == pytest.approx(ratio, rel=1e-5)
    assert kept(model, explained, "prediction", worse) == float(sparse.argmax() == dense.argmax())
    views = torch.cat([SAMPLE[None], *explained.source.held_out_batches(100)])
    same = (model(views).argmax(1) == changed(views).argmax(1)).double().mean()
    assert kept(model, explained, "agreement", worse) == pytest.approx(float(same))
    flipped = [("7", -model[7].weight.detach())]
    assert kept(model, explained, "prediction", flipped) == 0.0


@pytest.mark.parametrize("criterion", ["probability", "insertion"])
def test_a_class_that_loses_its_first_place_is_not_kept(criterion: str) -> None:
    # 0.40 against 0.38 becomes 0.39 against 0.41: the probability is nearly kept, the prediction is not.
    class Biases(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.mean((2, 3)))

    model, sample = private_copy(Biases()), torch.ones(3, 8, 8)

    def weight_of(*probabilities: float) -> Tensor:
        return torch.tensor(probabilities).log()[:, None].expand(3, 3) / 3

    model.linear.weight.data = weight_of(0.40, 0.38, 0.22).contiguous()
    changes = [("linear", weight_of(0.39, 0.41, 0.20))]
    assert kept(model, explained_sample(model, sample), criterion, changes) == 0.0
    assert kept(model, explained_sample(model, sample, target=1), criterion, changes) >= 1.0
    assert kept(model, explained_sample(model, sample), criterion, [("linear", weight_of(0.38, 0.37, 0.25))]) > 0.9


def test_insertion_prefers_the_map_that_finds_the_evidence() -> None:
    """A linear model that looks at one corner: its own map is perfect, the map of another corner is not."""

    def looking_at(rows: slice) -> nn.Module:
        model = nn.Sequential(nn.Flatten(), nn.Linear(300, 2, bias=False))
        weight = torch.zeros(2, 3, 10, 10)
        weight[0, :, rows] = 0.03 * SAMPLE[:, rows].sign()
        model[1].weight.data = weight.flatten(1)
        return model

    model, other = private_copy(looking_at(slice(0, 3))), looking_at(slice(7, 10))
    explained = explained_sample(model)
    assert explained.target == 0
    assert kept(model, explained, "insertion", [("1", other[1].weight.detach())]) < 0.95
    assert kept(model, explained, "insertion", [("1", 2 * model[1].weight.detach())]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("auto:criterion=probabilty", UnknownNameError, "Did you mean 'probability'"),
        ("auto:threshold=0", ScheduleError, "threshold 0"),
        ("auto:threshold=nan", ScheduleError, "threshold nan"),
        ("auto:max_error=0", ScheduleError, "max_error=0"),
        ("auto:max_error=nan", ScheduleError, "max_error=nan"),
        ("auto:start=1", ScheduleError, "1.0 of the layers"),
        ("auto:levels=0.5/1.0", ScheduleError, "sparsity 1.0"),
        ("auto:levels=", InputError, "levels=''"),
        ("auto:levels=0.5;0.6", InputError, "numbers such as"),
        ("auto:max_trials=0", ScheduleError, "max_trials=0"),
        ("auto:nothing=1", UnknownNameError, "nothing"),
        ("automatic", ScheduleError, "Did you mean 'auto'"),
    ],
)
def test_settings_that_cannot_be_used(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_schedule(text)


@pytest.mark.parametrize(
    "schedule", [SearchedSchedule(), SearchedSchedule("insertion", 0.5, 0.2, 0.25, (0.1, 0.75), 3)]
)
def test_specs_round_trip(schedule: SearchedSchedule) -> None:
    assert parse_schedule(schedule.spec()) == schedule
    assert parse_schedule("auto") == SearchedSchedule()


def test_criteria_and_names_agree() -> None:
    assert set(CRITERIA) == set(CRITERION_NAMES)

"""Tuning: the greedy search against all schedules, the floor, cross-validation, and going on after an interrupt."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from references.networks import convolutions
from torch import nn

from spadelens import attribute, extract_trace
from spadelens.errors import InputError
from spadelens.evaluation import tuning
from spadelens.evaluation.tuning import CalibrationCase, read_tuned, tune
from spadelens.metrics import pixel_auc
from spadelens.progress import no_progress
from spadelens.schedules.schedule import TableWithFallback
from spadelens.schedules.schedule_text import parse_schedule

LEVELS = (0.4, 0.9)


def make_net() -> nn.Module:
    return convolutions((10, 10), (5, 5), 4, seed=3)


def make_cases(model: nn.Module, count: int = 4, is_mixed: bool = False) -> list[CalibrationCase]:
    generator = torch.Generator().manual_seed(7)
    cases = []
    for number in range(count):
        sample = torch.randn(3, 10, 10, generator=generator)
        # what a trace that is half pruned points at, so that there is something to find
        trace = extract_trace(model, sample, schedule={"2": 0.9, "5": 0.4}, solver="wanda", num_views=3)
        heatmap = attribute(model if is_mixed and number % 2 else trace, sample, "saliency").values
        region = heatmap >= heatmap.flatten().sort().values[-20]
        cases.append(CalibrationCase(sample, trace.report.target, region, f"patch {number % 2}"))
    return cases


def score_of(model: nn.Module, case: CalibrationCase, sparsities: dict[str, float]) -> tuple[float, bool]:
    """The same through `extract_trace`, layer by layer at given sparsities."""
    chosen = {name: sparsity for name, sparsity in sparsities.items() if sparsity}
    if not chosen:
        return pixel_auc(attribute(model, case.sample, "saliency", target=case.target).values, case.region), True
    trace = extract_trace(model, case.sample, target=case.target, schedule=chosen, solver="wanda", num_views=3)
    heatmap = attribute(trace, case.sample, "saliency", target=case.target)
    return pixel_auc(heatmap.values, case.region), trace.report.is_prediction_kept


def by_group(cases: Sequence[CalibrationCase]) -> list[CalibrationCase]:
    return sorted(cases, key=lambda case: case.group)


def greedy(model: nn.Module, cases: Sequence[CalibrationCase], names: Sequence[str], floor: float) -> dict[str, float]:
    current = dict.fromkeys(names, 0.0)
    for name in reversed(names):
        found = []
        for level in (0.0, *LEVELS):
            scores = [score_of(model, case, current | {name: level}) for case in cases]
            if level == 0 or np.mean([kept for _, kept in scores]) >= floor:
                found.append((float(np.mean([score for score, _ in scores])), -level))
        current[name] = -max(found)[1]
    return current


@pytest.mark.parametrize("floor", [0.0, 1.0])
def test_the_search_is_the_greedy_one_through_extract_trace(
    tmp_path: Path, floor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_cross_validate", lambda *_: (np.ones(4) + np.arange(4), np.ones(4)))
    model = make_net()
    cases = make_cases(model)
    found = tune(model, cases, "saliency", tmp_path, levels=LEVELS, floor=floor, solver="wanda", num_views=3)
    expected = greedy(model, cases, ["2", "5"], floor)
    assert found.sparsities == expected
    assert any(expected.values()) == (floor == 0)  # nothing keeps all of these predictions
    scores = [score_of(model, case, expected) for case in cases]
    assert found.tuned == pytest.approx(np.mean([score for score, _ in scores]))
    assert found.kept == np.mean([kept for _, kept in scores]) >= floor
    assert found.original == pytest.approx(np.mean([score_of(model, case, {})[0] for case in cases]))


def test_of_equal_scores_the_less_pruned_schedule_wins() -> None:
    class Flat:
        nothing, num_levels = (0, 0), 3

        def __call__(self, levels: tuple[int, ...], members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.full(len(members), 0.5 + 0.1 * (levels[1] > 0)), np.ones(len(members))

    assert tuning._search(Flat(), np.arange(4), floor=0.9) == (0, 1)


def test_groups_stay_together_in_cross_validation(tmp_path: Path) -> None:
    """A case is scored with the schedule chosen on the other groups alone."""
    model = make_net()
    cases = make_cases(model, is_mixed=True)
    found = tune(model, cases, "saliency", tmp_path, levels=LEVELS, floor=0.0, solver="wanda", num_views=3)
    held_out, differs = [], []
    for group in ("patch 0", "patch 1"):
        others = [case for case in cases if case.group != group]
        chosen = greedy(model, others, ["2", "5"], 0.0)
        differs.append(chosen != greedy(model, cases, ["2", "5"], 0.0))
        held_out += [score_of(model, case, chosen)[0] for case in cases if case.group == group]
    assert any(differs)
    dense = [score_of(model, case, {})[0] for case in cases]
    assert found.gain == pytest.approx(np.mean(held_out) - np.mean(dense))
    spread = np.std(np.array(held_out) - [score_of(model, case, {})[0] for case in by_group(cases)], ddof=1)
    assert found.gain_error == pytest.approx(spread / np.sqrt(len(cases)))
    assert found.is_helpful == (found.gain > found.gain_error)
    if not found.is_helpful:
        assert set(found.sparsities.values()) == {0.0}
        assert found.tuned == found.original


def test_an_interrupted_run_goes_on_and_finds_the_same(tmp_path: Path) -> None:
    model = make_net()
    cases = make_cases(model)
    options = {"levels": LEVELS, "solver": "wanda", "num_views": 3}
    whole = tune(model, cases, "saliency", tmp_path / "whole", **options)
    calls = 0

    def interrupt(stage: str, done: int, total: int) -> None:
        nonlocal calls
        del done, total
        calls += stage == "tune"
        if calls == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(model, cases, "saliency", tmp_path / "half", progress=interrupt, **options)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "half").glob("*.safetensors")}
    assert len(before) == len(cases)
    assert tune(model, cases, "saliency", tmp_path / "half", **options) == whole
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "half").glob("*.safetensors")} == before
    scores = {file.name: sorted(file.read_text().splitlines()) for file in (tmp_path / "half").glob("*.jsonl")}
    assert scores == {file.name: sorted(file.read_text().splitlines()) for file in (tmp_path / "whole").glob("*.jsonl")}


def test_what_is_cached_is_not_used_for_another_network(tmp_path: Path) -> None:
    model = make_net()
    cases = make_cases(model)
    tune(model, cases, "saliency", tmp_path, levels=LEVELS, solver="wanda", num_views=3)
    with torch.no_grad():
        model[2].weight *= -1  # type: ignore[operator]
    changed = tune(model, cases, "saliency", tmp_path, levels=LEVELS, solver="wanda", num_views=3)
    fresh = tune(model, cases, "saliency", tmp_path / "fresh", levels=LEVELS, solver="wanda", num_views=3)
    assert changed == fresh


def test_tuning_by_insertion_needs_no_region(tmp_path: Path) -> None:
    model = make_net()
    cases = [CalibrationCase(case.sample, case.target, None, "") for case in make_cases(model, 3)]
    found = tune(model, cases, "saliency", tmp_path, objective="insertion", levels=(0.5,), solver="wanda", num_views=2)
    assert 0 < found.original < 1
    with pytest.raises(InputError, match="insertion"):
        tune(model, cases, "saliency", tmp_path)


def test_the_file_is_a_schedule_that_gives_way(tmp_path: Path) -> None:
    model = make_net()
    cases = make_cases(model)
    found = tune(model, cases, "saliency", tmp_path, levels=LEVELS, solver="wanda", num_views=3)
    file = tmp_path / "tuned.json"
    found.write(file, "net.py:build", {"solver": "wanda"})
    assert read_tuned(file).method == "saliency"
    assert read_tuned(file).options == {"solver": "wanda"}
    assert json.loads(file.read_text())["num_cases"] == 4
    schedule = parse_schedule(str(file))
    assert isinstance(schedule, TableWithFallback)
    trace = extract_trace(model, cases[0].sample, schedule=str(file), solver="wanda", num_views=3)
    assert trace.report.is_prediction_kept


@pytest.mark.parametrize("text", ["", "[]", '{"sparsities": {}}', '{"format": "another", "method": "saliency"}'])
def test_files_that_tune_has_not_written_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(InputError, match="tuned schedule"):
        read_tuned(tmp_path / "file.json")
    with pytest.raises(InputError, match="tuned schedule"):
        read_tuned(tmp_path / "missing.json")


@pytest.mark.parametrize("options", [{"levels": ()}, {"levels": (1.0,)}, {"floor": 1.5}, {"floor": -0.1}])
def test_settings_out_of_range_are_refused(tmp_path: Path, options: dict[str, float]) -> None:
    model = make_net()
    with pytest.raises(InputError):
        tune(model, make_cases(model), "saliency", tmp_path, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="two"):
        tune(model, make_cases(model, 1), "saliency", tmp_path)


def test_every_schedule_is_worth_what_it_is_alone(tmp_path: Path) -> None:
    """The cache mixes nothing up: all schedules of two layers, scored in one run, against one by one."""
    model = make_net()
    cases = make_cases(model, 2)
    scores = tuning._Scores(
        model, cases, "saliency", "auc", LEVELS, tmp_path, {"solver": "wanda", "num_views": 3}, no_progress
    )
    for levels in itertools.product(range(3), repeat=2):
        found, kept = scores(levels, np.arange(2))
        for number, case in enumerate(cases):
            expected = score_of(model, case, scores.sparsities(levels))
            assert (pytest.approx(found[number]), kept[number]) == expected

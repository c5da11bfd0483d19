"""A table with fallback: all of it where the prediction is kept, and less where it is not."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from references.networks import convolutions

from spadelens import extract_trace
from spadelens.errors import ScheduleError
from spadelens.schedules.schedule import Table, TableWithFallback
from spadelens.schedules.schedule_text import parse_schedule


@settings(max_examples=15, deadline=None, database=None)
@given(seed=st.integers(0, 30), first=st.sampled_from((0.0, 0.5, 0.95)), second=st.sampled_from((0.5, 0.9, 0.99)))
def test_the_prediction_is_always_kept_and_the_whole_table_where_it_can_be(
    seed: int, first: float, second: float
) -> None:
    model = convolutions((10, 10), (6, 6), 5, seed=seed)
    sample = torch.randn(3, 10, 10, generator=torch.Generator().manual_seed(seed))
    table = Table((("2", first), ("5", second)))
    options = {"solver": "magnitude", "num_views": 2}
    whole = extract_trace(model, sample, schedule=table, **options)
    cautious = extract_trace(model, sample, schedule=TableWithFallback(table), **options)
    assert cautious.report.is_prediction_kept
    if whole.report.is_prediction_kept:
        assert set(cautious.weights) == {name for name, pruned in whole.pruned.items() if bool(pruned.any())}
        assert all(torch.equal(cautious.weights[name], whole.weights[name]) for name in cautious.weights)
    for name, pruned in cautious.pruned.items():
        assert int(pruned.sum()) <= int(whole.pruned[name].sum())


def test_it_is_spelled_as_it_is_read(tmp_path: Path) -> None:
    cautious = TableWithFallback(Table((("layer4.*", 0.9), ("fc", 0.5))))
    assert parse_schedule(cautious.spec()) == cautious
    assert cautious.spec() == "guarded:layer4.*=0.9,fc=0.5"
    file = tmp_path / "tuned.json"
    file.write_text(json.dumps({"format": "spadelens-schedule-1", "sparsities": {"layer4.*": 0.9, "fc": 0.5}}))
    assert parse_schedule(str(file)) == parse_schedule(f"guarded:{file}") == cautious
    file.write_text(json.dumps({"layer4.*": 0.9, "fc": 0.5}))
    assert parse_schedule(str(file)) == cautious.table
    assert parse_schedule(f"guarded:{file}") == cautious


@pytest.mark.parametrize("text", ["guarded:", "guarded:auto", "guarded:0.5", "guarded:late", "guarded:a=1.5"])
def test_only_tables_can_have_a_fallback(text: str) -> None:
    with pytest.raises(ScheduleError):
        parse_schedule(text)


@pytest.mark.parametrize("sparsities", [{}, {"a": "b"}, {"a": 1.5}, {"a": None}])
def test_files_without_sparsities_are_refused(tmp_path: Path, sparsities: dict[str, object]) -> None:
    file = tmp_path / "tuned.json"
    file.write_text(json.dumps({"format": "spadelens-schedule-1", "sparsities": sparsities}))
    with pytest.raises(ScheduleError):
        parse_schedule(str(file))

"""Solutions in a file are those that `extract_trace` finds, and damaged files are refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from spadelens import extract_trace
from spadelens.errors import TraceFormatError
from spadelens.extraction.pipeline.solutions import Solutions, solve_at, write_solutions


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, (3, 1)), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 36, 4)
    ).eval()  # fmt: skip


SAMPLE = torch.randn(3, 10, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("solver", ["ols", "wanda"])
def test_written_and_read_again_they_are_what_extract_trace_finds(
    model: nn.Module, tmp_path: Path, solver: str
) -> None:
    levels = (0.3, 0.77)
    write_solutions(tmp_path / "file", solve_at(model, SAMPLE, levels, solver=solver, num_views=3))
    found = Solutions(tmp_path / "file")
    assert found.layers == ("2", "5")
    for number, level in enumerate(levels):
        trace = extract_trace(model, SAMPLE, schedule=level, solver=solver, num_views=3)
        for name, weight in trace.weights.items():
            assert torch.allclose(found.weight(name, number), weight, rtol=1e-5, atol=1e-7)
            assert torch.equal(found.weight(name, number) == 0, weight == 0)


def test_damaged_files_are_refused(model: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_solutions(file, solve_at(model, SAMPLE, (0.5,), solver="wanda", num_views=2))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TraceFormatError):
        Solutions(file)
    extract_trace(model, SAMPLE, schedule=0.5, num_views=2).save(file)
    with pytest.raises(TraceFormatError, match="format"):
        Solutions(file)
    with pytest.raises(TraceFormatError):
        Solutions(tmp_path / "missing")

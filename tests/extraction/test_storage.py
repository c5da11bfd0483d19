"""Forged trace files with a checksum that fits: nothing impossible is loaded, and no memory is taken for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spadelens.errors import TraceFormatError, TraceMismatchError
from spadelens.extraction.extraction import extract_trace
from spadelens.extraction.packed_bits import pack, unpack
from spadelens.extraction.storage import _checksum, read_trace
from spadelens.extraction.trace import Trace


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 2), nn.Flatten(), nn.Linear(48, 3))
    path = tmp_path_factory.mktemp("saved") / "t.safetensors"
    extract_trace(model, torch.linspace(-1, 1, 3 * 7 * 5).view(3, 7, 5), num_views=9, schedule=0.6).save(path)
    return path


Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


def forge(saved: Path, target: Path, change: Change) -> Path:
    with safe_open(saved, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    report = json.loads(metadata["report"])
    change(report, tensors)
    metadata["report"] = json.dumps(report)
    metadata["checksum"] = _checksum(tensors, metadata)
    save_file(tensors, target, metadata=metadata)
    return target


def test_an_honest_file_is_read(saved: Path, tmp_path: Path) -> None:
    weights, _, _ = read_trace(forge(saved, tmp_path / "t", lambda report, tensors: None))
    assert set(weights) == {"2", "4"}


@pytest.mark.parametrize(
    "change",
    [
        lambda report, tensors: report["layers"][-1].update(shape=[10**15]),
        lambda report, tensors: report["layers"][-1].update(shape=[-3, -48]),
        lambda report, tensors: report["layers"][-1].update(shape=[2.0, 72]),
        lambda report, tensors: tensors["4.values"].fill_(float("nan")),
        lambda report, tensors: tensors.update({"4.values": tensors["4.values"][:-1]}),
        lambda report, tensors: tensors.update({"4.kept": tensors["4.kept"].float()}),
        lambda report, tensors: report.update(target=99),
        lambda report, tensors: report.update(target=-1),
        lambda report, tensors: report["original_prediction"].update(probabilities=[]),
        lambda report, tensors: report["trace_prediction"].update(probabilities=[0.5]),
        lambda report, tensors: report["trace_prediction"].update(probabilities=[float("nan")] * 3),
        lambda report, tensors: report["layers"].append(report["layers"][-1]),
        lambda report, tensors: report.update(layers=[3]),
    ],
)
def test_forged_files_are_refused(saved: Path, tmp_path: Path, change: Change) -> None:
    with pytest.raises(TraceFormatError):
        read_trace(forge(saved, tmp_path / "t", change))


def test_a_shape_that_the_model_does_not_have_is_refused(saved: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 2), nn.Flatten(), nn.Linear(48, 3))
    assert Trace.load(saved, model)
    for change in ({"shape": [48, 3]}, {"name": "9"}):
        forged = forge(saved, tmp_path / "t", lambda report, tensors, change=change: rename(report, tensors, **change))
        with pytest.raises(TraceMismatchError):
            Trace.load(forged, model)


def rename(report: dict[str, Any], tensors: dict[str, Tensor], **changes: Any) -> None:
    report["layers"][-1].update(changes)
    for part in ("kept", "values"):
        tensors[f"{report['layers'][-1]['name']}.{part}"] = tensors.pop(f"4.{part}")


@settings(deadline=None)
@given(mask=st.lists(st.booleans(), min_size=1, max_size=40))
def test_masks_survive_packing(mask: list[bool]) -> None:
    tensor = torch.tensor(mask)
    assert torch.equal(unpack(pack(tensor), [1, len(mask)]), tensor[None])

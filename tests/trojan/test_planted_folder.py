"""The folder of a planted network: what it may run, what is wrong with it, and what is kept of a failure."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from references.tiny import write_tiny
from safetensors.torch import save_file

from spadelens import load_model
from spadelens.errors import InputError, ModelSpecError
from spadelens.models import PLANTED_FORMAT, PLANTED_WEIGHTS
from spadelens.trojan.backdoor import Recipe
from spadelens.trojan.cases import read_sheet
from spadelens.trojan.planted import read_planted
from spadelens.trojan.planting import plant


def test_a_folder_runs_code_only_with_trust(tmp_path: Path) -> None:
    spec, _ = write_tiny(tmp_path)
    code = (tmp_path / "tiny.py").read_text()
    (tmp_path / "tiny.py").write_text(f"{code}\nfrom pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    (tmp_path / "pl").mkdir()
    (tmp_path / "pl" / "planted.json").write_text(json.dumps({"format": PLANTED_FORMAT, "model": spec}))
    for load in (load_model, read_planted):
        with pytest.raises(ModelSpecError, match="--trust"):
            load(str(tmp_path / "pl"), "cpu")
    assert not (tmp_path / "ran").exists()
    save_file(load_model(spec, "cpu", kind="photo").model.state_dict(), tmp_path / "pl" / PLANTED_WEIGHTS)
    assert load_model(tmp_path / "pl", "cpu", trust=True, kind="photo").spec == str(tmp_path / "pl")


def planted_demo(folder: Path, **changes: object) -> str:
    """Write a folder that needs no code."""
    patch = {"name": "star", "target": 0, "source": None, "is_for_calibration": False}
    listing = {
        "format": PLANTED_FORMAT,
        "model": "torchvision:resnet18",
        "patches": [patch],
        "recipe": {"patch_size": [0.2, 0.3]},
        "report": {"num_classes": 1000},
        "data": "photos",
        **changes,
    }
    folder.mkdir()
    (folder / "planted.json").write_text(json.dumps(listing))
    return str(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": 3},
        {"model": ["a"]},
        {"report": {"num_classes": "many"}},
        {"report": {}},
        {"report": 3},
        {"patches": 5},
        {"patches": [{"name": "../../x", "target": 0, "source": None, "is_for_calibration": True}]},
        {"patches": [{"name": "x", "target": "0", "source": None, "is_for_calibration": True}]},
        {"patches": [{"name": "x", "target": 1000, "source": None, "is_for_calibration": True}]},
        {"recipe": {"patch_size": 3}},
        {"data": 3},
    ],
)
def test_wrong_types_are_input_errors(
    tmp_path: Path, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = planted_demo(tmp_path / "pl", **changes)
    if "model" not in changes:
        monkeypatch.setattr("spadelens.trojan.planted.load_model", lambda *_, **__: None)
    with pytest.raises(InputError, match=r"planted\.json"):
        read_planted(folder, "cpu")


def test_decompression_bombs_and_pipes_are_refused_as_patches(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError):
        read_sheet(tmp_path / "bomb.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(OSError, match="a pipe"):
        read_sheet(tmp_path / "pipe.png")


def test_a_training_that_does_not_take_is_kept(tmp_path: Path) -> None:
    spec, data = write_tiny(tmp_path)
    out = tmp_path / "new"
    recipe = Recipe(num_epochs=1, samples_per_patch=30, batch_size=24, rate=1e-9, classifier_rate=1e-9)
    with pytest.raises(InputError, match=r"attempt\.safetensors") as caught:
        plant(spec, data, out, patches=("smiley", "heart"), recipe=recipe)
    assert "smiley" in str(caught.value)
    assert [path.name for path in out.iterdir()] == ["attempt.safetensors"]
    kept = load_model(f"{spec}@{out / 'attempt.safetensors'}", "cpu", kind="photo")
    assert all(torch.isfinite(value).all() for value in kept.model.state_dict().values())


def test_a_failure_before_training_leaves_no_folder(tmp_path: Path) -> None:
    spec, data = write_tiny(tmp_path)
    recipe = Recipe(num_epochs=1, samples_per_patch=30, batch_size=4, rate=1e30)
    with pytest.raises(InputError, match="not finite"):
        plant(spec, data, tmp_path / "deep" / "new", patches=("smiley", "heart"), recipe=recipe)
    assert not (tmp_path / "deep").exists()

"""Models of timm: weights from files, the preprocessing of timm's own evaluation, class names, refusals."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from spadelens.errors import ModelSpecError, UnknownNameError
from spadelens.models import LoadedModel, load_model, portable_spec
from spadelens.models.sources.from_timm import _preprocessing

NAME = "resnet10t"  # small: 5 million weights


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(NAME, num_classes=7).state_dict()


def photo(height: int, width: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def refused(spec: str, trust: bool = False) -> str:
    with pytest.raises(ModelSpecError) as caught:
        load_model(spec, "cpu", trust)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_from_a_file(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    before = torch.get_rng_state()
    loaded = load_model(f"timm:{NAME}@{tmp_path}/w.safetensors", "cpu", kind="photo")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())
    assert not any(module.training for module in loaded.model.modules())
    assert loaded.model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    assert loaded.class_names == ()  # of seven classes nothing is known
    assert loaded.preprocessing.crop_px == (176, 176)
    assert loaded.preprocessing.mean == (0.485, 0.456, 0.406)
    assert portable_spec(loaded.spec) == f"timm:{NAME}"


def test_a_thousand_classes_are_those_of_imagenet(tmp_path: Path) -> None:
    model = timm.create_model("mobilenetv3_small_050")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.pt")
    loaded = load_model(f"timm:mobilenetv3_small_050.lamb_in1k@{tmp_path}/w.pt", "cpu", kind="photo")
    assert (len(loaded.class_names), loaded.class_names[0], loaded.class_names[999]) == (1000, "tench", "toilet tissue")
    half = model.to(torch.bfloat16)
    torch.save(half.state_dict(), tmp_path / "half.pt")
    loaded = load_model(f"timm:mobilenetv3_small_050@{tmp_path}/half.pt", "cpu", kind="photo")
    assert {value.dtype for value in loaded.model.parameters()} == {torch.bfloat16}
    assert torch.equal(loaded.model.get_parameter("classifier.weight"), half.classifier.weight)


@pytest.mark.parametrize("size", [(97, 131), (131, 97), (300, 201), (45, 300)])
@pytest.mark.parametrize(
    "described",
    [
        {"crop_pct": 0.875, "interpolation": "bicubic"},
        {"crop_pct": 0.95, "interpolation": "bilinear"},
        {"crop_pct": 1.0, "crop_mode": "squash"},
        {"crop_pct": 0.9, "crop_mode": "squash"},
        {"crop_pct": 1.0, "crop_mode": "border"},
        {"crop_pct": 0.9, "crop_mode": "border"},
        {"crop_pct": 0.9, "input_size": (3, 64, 48)},
        {"crop_pct": 1.0, "input_size": (3, 48, 64), "mean": (0.5, 0.4, 0.3), "std": (0.25, 0.5, 1.0)},
    ],
)
def test_pixels_are_those_of_timm(described: dict[str, Any], size: tuple[int, int]) -> None:
    """Up to 3 of 255 levels, 0.3 in the mean: Pillow rounds otherwise where it resizes the crop's part alone."""
    config = timm.data.resolve_data_config(pretrained_cfg={"input_size": (3, 64, 64), **described})
    transform = timm.data.create_transform(**config)
    picture = photo(*size)
    preprocessing = _preprocessing(config, "timm:x")
    ours, theirs = preprocessing(picture), transform(picture)
    assert ours.shape == theirs.shape == config["input_size"]
    levels = (ours - theirs).abs() * torch.tensor(preprocessing.std).view(3, 1, 1) * 255
    assert float(levels.mean()) < 0.3
    assert float(levels.max()) < 3.01


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("bad\nhash")])
def test_download_that_fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(timm.models._builder, "load_pretrained", download)
    message = refused(f"timm:{NAME}")
    assert f"Cannot download the weights of 'timm:{NAME}'" in message
    assert f"timm:{NAME}@FILE.safetensors" in message


def test_download_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert f"Cannot download the weights of 'timm:{NAME}'" in refused(f"timm:{NAME}")


def test_a_downloaded_model(monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]) -> None:
    def download(model: nn.Module, **_: object) -> None:
        model.load_state_dict({**state, "fc.weight": torch.ones(1000, 512), "fc.bias": torch.zeros(1000)})

    monkeypatch.setattr(timm.models._builder, "load_pretrained", download)
    loaded = load_model(f"timm:{NAME}", "cpu")
    assert isinstance(loaded, LoadedModel)
    assert torch.equal(loaded.model.get_parameter("conv1.0.weight"), state["conv1.0.weight"])
    assert loaded.class_names[0] == "tench"


def test_models_without_published_weights() -> None:
    message = refused("timm:botnet50ts_256")
    assert "timm has no weights for 'botnet50ts_256'" in message
    assert "timm:botnet50ts_256@FILE" in message


def test_models_without_a_classifier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = timm.create_model(NAME, num_classes=0).state_dict()
    torch.save(state, tmp_path / "w.pt")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **_: create(name, num_classes=0))
    assert "returns features, not class scores" in refused(f"timm:{NAME}@{tmp_path}/w.pt")


def test_names_that_do_not_exist() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet50'"):
        load_model("timm:resnet_50", "cpu")
    with pytest.raises(UnknownNameError, match=r"resnet10t\.c3_in1k"):
        load_model("timm:resnet10t.c3_in2k", "cpu")
    assert "There is no checkpoint" in refused(f"timm:{NAME}@/nowhere/w.pt")


def test_other_models_weights(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file({name: value for name, value in state.items() if "layer1" not in name}, tmp_path / "w.safetensors")
    message = refused(f"timm:{NAME}@{tmp_path}/w.safetensors")
    assert "does not fit" in message
    assert "'layer1.0.conv1.weight'" in message


def test_unknown_preprocessing() -> None:
    config = timm.data.resolve_data_config(pretrained_cfg={"interpolation": "random"})
    with pytest.raises(ModelSpecError, match="Cannot reproduce timm's preprocessing for 'timm:x'"):
        _preprocessing(config, "timm:x")


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install 'spadelens[timm]'" in refused("timm:resnet50")

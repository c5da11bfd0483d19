"""Classifiers of images of transformers: loaded from a folder, with the pixels of their own processors; refusals."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    models,
)
from transformers.utils import logging as transformers_logging

from spadelens.errors import ModelSpecError
from spadelens.models import LoadedModel, load_model, portable_spec
from spadelens.models.sources.hub_images import HubImageClassifier, match_preprocessing

TINY: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
VIT = ViTConfig(**TINY, image_size=32, patch_size=8, id2label={0: "cat", 1: "dog", 2: "eel"})


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def save(model: Any, folder: Path, processor: Any = None) -> Path:
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


def vit(seed: int = 0, config: ViTConfig = VIT) -> ViTForImageClassification:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ViTForImageClassification(config).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    processor = models.vit.ViTImageProcessor(size={"height": 32, "width": 32})
    return save(vit(), tmp_path / "vit", processor)


def change(folder: Path, **settings: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def refused(spec: str, trust: bool = False) -> str:
    with pytest.raises(ModelSpecError) as caught:
        load_model(spec, "cpu", trust)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def photo(height: int, width: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def test_a_folder(folder: Path) -> None:
    before = torch.get_rng_state()
    loaded = load_model(f"hf:{folder}", "cpu", kind="photo")
    assert torch.equal(torch.get_rng_state(), before)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.model(pixels), vit()(pixel_values=pixels).logits)
    assert loaded.class_names == ("cat", "dog", "eel")
    assert loaded.preprocessing.crop_px == (32, 32)
    assert loaded.preprocessing.mean == loaded.preprocessing.std == (0.5, 0.5, 0.5)
    assert loaded.spec == f"hf:{folder}"
    assert not any(module.training for module in loaded.model.modules())


def test_names_that_are_none(tmp_path: Path) -> None:
    processor = models.vit.ViTImageProcessor(size={"height": 32, "width": 32})
    folder = save(vit(config=ViTConfig(**TINY, image_size=32, patch_size=8, num_labels=4)), tmp_path, processor)
    loaded = load_model(f"hf:{folder}", "cpu", kind="photo")
    assert loaded.class_names == ()
    assert loaded.class_name(3) == "class 3"


def test_half_precision_stays(tmp_path: Path) -> None:
    processor = models.vit.ViTImageProcessor(size={"height": 32, "width": 32})
    folder = save(vit().to(torch.bfloat16), tmp_path, processor)
    loaded = load_model(f"hf:{folder}", "cpu", kind="photo")
    assert {value.dtype for value in loaded.model.parameters()} == {torch.bfloat16}


def test_other_weights(folder: Path, tmp_path: Path) -> None:
    other = vit(seed=1)
    save_file(other.state_dict(), tmp_path / "bare.safetensors")
    save_file(HubImageClassifier(other).state_dict(), tmp_path / "wrapped.safetensors")
    pixels = torch.zeros(1, 3, 32, 32)
    for name in ("bare", "wrapped"):
        loaded = load_model(f"hf:{folder}@{tmp_path}/{name}.safetensors", "cpu")
        with torch.no_grad():
            assert torch.equal(loaded.model(pixels), other(pixel_values=pixels).logits)
    state = {name: value for name, value in other.state_dict().items() if name != "classifier.bias"}
    save_file(state, tmp_path / "part.safetensors")
    assert "1 missing (first: 'classifier.bias')" in refused(f"hf:{folder}@{tmp_path}/part.safetensors")


def test_portable_specs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert portable_spec("hf:vit") == f"hf:{folder}"
    assert portable_spec("hf:vit@weights.safetensors") == f"hf:{folder}"
    assert portable_spec("hf:org/name@w.safetensors") == "hf:org/name"
    assert portable_spec("hf:org/name") == "hf:org/name"
    (folder.parent / "a@b").mkdir()
    assert portable_spec("hf:a@b") == f"hf:{folder.parent}/a@b"


PROCESSORS = [
    ("vit.ViTImageProcessor", {"size": {"height": 40, "width": 56}}),
    ("vit.ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 3, "do_rescale": False}),
    ("deit.DeiTImageProcessor", {"size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}}),
    ("clip.CLIPImageProcessor", {"size": {"shortest_edge": 41}, "crop_size": {"height": 32, "width": 32}}),
    ("bit.BitImageProcessor", {"size": {"shortest_edge": 47}, "crop_size": {"height": 40, "width": 32}}),
    ("convnext.ConvNextImageProcessor", {"size": {"shortest_edge": 48}, "crop_pct": 0.8}),
    ("convnext.ConvNextImageProcessor", {"size": {"shortest_edge": 384}, "do_normalize": False}),
    ("levit.LevitImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}),
    ("poolformer.PoolFormerImageProcessor", {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}),
    ("efficientnet.EfficientNetImageProcessor", {"size": {"height": 64, "width": 64}, "rescale_offset": True}),
    ("mobilevit.MobileViTImageProcessor", {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}),
]


@pytest.mark.parametrize(("name", "settings"), PROCESSORS)
@pytest.mark.parametrize("size", [(97, 131), (134, 101)])
def test_pixels_are_those_of_the_processor(name: str, settings: dict[str, Any], size: tuple[int, int]) -> None:
    """Up to three of 255 levels, 0.2 in the mean: processors resize with torchvision, which rounds otherwise."""
    module, _, kind = name.partition(".")
    processor = getattr(getattr(models, module), kind)(**settings)
    preprocessing, is_reversed = match_preprocessing(processor, "hf:x")
    assert is_reversed == (module == "mobilevit")
    picture = photo(*size)
    theirs = processor(images=picture, return_tensors="pt")["pixel_values"][0]
    ours = preprocessing(picture)
    ours = ours.flip(0) if is_reversed else ours
    assert ours.shape == theirs.shape
    levels = (ours - theirs).abs() * torch.tensor(preprocessing.std).view(3, 1, 1) * 255
    assert float(levels.mean()) < 0.2
    assert float(levels.max()) < 3.01


def test_reversed_channels_are_turned_round(tmp_path: Path) -> None:
    processor = models.mobilevit.MobileViTImageProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
    )
    model = vit()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # else the colors hardly matter
    loaded = load_model(f"hf:{save(model, tmp_path, processor)}", "cpu", kind="photo")
    picture = photo(36, 50)
    theirs = processor(images=picture, return_tensors="pt")["pixel_values"]
    ours = loaded.preprocessing(picture).unsqueeze(0)
    with torch.no_grad():
        expected, turned = model(pixel_values=theirs).logits, model(pixel_values=theirs.flip(1)).logits
        error = float((loaded.model(ours) - expected).abs().max())
    assert error < 0.05 * float((turned - expected).abs().max())


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("vit.ViTImageProcessor", {"do_resize": False}, "depends on the photo"),
        ("vit.ViTImageProcessor", {"size": {"longest_edge": 40, "shortest_edge": 20}}, "depends on the photo"),
        ("clip.CLIPImageProcessor", {"do_resize": False, "crop_size": {"height": 32, "width": 32}}, "not resize"),
        (
            "clip.CLIPImageProcessor",
            {"size": {"shortest_edge": 20}, "crop_size": {"height": 32, "width": 32}},
            "margin",
        ),
        ("perceiver.PerceiverImageProcessor", {}, "the closest match differs by"),
        ("siglip2.Siglip2ImageProcessor", {}, "it turns a picture into a tensor [1, 256, 768]"),
    ],
)
def test_processors_that_cannot_be_repeated(name: str, settings: dict[str, Any], expected: str) -> None:
    module, _, kind = name.partition(".")
    processor = getattr(getattr(models, module), kind)(**settings)
    with pytest.raises(ModelSpecError) as caught:
        match_preprocessing(processor, "hf:x")
    assert str(caught.value).startswith(f"Cannot reproduce how the {kind} of 'hf:x' prepares photos: ")
    assert expected in str(caught.value)


def test_convolutional_model(tmp_path: Path) -> None:
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=3, layer_type="basic")
    processor = models.convnext.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875)
    loaded = load_model(f"hf:{save(ResNetForImageClassification(config), tmp_path, processor)}", "cpu")
    assert isinstance(loaded, LoadedModel)
    assert loaded.preprocessing.resize_px == 36
    assert loaded.model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    config = BertConfig(**TINY, vocab_size=10, max_position_embeddings=8)
    message = refused(f"hf:{save(BertForMaskedLM(config), tmp_path / 'a')}")
    assert "is a BertForMaskedLM: expected an image or text classifier" in message
    assert "is a ViTModel: expected" in refused(f"hf:{save(ViTModel(VIT), tmp_path / 'b')}")


def test_weights_that_are_missing(folder: Path) -> None:
    """What transformers would fill with random numbers."""
    state = load_file(folder / "model.safetensors")
    del state["classifier.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert "lacks 1 of its weights (first: 'classifier.weight'), which would be random" in refused(f"hf:{folder}")


def test_configurations_that_do_not_fit(folder: Path) -> None:
    change(folder, architectures=None)
    assert "is of type 'vit' and does not say for which task" in refused(f"hf:{folder}")
    change(folder, architectures=["ViTForImageClassification"], quantization_config={"quant_method": "bitsandbytes"})
    assert "is quantized" in refused(f"hf:{folder}")
    change(folder, quantization_config=None, id2label={"0": "a"})
    assert "returns 1 value" in refused(f"hf:{folder}")
    change(folder, auto_map={"AutoConfig": "mine.Config"}, model_type="mine")
    assert "pass --trust" in refused(f"hf:{folder}")
    (folder / "config.json").write_text('{"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {}}')
    assert "is a model of timm: use timm:vit" in refused(f"hf:{folder}")
    (folder / "config.json").write_text("{")
    assert "Cannot load the configuration" in refused(f"hf:{folder}")


def test_code_of_the_repository_runs_only_when_trusted(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "from pathlib import Path\n"
        "from transformers import ViTConfig, ViTForImageClassification\n"
        "Path(__file__).with_name('was_here').touch()\n"
        f"Path({str(folder / 'was_here')!r}).touch()\n"
        "class Config(ViTConfig):\n    model_type = 'mine'\n"
        "class Net(ViTForImageClassification):\n    config_class = Config\n"
    )
    auto = {"AutoConfig": "mine.Config", "AutoModelForImageClassification": "mine.Net"}
    change(folder, auto_map=auto, model_type="mine", architectures=["Net"])
    assert "pass --trust" in refused(f"hf:{folder}")
    assert not (folder / "was_here").exists()
    loaded = load_model(f"hf:{folder}", "cpu", trust=True)
    assert (folder / "was_here").exists()
    pixels = torch.ones(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.model(pixels), vit()(pixel_values=pixels).logits)


def test_pickles_only_when_trusted(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    message = refused(f"hf:{folder}")
    assert "only as pickles" in message
    assert "--trust" in message
    pixels = torch.ones(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_model(f"hf:{folder}", "cpu", True).model(pixels), vit()(pixel_values=pixels).logits)


def test_what_is_not_there(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    assert "Cannot load the preprocessing" in refused(f"hf:{folder}")
    assert "Cannot load the configuration" in refused(f"hf:{folder.parent}")
    for place in ("./nowhere", "/nowhere/at/all", "a/b/c", ""):
        assert f"There is no folder {place!r}" in refused(f"hf:{place}")
    assert f"use hf:{folder}" in refused(str(folder))


def test_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = refused("hf:org/name")
    assert "Cannot load the configuration of 'hf:org/name' from 'org/name' on the hub" in message
    assert "hf:FOLDER" in message


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'spadelens[hf]'" in refused("hf:org/name")


@pytest.mark.parametrize("shows_progress", [False, True])
def test_loading_is_silent_and_restores(folder: Path, capfd: pytest.CaptureFixture[str], shows_progress: bool) -> None:
    switch = transformers_logging.enable_progress_bar if shows_progress else transformers_logging.disable_progress_bar
    before, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    switch()
    transformers_logging.set_verbosity(logging.INFO)
    try:
        load_model(f"hf:{folder}", "cpu")
        refused(f"hf:{folder.parent}")
        assert transformers_logging.get_verbosity() == logging.INFO
        assert transformers_logging.is_progress_bar_enabled() == shows_progress
        assert huggingface_hub.utils.are_progress_bars_disabled() != shows_progress
    finally:
        transformers_logging.set_verbosity(verbosity)
        (transformers_logging.enable_progress_bar if before else transformers_logging.disable_progress_bar)()
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""

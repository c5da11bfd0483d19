"""Tensors of another size than the model expects get one warning, where that size is known."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from references.networks import Normalized, seeded
from torch import nn

from spadelens import attribute, diagnose, extract_trace
from spadelens.errors import SampleSizeWarning
from spadelens.input_size import expected_sizes
from spadelens.models import LoadedModel, Preprocessing

PREPROCESSING = Preprocessing((8, 9), (0.5,) * 3, (0.5,) * 3)


def sample(height: int, width: int) -> torch.Tensor:
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(0))


def loaded() -> LoadedModel:
    return LoadedModel("x", seeded(Normalized, 0).eval(), PREPROCESSING, ())


def caught(run: Any) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run()
    return found


def test_one_warning_where_the_caller_is() -> None:
    model = loaded().model
    (warning,) = caught(lambda: diagnose(model, sample(6, 7), ["saliency", "input_x_gradient"]))
    assert warning.category is SampleSizeWarning
    assert issubclass(SampleSizeWarning, UserWarning)
    assert str(warning.message) == (
        "The sample has 6 x 7 pixels, but the model was made for 8 x 9: its predictions may differ. Use "
        "loaded.sample(photo), which resizes and crops."
    )
    assert Path(warning.filename) == Path(__file__)
    assert caught(lambda: attribute(model, sample(6, 7), "saliency", check=False)) == []  # reported already
    assert len(caught(lambda: extract_trace(model, sample(7, 6), preset="instant", num_views=4))) == 1
    assert Path(caught(lambda: attribute(model, sample(5, 5), "saliency", check=False))[0].filename) == Path(__file__)


def test_the_right_size_is_silent() -> None:
    one = loaded()
    other = LoadedModel("y", one.model, Preprocessing((6, 6), (0.5,) * 3, (0.5,) * 3), ())
    assert expected_sizes(other.model) == {(8, 9), (6, 6)}
    for size in ((8, 9), (6, 6)):
        assert caught(lambda size=size: attribute(one.model, sample(*size), "saliency", check=False)) == []
    assert caught(lambda: attribute(nn.DataParallel(one.model), sample(8, 9), "saliency", check=False)) == []


def test_an_unknown_size_is_silent() -> None:
    model = seeded(Normalized, 0)
    assert expected_sizes(model) == set()
    assert caught(lambda: attribute(model, sample(6, 7), "saliency", check=False)) == []


def test_only_photos_have_a_size() -> None:
    model = nn.Linear(4, 2)
    model.config = SimpleNamespace(image_size=32)  # type: ignore[assignment]
    assert caught(lambda: attribute(model, torch.rand(4), "saliency", check=False)) == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("pretrained_cfg", {"input_size": (3, 224, 192)}, {(224, 192)}),
        ("default_cfg", {"input_size": [3, 224, 224], "test_input_size": (3, 288, 288)}, {(224, 224), (288, 288)}),
        ("pretrained_cfg", {"input_size": None}, set()),
        ("pretrained_cfg", "resnet50", set()),
        ("config", SimpleNamespace(image_size=32), {(32, 32)}),
        ("config", SimpleNamespace(image_size=[32, 48]), {(32, 48)}),
        ("config", SimpleNamespace(image_size="large"), set()),
        ("config", SimpleNamespace(image_size=0), set()),
        ("config", SimpleNamespace(), set()),
        ("patch_embed", SimpleNamespace(img_size=(64, 48)), {(64, 48)}),
    ],
)
def test_what_configurations_say(name: str, value: Any, expected: set[tuple[int, int]]) -> None:
    model = seeded(Normalized, 0)
    setattr(model, name, value)
    assert expected_sizes(model) == expected


def test_models_of_timm_and_transformers() -> None:
    timm = pytest.importorskip("timm")
    transformers = pytest.importorskip("transformers")
    assert expected_sizes(timm.create_model("test_resnet")) == {(160, 160)}
    assert expected_sizes(timm.create_model("test_vit", img_size=64)) == {(64, 64)}
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    model = transformers.ViTForImageClassification(config)
    assert expected_sizes(model) == {(32, 32)}
    assert expected_sizes(LoadedModel("x", model, PREPROCESSING, ()).model) == {(8, 9)}


def test_models_are_not_kept_alive() -> None:
    import gc
    import weakref

    model = loaded().model
    with pytest.warns(SampleSizeWarning):
        attribute(model, sample(6, 7), "saliency", check=False)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None

"""Image classifiers of torchvision."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from spadelens.errors import ModelSpecError, UnknownNameError
from spadelens.models.loaded import LoadedModel
from spadelens.models.sources.checkpoints import fit_checkpoint, read_checkpoint, under_names_of
from spadelens.photos import Preprocessing


def load_torchvision(spec: str, trust: bool) -> LoadedModel:
    """Return the model of a spec 'torchvision:NAME' or 'torchvision:NAME@FILE'.

    Raises:
        ModelSpecError: The model does not exist, or its weights are not available or do not fit.
    """
    import torchvision

    name, _, checkpoint = spec.removeprefix("torchvision:").partition("@")
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        if name in torchvision.models.list_models():
            raise ModelSpecError(
                f"{spec!r} is not a classifier of images: models for segmentation, detection, video and optical flow "
                "cannot be loaded by name yet. Wrap it in your own file, path/to/file.py:FACTORY, so that it "
                "returns class scores [batch, classes]."
            )
        raise UnknownNameError("torchvision model", name, known)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    if checkpoint:
        model = _make_with(name, Path(checkpoint), spec, trust)
    else:
        try:
            model = torchvision.models.get_model(name, weights=weights)
        except (OSError, RuntimeError) as error:  # torch.hub: no network, or a broken download
            raise ModelSpecError(
                f"Cannot download the weights of {spec!r} ({type(error).__name__}: {error}). "
                f"Supply them as a file: torchvision:{name}@FILE.safetensors."
            ) from error
    transforms = weights.transforms()
    class_names = tuple(weights.meta["categories"])
    crop = transforms.crop_size
    crop_height, crop_width = (crop[0], crop[-1]) if isinstance(crop, Sequence) else (crop, crop)
    resize = transforms.resize_size
    return LoadedModel(
        spec=spec,
        model=model,
        preprocessing=Preprocessing(
            crop_px=(crop_height, crop_width),
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
            resize_px=resize[0] if isinstance(resize, Sequence) else resize,
            resampling=Image.Resampling[transforms.interpolation.name],
        ),
        class_names=class_names if _num_classes(model) in (None, len(class_names)) else (),
    )


def _make_with(name: str, path: Path, spec: str, trust: bool) -> nn.Module:
    """Return the model with the weights in a file, for as many classes as its head has there."""
    import torchvision

    state = read_checkpoint(path, spec, trust)
    model: nn.Module = torchvision.models.get_model(name, weights=None, **_inert_arguments(name))
    state = dict(under_names_of(model.state_dict(), state))
    head = _head(model)
    weight = None if head is None else state.get(f"{head}.weight")
    if weight is not None and weight.dim() >= 2 and len(weight) != _num_classes(model):
        arguments = {"num_classes": len(weight), **_inert_arguments(name)}
        model = torchvision.models.get_model(name, weights=None, **arguments)
    fit_checkpoint(model, state, path, spec)
    return model


def _head(model: nn.Module) -> str | None:
    """Return the name of the layer that gives the scores: the last one with weights, auxiliary classifiers aside."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return next((name for name in reversed(names) if not name.lower().startswith("aux")), None)


def _num_classes(model: nn.Module) -> int | None:
    head = _head(model)
    return None if head is None else len(model.get_parameter(f"{head}.weight"))


def _inert_arguments(name: str) -> dict[str, Any]:
    """Return what keeps torchvision from drawing, with a warning, initial weights that are about to be replaced."""
    import torchvision

    takes = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    return {"init_weights": False} if name in ("googlenet", "inception_v3") and "kwargs" in takes else {}

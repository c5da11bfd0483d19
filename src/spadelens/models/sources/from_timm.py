"""Models of timm, each with the preprocessing that it was evaluated with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from spadelens.errors import InputError, ModelSpecError, UnknownNameError
from spadelens.models.loaded import LoadedModel
from spadelens.models.sources.checkpoints import fit_checkpoint, read_checkpoint
from spadelens.models.sources.network import quick_hub
from spadelens.photos import Fit, Preprocessing

_FITS: dict[str, Fit] = {"center": "crop", "squash": "squash", "border": "pad"}


def load_timm(spec: str, trust: bool) -> LoadedModel:
    """Return the model of a spec 'timm:NAME' or 'timm:NAME@FILE'.

    Raises:
        ModelSpecError: timm is not installed, has no such model or no weights for it, or the weights do not fit.
    """
    try:
        import timm
    except ImportError as error:
        raise ModelSpecError(f"Cannot load {spec!r} without timm: pip install 'spadelens[timm]' ({error}).") from error
    name, _, checkpoint = spec.removeprefix("timm:").partition("@")
    bare, _, tag = name.partition(".")
    if not timm.is_model(bare):
        raise UnknownNameError("timm model", name, timm.list_models())
    if tag and name not in timm.list_pretrained(f"{bare}.*"):
        raise UnknownNameError("timm model", name, timm.list_pretrained(f"{bare}.*"))
    model = _make_with(name, Path(checkpoint), spec, trust) if checkpoint else _download(name, spec)
    if getattr(model, "num_classes", 1) == 0:
        raise ModelSpecError(f"{spec!r} returns features, not class scores: expected a model with a classifier.")
    return LoadedModel(spec, model, _preprocessing(timm.data.resolve_data_config(model=model), spec), _classes(model))


def _make_with(name: str, path: Path, spec: str, trust: bool) -> nn.Module:
    """Return the model with the weights in a file, for as many classes as its classifier has there."""
    import timm

    state = read_checkpoint(path, spec, trust)
    described = timm.get_pretrained_cfg(name, allow_unregistered=False)
    classifier = getattr(described, "classifier", None)
    ends = f"{classifier}.weight" if isinstance(classifier, str) else ""
    weight = next((value for key, value in state.items() if ends and f".{key}".endswith(f".{ends}")), None)
    arguments = {} if weight is None or weight.dim() < 2 else {"num_classes": len(weight)}
    model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    fit_checkpoint(model, state, path, spec)
    return model


def _download(name: str, spec: str) -> nn.Module:
    import timm

    if not timm.is_model_pretrained(name):
        raise ModelSpecError(f"timm has no weights for {name!r}: supply them as a file, timm:{name}@FILE.safetensors.")
    try:
        with quick_hub():
            model: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # no network, a broken download, a cache that cannot be written
        raise ModelSpecError(
            f"Cannot download the weights of {spec!r} ({type(error).__name__}: {error}). "
            f"Supply them as a file: timm:{name}@FILE.safetensors."
        ) from error
    return model


def _preprocessing(described: Mapping[str, Any], spec: str) -> Preprocessing:
    """Return what timm's own evaluation does to a photo, from `resolve_data_config`."""
    crop_px = tuple(described["input_size"][1:])
    try:
        resize_px = tuple(math.floor(side / described["crop_pct"]) for side in crop_px)
        return Preprocessing(
            crop_px=(crop_px[0], crop_px[1]),
            mean=tuple(map(float, described["mean"])),
            std=tuple(map(float, described["std"])),
            resize_px=(resize_px[0], resize_px[1]),
            resampling=Image.Resampling[described["interpolation"].upper()],
            fit=_FITS[described["crop_mode"]],
        )
    except (InputError, KeyError) as error:
        raise ModelSpecError(f"Cannot reproduce timm's preprocessing for {spec!r}: {error}") from error


def _classes(model: nn.Module) -> tuple[str, ...]:
    """Return the names that come with the weights, or those of the ImageNet subset with as many classes."""
    import timm
    import torchvision

    names = getattr(model, "pretrained_cfg", {}).get("label_names")
    num_classes = getattr(model, "num_classes", None)
    if names:
        return tuple(map(str, names))
    if num_classes == 1000:
        return tuple(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"])
    subset = timm.data.infer_imagenet_subset(model)
    if subset is None:
        return ()
    found = timm.data.ImageNetInfo(subset)
    return tuple(found.index_to_description(index) for index in range(found.num_classes()))

"""Models of torchvision."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from spadelens.errors import ModelSpecError, UnknownNameError
from spadelens.models.loaded import LoadedModel
from spadelens.models.sources.checkpoints import load_checkpoint
from spadelens.photos import Preprocessing


def load_torchvision(spec: str, trust: bool) -> LoadedModel:
    """Return the model of a spec 'torchvision:NAME' or 'torchvision:NAME@FILE'.

    Raises:
        ModelSpecError: There is no such model, or its weights cannot be had or do not fit.
    """
    import torchvision

    name, _, checkpoint = spec.removeprefix("torchvision:").partition("@")
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UnknownNameError("torchvision model", name, known)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    if checkpoint:
        model = torchvision.models.get_model(name, weights=None, **_inert_arguments(name))
        load_checkpoint(model, Path(checkpoint), spec, trust)
    else:
        try:
            model = torchvision.models.get_model(name, weights=weights)
        except (OSError, RuntimeError) as error:  # torch.hub: no network, or a broken download
            raise ModelSpecError(
                f"Cannot download the weights of {spec!r} ({type(error).__name__}: {error}). "
                f"Bring them as a file: torchvision:{name}@FILE.safetensors."
            ) from error
    transforms = weights.transforms()
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
        class_names=tuple(weights.meta["categories"]),
    )


def _inert_arguments(name: str) -> dict[str, Any]:
    """Return what keeps torchvision from drawing, with a warning, initial weights that are about to be replaced."""
    import torchvision

    takes = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    return {"init_weights": False} if name in ("googlenet", "inception_v3") and "kwargs" in takes else {}

"""A model spec -> a model, its preprocessing and its class names."""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import nn

from spadelens.errors import DeviceError, InputError, ModelSpecError, UnknownNameError, suggest
from spadelens.photos import Preprocessing

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_FORMS = (
    "'demo', 'torchvision:NAME', 'torchvision:NAME@FILE.safetensors', 'path/to/file.py:FACTORY', the same with "
    "'@FILE.safetensors', or a folder with a planted model"
)
PLANTED_FORMAT, PLANTED_WEIGHTS = "spadelens-planted-1", "model.safetensors"


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with everything that is needed to show it a photo.

    Attributes:
        spec: What it was loaded from.
        model: Maps `[B, C, H, W]` to class scores `[B, classes]`.
        preprocessing: How photos become its inputs.
        class_names: In order of the scores; empty where they are not known.
    """

    spec: str
    model: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]

    def class_name(self, class_index: int) -> str:
        """Return the name of a class, or 'class 7' where it has none."""
        known = class_index < len(self.class_names)
        return self.class_names[class_index] if known else f"class {class_index}"


def load_model(spec: str, device: str = "auto", trust: bool = False) -> LoadedModel:
    """Return the model that `spec` names, on `device`, in evaluation mode.

    Args:
        spec: 'demo', 'torchvision:NAME' (its published weights, downloaded by torchvision where they are not in its
            cache), 'torchvision:NAME@FILE' (weights of the user), 'path/to/file.py:FACTORY' (a function without
            arguments that returns the model; the file may also define INPUT_SIZE, MEAN, STD and CLASS_NAMES), the same
            with '@FILE' (other weights for it), or a folder that `spadelens backdoor plant` has written. The code of a
            .py file is run.
        device: 'auto' (a CUDA device where there is one, else the CPU), or what torch.device takes.
        trust: Whether a checkpoint may be unpickled, which runs any code that it holds.

    Raises:
        ModelSpecError: The spec does not lead to a model.
        DeviceError: The device is not there.
    """
    chosen = choose_device(device)
    if spec == "demo":
        loaded = _load_demo()
    elif spec.startswith("torchvision:"):
        loaded = _load_torchvision(spec, trust)
    elif ":" in spec and spec.rpartition("@")[0].rpartition(":")[0].endswith(".py"):
        factory, _, checkpoint = spec.rpartition("@")
        loaded = replace(_load_factory(factory), spec=spec)
        _load_checkpoint(loaded.model, Path(checkpoint), spec, trust)
    elif ":" in spec and spec.rpartition(":")[0].endswith(".py"):
        loaded = _load_factory(spec)
    elif spec and Path(spec).is_dir():
        loaded = _load_planted(Path(spec), device)
    else:
        raise ModelSpecError(
            f"Cannot read the model spec {spec!r}: expected {_FORMS}."
            + suggest(spec, ["demo", "torchvision:resnet50"], most_listed=0)
        )
    loaded.model.to(chosen).eval()
    return loaded


def portable_spec(spec: str) -> str:
    """Return `spec` without a checkpoint, and with the whole path where it names a file."""
    bare = spec.rpartition("@")[0] or spec
    if bare.startswith("torchvision:") or ":" not in bare:
        return bare
    file_name, _, factory = bare.rpartition(":")
    return f"{Path(file_name).resolve()}:{factory}"


def _load_planted(folder: Path, device: str) -> LoadedModel:
    listing = folder / "planted.json"
    if not listing.is_file():
        raise ModelSpecError(f"The folder {str(folder)!r} holds no planted model: 'planted.json' is missing.")
    try:
        described = json.loads(listing.read_text(encoding="utf-8"))
        if described["format"] != PLANTED_FORMAT:
            raise ValueError(f"expected the format {PLANTED_FORMAT!r}, got {described['format']!r}")
        spec = str(described["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelSpecError(f"Cannot read {str(listing)!r}: {error!r}.") from error
    return replace(load_model(f"{spec}@{folder / PLANTED_WEIGHTS}", device), spec=str(folder))


def find_class(text: str, class_names: tuple[str, ...], num_classes: int) -> int:
    """Return the class that `text` names: by its name, whatever the case, or by its number.

    Raises:
        InputError: There is no such class, or several of that name.
    """
    matches = [index for index, name in enumerate(class_names[:num_classes]) if name.lower() == text.strip().lower()]
    if len(matches) > 1:
        raise InputError(f"The class name {text!r} is not unique: use one of the numbers {matches}.")
    if matches:
        return matches[0]
    if text.strip().isdecimal():
        if len(text.strip()) < 10 and int(text) < num_classes:
            return int(text)
        raise InputError(f"There is no class {text.strip()}: the model has {num_classes}, numbered from 0.")
    if not class_names:
        raise InputError(
            f"There is no class {text!r}: the model's classes have no names, use a number below {num_classes}."
        )
    raise UnknownNameError("class", text, class_names)


def choose_device(device: str) -> torch.device:
    """Return the device that `device` names; 'auto' is a CUDA device where there is one, else the CPU.

    Raises:
        DeviceError: It is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        float(torch.ones(1, device=chosen))  # 'meta' is a device too, but one that holds no values
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DeviceError(f"Cannot use the device {device!r}: {reason} Use --device cpu or auto.") from error
    return chosen


def _load_demo() -> LoadedModel:
    from spadelens.demo import images, network

    size = images.IMAGE_SIZE_PX
    return LoadedModel(
        spec="demo",
        model=network.build(),
        preprocessing=Preprocessing((size, size), network.MEAN, network.STD),
        class_names=images.CLASS_NAMES,
    )


def _load_torchvision(spec: str, trust: bool) -> LoadedModel:
    import torchvision

    name, _, checkpoint = spec.removeprefix("torchvision:").partition("@")
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UnknownNameError("torchvision model", name, known)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    if checkpoint:
        model = torchvision.models.get_model(name, weights=None, **_inert_arguments(name))
        _load_checkpoint(model, Path(checkpoint), spec, trust)
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


def _load_checkpoint(model: nn.Module, path: Path, spec: str, trust: bool) -> None:
    """Load the state dictionary in the file at `path` into `model`."""
    if not path.is_file():
        raise ModelSpecError(f"There is no checkpoint at {str(path)!r} (from the model spec {spec!r}).")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, trust)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        shapes = str(error).split("\n")[1:2] or [str(error)]
        raise ModelSpecError(f"The checkpoint {str(path)!r} does not fit {spec!r}: {shapes[0].strip()}") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ModelSpecError(
            f"The checkpoint {str(path)!r} does not fit {spec!r}: {len(missing)} missing"
            f"{f' (first: {missing[0]!r})' if missing else ''}, {len(unexpected)} unexpected"
            f"{f' (first: {unexpected[0]!r})' if unexpected else ''}."
        )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelSpecError(f"Cannot read the checkpoint {str(path)!r}: {error}") from error


def _read_pickle(path: Path, trust: bool) -> dict[str, torch.Tensor]:
    import pickle

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols: what counts is whether it can be loaded
            state = torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        raise ModelSpecError(
            f"The checkpoint {str(path)!r} holds more than tensors, or is damaged: loading it would run code. "
            "Convert it to safetensors, or pass --trust if you know where it comes from."
        ) from error
    except Exception as error:  # a damaged file, or whatever trusted code raises
        raise ModelSpecError(f"Cannot read the checkpoint {str(path)!r}: {type(error).__name__}: {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise ModelSpecError(f"The checkpoint {str(path)!r} does not hold a state dictionary of tensors.")
    return state


def _load_factory(spec: str) -> LoadedModel:
    file_name, _, factory_name = spec.rpartition(":")
    path = Path(file_name)
    if not path.is_file():
        raise ModelSpecError(f"There is no file {file_name!r} (from the model spec {spec!r}).")
    module = _import_file(path)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        functions = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ModelSpecError(f"{file_name!r} has no function {factory_name!r}.{suggest(factory_name, functions)}")
    try:
        model = factory()
    except (Exception, SystemExit) as error:
        raise ModelSpecError(
            f"The factory {factory_name!r} in {file_name!r} failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelSpecError(
            f"The factory {factory_name!r} in {file_name!r} returned a {type(model).__name__}: "
            "expected a torch.nn.Module."
        )
    return LoadedModel(spec, model, _file_preprocessing(module, file_name), _file_class_names(module, file_name))


def _import_file(path: Path) -> ModuleType:
    """Run the user's file as a module of its own; files beside it can be imported while it runs."""
    name = f"spadelens_model_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ModelSpecError(f"Cannot import {str(path)!r}: expected a Python file.")
    module = importlib.util.module_from_spec(found)
    folder = str(path.resolve().parent)
    sys.modules[name] = module  # dataclasses and pickle look modules up by name
    sys.path.insert(0, folder)
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ModelSpecError(f"Cannot import {str(path)!r}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    return module


def _file_preprocessing(module: ModuleType, file_name: str) -> Preprocessing:
    size = getattr(module, "INPUT_SIZE", 224)
    mean = getattr(module, "MEAN", _IMAGENET_MEAN)
    std = getattr(module, "STD", _IMAGENET_STD)
    try:
        height, width = (size, size) if isinstance(size, int) else size
        means, stds = tuple(map(float, mean)), tuple(map(float, std))
        if not all(map(math.isfinite, (*means, *stds))):
            raise ValueError("MEAN and STD must be finite")
        return Preprocessing((height, width), means, stds)
    except (TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}."
        raise ModelSpecError(
            f"Cannot use INPUT_SIZE={size!r}, MEAN={mean!r}, STD={std!r} of {file_name!r}: {reason}"
        ) from error


def _file_class_names(module: ModuleType, file_name: str) -> tuple[str, ...]:
    names = getattr(module, "CLASS_NAMES", ())
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ModelSpecError(f"Cannot use CLASS_NAMES of {file_name!r}: expected a list of texts.")
    return tuple(names)

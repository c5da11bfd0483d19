"""Models defined in a user's Python file, for photos, texts or tables."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from torch import nn

from spadelens.eager import unwrapped
from spadelens.errors import InputError, ModelSpecError, suggest
from spadelens.models.loaded import Loaded, LoadedModel, LoadedTable, LoadedText
from spadelens.models.sources.file_inputs import file_background, file_feature_names, file_normalization, file_tokenizer
from spadelens.photos import Preprocessing

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_OF_TABLES, _OF_TEXTS = frozenset({"FEATURE_NAMES"}), frozenset({"TOKENIZER", "MASK_ID"})


def load_factory(spec: str) -> Loaded:
    """Return the model of a spec 'path/to/file.py:FACTORY'; what else the file defines says what it is a model of.

    Raises:
        ModelSpecError: The file does not lead to a model.
    """
    file_name, _, factory_name = spec.rpartition(":")
    path = Path(file_name)
    if not path.is_file():
        raise ModelSpecError(f"There is no file {file_name!r} (from the model spec {spec!r}).")
    module = _import_file(path)
    model = _make_model(module, file_name, factory_name)
    class_names = _file_class_names(module, file_name)
    is_table, is_text = (bool(names & vars(module).keys()) for names in (_OF_TABLES, _OF_TEXTS))
    if is_table and is_text:
        raise ModelSpecError(
            f"{file_name!r} defines FEATURE_NAMES, as for tables, and TOKENIZER or MASK_ID, as for texts: "
            "expected one of them."
        )
    if is_table:
        names = file_feature_names(module, file_name)
        mean, std = file_normalization(module, file_name, len(names))
        return LoadedTable(spec, model, names, mean, std, file_background(module, path, names), class_names)
    if is_text:
        return LoadedText(spec, model, file_tokenizer(module, file_name), class_names)
    return LoadedModel(spec, model, _file_preprocessing(module, file_name), class_names)


def _make_model(module: ModuleType, file_name: str, factory_name: str) -> nn.Module:
    factory = getattr(module, factory_name, None) if factory_name else None
    if not callable(factory):
        functions = [name for name, value in vars(module).items() if _is_own_function(name, value, module)]
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
    return unwrapped(model)


def _is_own_function(name: str, value: object, module: ModuleType) -> bool:
    return callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__


def _import_file(path: Path) -> ModuleType:
    """Run the user's file as a separate module; it can import files in its folder while it runs."""
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
        raise ModelSpecError(f"Cannot use CLASS_NAMES of {file_name!r}: expected a list of strings.")
    return tuple(names)

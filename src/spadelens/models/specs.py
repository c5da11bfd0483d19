"""`load_model`: the one place where a model spec becomes a model."""

from __future__ import annotations

import ast
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, overload

import torch

from spadelens.eager import refusal
from spadelens.errors import ModelSpecError, suggest
from spadelens.files import read_json
from spadelens.models.devices import choose_device, move_model
from spadelens.models.loaded import Loaded, LoadedModel, LoadedText
from spadelens.models.sources.checkpoints import load_checkpoint
from spadelens.models.sources.from_file import load_factory
from spadelens.models.sources.from_hub import load_hub
from spadelens.models.sources.from_timm import load_timm
from spadelens.models.sources.from_torchvision import load_torchvision
from spadelens.photos import Preprocessing

PLANTED_FORMAT, PLANTED_WEIGHTS = "spadelens-planted-1", "model.safetensors"
_FORMS = (
    "'demo', 'torchvision:NAME', 'timm:NAME', 'hf:ORG/NAME', 'hf:FOLDER' or 'path/to/file.py:FACTORY', any but the "
    "first with '@FILE.safetensors', or a folder with a planted model"
)
_WEIGHTS_SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".onnx", ".pt2", ".torchscript"})


@overload
def load_model(
    spec: Literal["demo"], device: str = "auto", trust: bool = False, *, kind: Literal["photo"] | None = None
) -> LoadedModel: ...
@overload
def load_model(
    spec: str | Path, device: str = "auto", trust: bool = False, *, kind: Literal["photo"]
) -> LoadedModel: ...
@overload
def load_model(spec: str | Path, device: str = "auto", trust: bool = False, *, kind: None = None) -> Loaded: ...
def load_model(
    spec: str | Path, device: str = "auto", trust: bool = False, *, kind: Literal["photo"] | None = None
) -> Loaded:
    """Return the model that `spec` names, on `device`, in evaluation mode.

    Args:
        spec: 'demo'; 'torchvision:NAME' or 'timm:NAME' (a published model, downloaded unless it is in the library's
            cache); 'hf:ORG/NAME' or 'hf:FOLDER' (an image or text classifier that transformers can load, from the
            Hugging Face hub or a folder); 'path/to/file.py:FACTORY' (a function without arguments that returns the
            model; the file may also describe the model's inputs, see the how-to guide); any of these with '@FILE'
            (your own weights); or a folder written by `spadelens backdoor plant`. The code of a .py file is run.
        device: 'auto' (a CUDA device if there is one, otherwise the CPU), or anything that torch.device accepts.
        trust: Whether other files may run code: a pickled checkpoint, a hub repository that ships its model as code, a
            .py file named by a folder of `backdoor plant` instead of by `spec`.
        kind: 'photo' rejects models for texts and tables.

    Returns:
        A `LoadedModel` for photos, a `LoadedText` for texts or a `LoadedTable` for tables.

    Raises:
        ModelSpecError: The spec does not lead to a model, or the model is not of this kind.
        DeviceError: The device is not available.
    """
    spec = str(spec)
    chosen = choose_device(device)
    with torch.random.fork_rng(devices=[]):  # some draw weights that are then replaced
        loaded = _load(spec, trust)
    if kind is not None and not isinstance(loaded, LoadedModel):
        raise _refused_kind(spec, loaded)
    reason = refusal(loaded.model)
    if reason is not None:
        raise ModelSpecError(f"Cannot make traces of {spec!r}: {reason}.")
    move_model(loaded.model, chosen, spec)
    return loaded


def _load(spec: str, trust: bool) -> Loaded:
    if spec == "demo":
        return _load_demo()
    if spec.startswith("torchvision:"):
        return load_torchvision(spec, trust)
    if spec.startswith("timm:"):
        return load_timm(spec, trust)
    if spec.startswith("hf:"):
        return load_hub(spec, trust)
    if ":" in spec and spec.rpartition("@")[0].rpartition(":")[0].endswith(".py"):
        factory, _, checkpoint = spec.rpartition("@")
        loaded = replace(load_factory(factory), spec=spec)
        load_checkpoint(loaded.model, Path(checkpoint), spec, trust)
        return loaded
    if ":" in spec and spec.rpartition(":")[0].endswith(".py"):
        return load_factory(spec)
    if spec and Path(spec).is_dir():
        return _load_planted(Path(spec), trust)
    raise ModelSpecError(_unreadable(spec))


def _refused_kind(spec: str, loaded: Loaded) -> ModelSpecError:
    reads = "texts" if isinstance(loaded, LoadedText) else "rows of a table"
    return ModelSpecError(f"{spec!r} expects {reads}, but a model for photos is needed here.")


def portable_spec(spec: str) -> str:
    """Return `spec` without a checkpoint, and with the whole path where it names a file or a folder."""
    is_folder = spec.startswith("hf:") and Path(spec[3:]).is_dir()
    bare = spec if is_folder else spec.rpartition("@")[0] or spec
    if bare.startswith("hf:") and Path(bare[3:]).is_dir():
        return f"hf:{Path(bare[3:]).resolve()}"
    if bare.startswith(("torchvision:", "timm:", "hf:")) or ":" not in bare:
        return bare
    file_name, _, factory = bare.rpartition(":")
    return f"{Path(file_name).resolve()}:{factory}"


def _unreadable(spec: str) -> str:
    if Path(spec).suffix in _WEIGHTS_SUFFIXES and Path(spec).is_file():
        return (
            f"{spec!r} holds weights but not the code of the model: name the model as well, such as "
            f"torchvision:NAME@{spec} or path/to/file.py:FACTORY@{spec}."
        )
    bare = spec.partition("@")[0]
    if bare.endswith(".py"):
        return f"{spec!r} does not say which function makes the model: expected {bare}:FACTORY.{_functions(Path(bare))}"
    named = _with_source(spec)
    if named:
        return f"Cannot read the model spec {spec!r}. Did you mean {' or '.join(map(repr, named))}?"
    near = suggest(spec, ["demo", "torchvision:resnet50", "timm:resnet50"], most_listed=0)
    return f"Cannot read the model spec {spec!r}: expected {_FORMS}.{near}"


def _functions(path: Path) -> str:
    """Return a sentence with the functions that a Python file defines, without running it."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError, RecursionError):
        return ""
    names = [node.name for node in body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return f" It defines: {', '.join(names)}." if names else ""


def _with_source(spec: str) -> list[str]:
    """Return the specs that lead to the model which `spec` names without its source, torchvision before timm.

    timm is imported only if it is installed, and only where there is nothing else to do than to fail.
    """
    import torchvision

    name, at, checkpoint = spec.partition("@")
    name = name.rpartition(":")[2].lower()
    found = ["torchvision"] if name in torchvision.models.list_models(module=torchvision.models) else []
    if name and find_spec("timm") is not None:
        import timm

        bare, _, tag = name.partition(".")
        if timm.is_model(bare) and (not tag or name in timm.list_pretrained(f"{bare}.*")):
            found.append("timm")
    return [f"{source}:{name}{at}{checkpoint}" for source in found]


def _load_demo() -> LoadedModel:
    from spadelens.demo import images, network

    size = images.IMAGE_SIZE_PX
    return LoadedModel(
        spec="demo",
        model=network.build(),
        preprocessing=Preprocessing((size, size), network.MEAN, network.STD),
        class_names=images.CLASS_NAMES,
    )


def _load_planted(folder: Path, trust: bool) -> LoadedModel:
    listing = folder / "planted.json"
    if not listing.is_file():
        hint = f" For a transformers model, use hf:{folder}." if (folder / "config.json").is_file() else ""
        raise ModelSpecError(
            f"The folder {str(folder)!r} does not hold a planted model: 'planted.json' is missing.{hint}"
        )
    try:
        described = read_json(listing)
        if described["format"] != PLANTED_FORMAT:
            raise ValueError(f"expected the format {PLANTED_FORMAT!r}, got {described['format']!r}")
        spec = described["model"]
        if not isinstance(spec, str):
            raise TypeError(f"expected a model spec in 'model', got {spec!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelSpecError(f"Cannot read {str(listing)!r}: {error!r}.") from error
    if not trust and ".py:" in spec:
        raise ModelSpecError(
            f"The planted model in {str(folder)!r} would run the code of {spec.rpartition(':')[0]!r}: "
            "pass --trust (in Python, trust=True) if you know where the folder comes from."
        )
    loaded = _load(f"{spec}@{folder / PLANTED_WEIGHTS}", trust)
    if not isinstance(loaded, LoadedModel):
        raise _refused_kind(str(folder), loaded)
    return replace(loaded, spec=str(folder))

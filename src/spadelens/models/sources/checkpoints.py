"""User-supplied weights: a state dictionary in a file."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spadelens.errors import ModelSpecError

_CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
)
_HALVES = frozenset({torch.float16, torch.bfloat16})


def load_checkpoint(model: nn.Module, path: Path, spec: str, trust: bool) -> None:
    """Load the state dictionary in the file at `path` into `model`.

    Raises:
        ModelSpecError: The file cannot be read or does not fit the model.
    """
    fit_checkpoint(model, read_checkpoint(path, spec, trust), path, spec)


def read_checkpoint(path: Path, spec: str, trust: bool) -> dict[str, Tensor]:
    """Return the state dictionary in the file at `path`; a pickle that holds more than tensors only with `trust`.

    Raises:
        ModelSpecError: The file cannot be read.
    """
    if not path.is_file():
        raise ModelSpecError(f"There is no checkpoint at {str(path)!r} (from the model spec {spec!r}).")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, trust)


def fit_checkpoint(model: nn.Module, state: Mapping[str, Tensor], path: Path, spec: str) -> None:
    """Load `state`, which was read from `path`, into `model`, which gets its type where all of it is in half precision.

    Raises:
        ModelSpecError: It does not fit.
    """
    state = under_names_of(model.state_dict(), state)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    types = {value.dtype for name, value in state.items() if name in parameters and value.is_floating_point()}
    if len(types) == 1 and types < _HALVES:
        model.to(types.pop())
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


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelSpecError(f"Cannot read the checkpoint {str(path)!r}: {error}") from error


def _read_pickle(path: Path, trust: bool) -> dict[str, Tensor]:
    import pickle

    if _is_scripted(path):
        raise ModelSpecError(
            f"The checkpoint {str(path)!r} is TorchScript, which hides its layers, so that SPADE cannot prune them. "
            "Save the state dictionary of the eager module that it was made from."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols: what counts is whether it can be loaded
            state = torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        raise ModelSpecError(
            f"The checkpoint {str(path)!r} holds more than tensors or is damaged: loading it could run code. "
            "Convert it to safetensors, or pass --trust if you know where it comes from."
        ) from error
    except Exception as error:  # a damaged file, or whatever trusted code raises
        raise ModelSpecError(f"Cannot read the checkpoint {str(path)!r}: {type(error).__name__}: {error}") from error
    state = _unpacked(state)
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ModelSpecError(f"The checkpoint {str(path)!r} does not hold a state dictionary of tensors.")
    return state


def _unpacked(state: Any) -> Any:
    """Return the state dictionary among what else a training saved (epoch, optimizer), or of a whole model."""
    for _ in range(3):
        if isinstance(state, nn.Module):
            return dict(state.state_dict())
        inside = (state.get(key) for key in _CONTAINERS) if isinstance(state, dict) else ()
        found = next((one for one in inside if isinstance(one, dict | nn.Module) and one), None)
        if found is None:
            break
        state = found
    return state


def under_names_of(names: Iterable[str], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a state dictionary under the `names` that a model has: wrappers put words such as 'module.' before them.

    Args:
        names: Of the model's state dictionary.
        state: As it was read.

    Returns:
        `state`, or the part of it below a prefix that has all of the names, under these.
    """
    needed = {name for name in names if not name.endswith("num_batches_tracked")}
    if needed <= state.keys():
        return state
    anchor = min(needed, default="")
    prefixes = [key.removesuffix(anchor) for key in state if anchor and key.endswith(f".{anchor}")]
    for prefix in sorted(prefixes, key=len):
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if needed <= part.keys():
            return part
    return state


def _is_scripted(path: Path) -> bool:
    """Whether `torch.jit.save` wrote the file, which then holds code beside the weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return any(name.partition("/")[2] == "constants.pkl" for name in names)

"""Weights of the user: a state dictionary in a file."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from spadelens.errors import ModelSpecError

_HALVES = frozenset({torch.float16, torch.bfloat16})


def load_checkpoint(model: nn.Module, path: Path, spec: str, trust: bool) -> None:
    """Load the state dictionary in the file at `path` into `model`.

    Raises:
        ModelSpecError: The file cannot be read, or does not fit.
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
            f"The checkpoint {str(path)!r} is TorchScript, which hides its layers and cannot be traced: save the state "
            "dictionary of the eager module that it was made from."
        )
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
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ModelSpecError(f"The checkpoint {str(path)!r} does not hold a state dictionary of tensors.")
    return state


def _is_scripted(path: Path) -> bool:
    """Whether `torch.jit.save` wrote the file, which then holds code beside the weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return any(name.partition("/")[2] == "constants.pkl" for name in names)

"""Reads what a user's Python file defines about the texts or tables that its model expects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, final

import torch
from torch import Tensor

from spadelens.errors import InputError, ModelSpecError
from spadelens.models.loaded import Encoding, Tokenizer
from spadelens.text_files import numbers, shown, table_lines


def read_rows(path: str | Path, feature_names: Sequence[str]) -> Tensor:
    """Return the raw rows of a CSV file, float32 `[rows, features]`, with the columns in the order of `feature_names`.

    The first line names the columns, in any order; columns that the model does not use are ignored.

    Raises:
        InputError: The file cannot be read, lacks a column, has no row, or holds something other than finite numbers.
    """
    _, *lines = table_lines(Path(path))
    if not lines:
        raise InputError(f"There is no row in {shown(Path(path))}: expected at least one row below the header.")
    return torch.tensor([numbers(line, feature_names) for line in lines], dtype=torch.float32)


def file_feature_names(module: ModuleType, file_name: str) -> tuple[str, ...]:
    """Return the names in FEATURE_NAMES; raises ModelSpecError if they are not names."""
    names = module.FEATURE_NAMES
    is_listed = isinstance(names, Sequence) and not isinstance(names, str)
    if not is_listed or not names or not all(isinstance(name, str) for name in names) or len({*names}) != len(names):
        raise ModelSpecError(f"Cannot use FEATURE_NAMES of {file_name!r}: expected a list of unique strings.")
    return tuple(names)


def file_normalization(module: ModuleType, file_name: str, num_columns: int) -> tuple[Tensor, Tensor]:
    """Return MEAN and STD, one for each column; 0 and 1 where the file has none."""
    found = []
    for name, default in (("MEAN", 0.0), ("STD", 1.0)):
        given = getattr(module, name, [default] * num_columns)
        values = _floats(given)
        if values is None or values.shape != (num_columns,) or (name == "STD" and not bool((values > 0).all())):
            least = " above zero" if name == "STD" else ""
            raise ModelSpecError(
                f"Cannot use {name} of {file_name!r}: expected {num_columns} finite numbers{least}, one for each "
                "feature."
            )
        found.append(values)
    return found[0], found[1]


def file_background(module: ModuleType, path: Path, feature_names: Sequence[str]) -> Tensor | None:
    """Return the raw rows of BACKGROUND: a CSV file beside the Python file, or a list of rows; None without one."""
    given = getattr(module, "BACKGROUND", None)
    if given is None:
        return None
    if isinstance(given, str | Path):
        try:
            return read_rows(path.resolve().parent / given, feature_names)
        except InputError as error:
            raise ModelSpecError(f"Cannot use BACKGROUND of {str(path)!r}: {error}") from error
    rows = _floats(given)
    if rows is None or rows.dim() != 2 or rows.shape[0] == 0 or rows.shape[1] != len(feature_names):
        raise ModelSpecError(
            f"Cannot use BACKGROUND of {str(path)!r}: expected the name of a CSV file, or rows of "
            f"{len(feature_names)} finite numbers."
        )
    return rows


def _floats(given: Any) -> Tensor | None:
    try:
        values = torch.as_tensor(given).detach().to("cpu", torch.float32)
    except (TypeError, ValueError, RuntimeError):
        return None
    return values if bool(torch.isfinite(values).all()) else None


@final
@dataclass(frozen=True, eq=False)
class FileTokenizer:
    """The tokenizer of a user's file, with checks of its results.

    Attributes:
        mask_id: As in `Tokenizer`.
        encoder: What the file encodes a text with: returns an `Encoding`, or ids and tokens.
        file_name: The file.
    """

    mask_id: int
    encoder: Callable[[str], Any]
    file_name: str

    def encode(self, text: str) -> Encoding:
        """Return `text` in tokens.

        Raises:
            InputError: The file's own function fails, or does not return ids and tokens.
        """
        try:
            found = self.encoder(text)
        except Exception as error:  # whatever the user's own code raises
            raise InputError(
                f"Cannot encode the text: the encoder in {self.file_name!r} failed: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, Encoding):
            found = self._joined(found)
        counts = {len(found.tokens), len(found.is_special), *found.ids.shape}
        if found.ids.dim() != 1 or len(counts) != 1 or not all(isinstance(token, str) for token in found.tokens):
            raise self._refused("they differ in number, or the tokens are not strings")
        if len(found.ids) == 0:
            raise InputError("Cannot explain a text without tokens.")
        return found

    def _joined(self, found: Any) -> Encoding:
        if not isinstance(found, tuple) or len(found) != 2:
            raise self._refused(f"got a {type(found).__name__}")
        try:
            ids = torch.as_tensor(found[0]).detach().cpu()
            tokens = tuple(found[1])
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._refused(f"{type(error).__name__}: {error}") from error
        if ids.is_floating_point() and ids.numel():
            raise self._refused("the ids are not integers")
        return Encoding(ids.long(), tokens, (False,) * len(tokens))

    def _refused(self, reason: str) -> InputError:
        return InputError(
            f"Cannot use what the encoder in {self.file_name!r} returned: expected (ids, tokens), with one integer and "
            f"one string per token, but {reason}."
        )


def file_tokenizer(module: ModuleType, file_name: str) -> FileTokenizer:
    """Return the file's TOKENIZER, or its `encode` with its MASK_ID."""
    given = getattr(module, "TOKENIZER", None)
    if given is not None:
        mask_id = getattr(given, "mask_id", None)
        if not isinstance(given, Tokenizer) or isinstance(mask_id, bool) or not isinstance(mask_id, int):
            raise ModelSpecError(
                f"Cannot use TOKENIZER of {file_name!r}: expected an object with encode(text), which returns a "
                "spadelens.models.Encoding, and an integer mask_id."
            )
        return FileTokenizer(mask_id, given.encode, file_name)
    encode, mask_id = getattr(module, "encode", None), module.MASK_ID
    if not callable(encode):
        raise ModelSpecError(
            f"{file_name!r} defines MASK_ID, as for texts, but no function 'encode': expected encode(text) that "
            "returns ids and tokens."
        )
    if isinstance(mask_id, bool) or not isinstance(mask_id, int) or mask_id < 0:
        raise ModelSpecError(f"Cannot use MASK_ID={mask_id!r} of {file_name!r}: expected the number of a token.")
    return FileTokenizer(mask_id, encode, file_name)

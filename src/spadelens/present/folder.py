"""A folder of results that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spadelens.errors import OutputError


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder; move what was written there into `out` when the block ends without error.

    Files that `out` holds already stay, but for those of the same names, each of which is replaced at once. After an
    error or an interrupt nothing in `out` has changed.

    Raises:
        OutputError: `out` is a file, or it cannot be written. That is found out before the block is entered.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"Cannot write to {str(out)!r}: it is a file, expected a folder or a new name.")
    nearest = out.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    try:
        staging = Path(tempfile.mkdtemp(dir=nearest, prefix=f".{out.name}.", suffix=".partial"))
    except OSError as error:
        raise OutputError(f"Cannot write to {str(out)!r}: {error.strerror or error}.") from error
    try:
        yield staging
        _move(staging, out)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"Cannot write to {str(out)!r}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(staging: Path, out: Path) -> None:
    for source in sorted(path for path in staging.rglob("*") if path.is_file()):
        target = out / source.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)

"""A folder of results that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spadelens.errors import OutputError
from spadelens.output import interrupts


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder; move what was written there to `out` when the block ends without error.

    Files that `out` holds already stay, but for those of the same names, each of which is replaced at once. After an
    error or an interrupt nothing in `out` has changed.

    Raises:
        OutputError: `out` is a file, or it cannot be written. That is found out before the block is entered.
    """
    try:
        staging = _make_staging(out)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"Cannot write to {str(out)!r}: {error.strerror or error}.") from error
    try:
        yield staging
        with interrupts.completes():
            _move(staging, out)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"Cannot write to {str(out)!r}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _make_staging(out: Path) -> Path:
    if os.path.lexists(out) and not out.is_dir():
        raise OutputError(f"Cannot write to {str(out)!r}: it is a file, expected a folder or a new name.")
    nearest = out.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise OutputError(f"Cannot write to {str(out)!r}: {str(nearest)!r} is a file.")
    return Path(tempfile.mkdtemp(dir=nearest, prefix=".spadelens.", suffix=".partial"))


def _move(staging: Path, out: Path) -> None:
    """Move the contents of `staging` to `out`: by one rename where `out` is new, else file by file."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        umask = os.umask(0)
        os.umask(umask)
        staging.chmod(0o777 & ~umask)
        try:
            os.rename(staging, out)  # noqa: PTH104 - Path.rename is the same
        except FileExistsError:  # another run was faster
            pass
        else:
            return
    sources = sorted(path for path in staging.rglob("*") if path.is_file())
    targets = [out / source.relative_to(staging) for source in sources]
    for target in targets:
        blocking = (
            target if target.is_dir() else next((p for p in target.parents if p.exists() and not p.is_dir()), None)
        )
        if blocking is not None:
            raise OutputError(f"Cannot write {str(target)!r}: {str(blocking)!r} is in the way.")
    for source, target in zip(sources, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)

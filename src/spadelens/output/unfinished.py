"""What a run has made so far, kept beside its results until all of them are there."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spadelens.files import make_folder

NAME = ".visualize.partial"
_LONGEST_KEPT_S = 7 * 24 * 3600


class Unfinished:
    """Files of a run in a hidden folder inside its results, each named by what it is made from.

    So a run finds what an interrupted one has left, and runs with other settings neither use nor remove it.
    """

    def __init__(self, out: Path) -> None:
        """Use the folder inside `out`; both are made when the first file is asked for."""
        self._folder = out / NAME
        self._made: list[Path] = []
        self._used: dict[Path, str] = {}

    def path(self, kind: str, *made_from: str) -> Path:
        """Return where a file is, or is to be written.

        Args:
            kind: What it is, which becomes the end of its name.
            made_from: All that determines its content.

        Raises:
            OutputError: The folder cannot be made.
        """
        self._made += make_folder(self._folder, inside=self._folder.parent)
        digest = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:24]
        path = self._folder / f"{digest}.{kind}"
        self._used[path] = kind
        return path

    def has(self, kind: str) -> bool:
        """Return whether this run has any file of a kind."""
        return any(path.exists() for path, of_kind in self._used.items() if of_kind == kind)

    def remove(self) -> None:
        """Remove the files that this run asked for, those that were left alone for a week, and empty folders."""
        old = [path for path in self._folder.glob("*") if time.time() - path.lstat().st_mtime > _LONGEST_KEPT_S]
        for path in (*self._used, *old):
            with contextlib.suppress(OSError):  # it was never written
                path.unlink()
        for folder in (self._folder, *self._made):
            with contextlib.suppress(OSError):  # it holds results, or files of another run
                folder.rmdir()


@contextmanager
def unfinished(out: Path, worth_keeping: str) -> Iterator[Unfinished]:
    """Give the files of a run; they are removed when the block ends, but not by an interrupt.

    Args:
        out: The folder of results.
        worth_keeping: The kind of file that is kept after an error as well.
    """
    files = Unfinished(out)
    try:
        yield files
    except Exception:
        if not files.has(worth_keeping):
            files.remove()
        raise
    files.remove()

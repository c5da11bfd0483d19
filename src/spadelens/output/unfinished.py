"""What a run has made so far, kept beside its results until all of them are there."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spadelens.files import make_folder

NAME = ".visualize.partial"


class Unfinished:
    """Files of a run in a hidden folder of its results, each named by what it is made from.

    So a run finds what an interrupted one has left, and one with other settings does not.
    """

    def __init__(self, out: Path) -> None:
        """Use the folder within `out`; both are made when the first file is asked for."""
        self._folder = out / NAME
        self._made = [path for path in (self._folder, *self._folder.parents) if not path.exists()]

    def path(self, kind: str, *made_from: str) -> Path:
        """Return where a file is, or is to be written.

        Args:
            kind: What it is, which becomes the end of its name.
            made_from: All that determines its content.

        Raises:
            OutputError: The folder cannot be made.
        """
        make_folder(self._folder)
        digest = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:24]
        return self._folder / f"{digest}.{kind}"

    def has(self, kind: str) -> bool:
        """Whether there is any file of a kind."""
        return any(self._folder.glob(f"*.{kind}"))

    def remove(self) -> None:
        """Remove the folder, and those above it that it was made with, where they are empty."""
        shutil.rmtree(self._folder, ignore_errors=True)
        for path in self._made[1:]:
            with contextlib.suppress(OSError):  # it holds results, or was never made
                path.rmdir()


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

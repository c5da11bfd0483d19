"""Files that appear whole or not at all, and files that grow record by record."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spadelens.errors import OutputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move what was written there to `path` when the block ends without error.

    Raises:
        OutputError: The folder of `path` cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        os.close(handle)
    except OSError as error:
        raise OutputError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        OutputError: That cannot be done.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot write to {str(path)!r}: {error.strerror or error}.") from error


class Journal:
    """Records in a file, a JSON value a line, from which an interrupted run goes on.

    A record is written at once and in one piece, so that two runs can write to the same file. A line that an interrupt
    has cut short is no record: what it would have held is made again.

    Attributes:
        records: Those in the file when it was opened, and those appended since.
    """

    def __init__(self, path: Path) -> None:
        """Read the file at `path`, if there is one.

        Raises:
            OutputError: Its folder cannot be written, or the file cannot be read.
        """
        self._path = path
        self.records: list[Any] = []
        make_folder(path.parent)
        try:
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            if text and not text.endswith("\n"):
                self._write("\n")
        except OSError as error:
            raise OutputError(f"Cannot use {str(path)!r}: {error.strerror or error}.") from error
        for line in text.splitlines():
            with contextlib.suppress(ValueError):  # cut short
                self.records.append(json.loads(line))

    def append(self, record: Any) -> None:
        """Add a record.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            self._write(json.dumps(record) + "\n")
        except OSError as error:
            raise OutputError(f"Cannot write {str(self._path)!r}: {error.strerror or error}.") from error
        self.records.append(record)

    def _write(self, text: str) -> None:
        with self._path.open("ab") as file:
            file.write(text.encode())

"""Files that appear whole or not at all, and files that grow record by record.

Nothing here replaces or writes through anything but a regular file: device nodes, pipes and symbolic links are refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from spadelens.errors import OutputError

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def file_kind(path: Path) -> str | None:
    """Return what `path` is if it is not a regular file, for messages; None if it is one, or if nothing is there.

    Symbolic links are not followed.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None
    kinds = (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), None)


def check_replaceable(path: Path) -> None:
    """Refuse to replace anything but a regular file.

    Raises:
        OutputError: `path` is a symbolic link, a folder, a pipe or a device.
    """
    kind = file_kind(path)
    if kind is not None:
        raise OutputError(f"Cannot write {str(path)!r}: it is {kind}. Expected a regular file or a new name.")


def check_readable(path: Path) -> None:
    """Reject what cannot be read as a file: a pipe would block for ever, a device might never end. Links are followed.

    Raises:
        OSError: `path` is there, and is neither a regular file nor a folder.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(f"it is {file_kind(path.resolve()) or 'not a regular file'}, expected a regular file")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON in UTF-8, or nested too deeply.
    """
    check_readable(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move what was written there to `path` when the block ends without error.

    Raises:
        OutputError: `path` is not a regular file, or it cannot be written.
    """
    check_replaceable(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".partial")
        os.close(handle)
    except OSError as error:
        raise OutputError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error
    temporary = Path(name)
    try:
        with _as_output_error(path):
            yield temporary
            temporary.chmod(0o666 & ~current_umask())
            check_replaceable(path)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    """Turn what the system, torch.save (RuntimeError) and safetensors raise on a full disk into an OutputError."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise OutputError(f"Cannot write {str(path)!r}: {reason}. The disk may be full.") from error


def current_umask() -> int:
    """Return the permissions that new files are not given."""
    current = os.umask(0)
    os.umask(current)
    return current


def make_folder(path: Path, inside: Path | None = None) -> list[Path]:
    """Make a folder and those above it, where they are missing; returns those that it made, the lowest first.

    Args:
        path: The folder.
        inside: A folder above it that the user named: links between the two are not followed.

    Raises:
        OutputError: That cannot be done, or there is a link.
    """
    below = () if inside is None else path.relative_to(inside).parts
    for count in range(1, len(below) + 1):
        if file_kind(Path(inside or "", *below[:count])) == "a symbolic link":
            raise OutputError(f"Cannot write to {str(path)!r}: there is a symbolic link on the way. Delete it first.")
    made = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot write to {str(path)!r}: {error.strerror or error}.") from error
    return made


@contextmanager
def kept_if_used(path: Path, inside: Path | None = None) -> Iterator[None]:
    """Make a folder for the block; if the block fails before anything is in it, remove what was made again.

    Args:
        path: As in `make_folder`.
        inside: As in `make_folder`.

    Raises:
        OutputError: The folder cannot be made.
    """
    made = make_folder(path, inside)
    try:
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()
        raise


class Journal:
    """Records in a file, one JSON value per line, from which an interrupted run resumes.

    A record is written at once and in one piece, so that two runs can write to the same file. A line that an interrupt
    cut short is skipped: what it would have held is computed again.

    Attributes:
        records: Those in the file when it was opened, and those appended since.
    """

    def __init__(self, path: Path, is_record: Callable[[Any], bool] | None = None) -> None:
        """Read the file at `path`, if there is one.

        Args:
            path: The file.
            is_record: Tells records from other JSON, which is skipped like lines that were cut short.

        Raises:
            OutputError: Its folder cannot be written, or the file cannot be read.
        """
        self._path = path
        self.records: list[Any] = []
        make_folder(path.parent)
        try:
            check_replaceable(path)
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            if text and not text.endswith("\n"):
                self._write("\n")
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"Cannot use {str(path)!r}: {error.strerror or error}.") from error
        for line in text.splitlines():
            with contextlib.suppress(ValueError, RecursionError):  # cut short, or not written by us
                record = json.loads(line)
                if is_record is None or is_record(record):
                    self.records.append(record)

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
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_FOLLOW, 0o666)
        with os.fdopen(handle, "ab") as file:
            file.write(text.encode())

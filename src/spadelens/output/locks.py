"""Locks on folders, which end with the process that holds them, however it ends."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spadelens.files import file_kind

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".partial"
_LEAST_AGE_S = 60  # a folder is locked much sooner after it was made


def prefix() -> str:
    """Return how names of temporary folders begin; locks are seen by one machine only, so its name is part of it."""
    return f".spadelens.{re.sub(r'[^A-Za-z0-9-]', '_', socket.gethostname())[:64]}."


@contextmanager
def held(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a folder inside the block; yields whether it could be taken.

    Args:
        folder: The folder.
        wait: Whether to wait for another process that holds it.
    """
    handle = _lock(folder, wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary folders in `folder` that killed runs on this machine left; those in use are locked."""
    for path in folder.glob(f"{prefix()}*{SUFFIX}"):
        if file_kind(path) != "a folder" or time.time() - path.lstat().st_mtime < _LEAST_AGE_S:
            continue
        with held(path) as is_free:
            if is_free:
                shutil.rmtree(path, ignore_errors=True)


def _lock(folder: Path, wait: bool) -> int | None:
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or the file system has no locks
        os.close(handle)
        return None
    return handle

"""Ctrl-C and SIGTERM that take effect, with a truthful message about what was written.

An exception raised by a signal can be lost: libraries swallow it when it strikes inside their imports, finalizers or
callbacks from C. So while there is nothing to clean up, a signal ends the process at once (`stops_at_once`); otherwise
(`raises`) it raises KeyboardInterrupt and is remembered, and `check` raises it again. Results that are being moved into
place are moved completely (`completes`); from then on a signal comes too late.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MESSAGE = "Interrupted: nothing was written."
RESUMABLE_MESSAGE = "Interrupted: run the same command again to resume."
EXIT_CODE = 130  # as a shell has it for Ctrl-C

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_is_received = False
_is_complete = False
_is_resumable = False


@contextmanager
def stops_at_once() -> Iterator[None]:
    """Inside the block, a signal ends the process with `MESSAGE` and `EXIT_CODE`."""
    global _is_complete, _is_resumable
    _is_complete = _is_resumable = False
    with _handled_by(_stop):
        yield


@contextmanager
def raises(is_resumable: bool = False) -> Iterator[None]:
    """Inside the block, a signal raises KeyboardInterrupt, and so does `check` from then on, to the end of the block.

    Args:
        is_resumable: Whether the same command can resume from what is written inside the block.
    """
    global _is_received, _is_complete, _is_resumable
    _is_received = _is_complete = False
    _is_resumable = is_resumable
    try:
        with _handled_by(_raise):
            yield
    finally:
        _is_received = False  # what runs in this process next was not interrupted


@contextmanager
def completes() -> Iterator[None]:
    """Signals are ignored inside the block, and after it too if it ends without error."""
    global _is_complete
    with _handled_by(_ignore):
        yield
        _is_complete = True


def message() -> str:
    """Return what to tell a person about the interrupt."""
    return RESUMABLE_MESSAGE if _is_resumable else MESSAGE


def check() -> None:
    """Raise KeyboardInterrupt if a signal came inside the block of `raises`; the exception may have been lost."""
    if _is_received:
        raise KeyboardInterrupt


@contextmanager
def _handled_by(handler: Callable[[int, object], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    before = [(number, signal.signal(number, handler)) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, previous in before:
            signal.signal(number, previous)


def _stop(number: int, frame: object) -> None:
    del number, frame
    if not _is_complete:
        os.write(2, f"{MESSAGE}\n".encode())
        os._exit(EXIT_CODE)


def _raise(number: int, frame: object) -> None:
    global _is_received
    del number, frame
    if not _is_complete:
        _is_received = True
        raise KeyboardInterrupt


def _ignore(number: int, frame: object) -> None:
    del number, frame

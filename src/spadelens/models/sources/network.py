"""Checks once whether the Hugging Face hub is reachable, instead of retrying for every file."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

_LONGEST_WAIT_S = 5.0
_LOGGERS = ("huggingface_hub", "transformers", "timm", "urllib3", "httpx")


@contextmanager
def quick_hub() -> Iterator[None]:
    """Inside the block, make the hub's library use only its cache if the hub is not reachable, and log nothing.

    It would try every file six times, with waits in between, and log each try.
    """
    from huggingface_hub import constants

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels, was_offline = [logger.level for logger in loggers], constants.HF_HUB_OFFLINE
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        constants.HF_HUB_OFFLINE = was_offline or not is_reachable(constants.ENDPOINT)
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def is_reachable(url: str) -> bool:
    """Return whether a connection to the host of a URL, or to the proxy for it, can be opened."""
    proxies = getproxies()
    parts = urlsplit(proxies.get("https") or proxies.get("all") or url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    with contextlib.suppress(OSError), socket.create_connection((parts.hostname or "", port), _LONGEST_WAIT_S):
        return True
    return False

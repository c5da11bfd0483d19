"""What long computations report their progress to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as progress(stage, done, total)."""
ProgressLike: TypeAlias = Progress | bool
"""What public functions take: such a callable, or True for a progress bar; see `progress_bars.reporting`."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Report to nobody."""
    del stage, done, total

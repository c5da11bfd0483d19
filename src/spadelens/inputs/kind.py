"""What kinds of input there are."""

from __future__ import annotations

from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["photo", "text", "row"]

"""Names from strangers' files, made harmless for terminals and spreadsheets."""

from __future__ import annotations

import re

# Control characters (escape sequences begin with one), and marks that turn the direction of what follows.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n")


def printable(text: str) -> str:
    """Return a text with replacement characters for those that could change what a terminal shows."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def csv_cell(text: str) -> str:
    """Return a text such that spreadsheets do not run it as a formula: those that begin like one get a quote before."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_SIGNS) else text

"""The classes of Captum, imported on first use and without a word."""

from __future__ import annotations

import sys
import warnings
from contextlib import nullcontext
from typing import Any


def captum_method(name: str) -> Any:
    """Return a class of `captum.attr`.

    In a notebook without ipywidgets, importing Captum warns that its progress bars need them; none are shown here.
    """
    is_first = "captum.attr" not in sys.modules
    with warnings.catch_warnings() if is_first else nullcontext():
        if is_first:
            warnings.simplefilter("ignore")
        from captum import attr
    return getattr(attr, name)

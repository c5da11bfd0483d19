"""Loading models by spec, with their preprocessing and class names."""

from __future__ import annotations

from spadelens.models.classes import find_class, is_class_name
from spadelens.models.devices import choose_device
from spadelens.models.loaded import Encoding, Loaded, LoadedModel, LoadedTable, LoadedText, Tokenizer
from spadelens.models.specs import (
    PLANTED_FORMAT,
    PLANTED_WEIGHTS,
    load_model,
    portable_spec,
)
from spadelens.photos import Preprocessing

__all__ = [
    "PLANTED_FORMAT",
    "PLANTED_WEIGHTS",
    "Encoding",
    "Loaded",
    "LoadedModel",
    "LoadedTable",
    "LoadedText",
    "Preprocessing",
    "Tokenizer",
    "choose_device",
    "find_class",
    "is_class_name",
    "load_model",
    "portable_spec",
]

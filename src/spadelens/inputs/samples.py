"""Texts and rows as samples; they are made beside the models that read them."""

from __future__ import annotations

from spadelens.models.embedded import EmbeddedText
from spadelens.models.samples import RowSample, TextSample, embed_text, row_sample, text_sample

__all__ = ["EmbeddedText", "RowSample", "TextSample", "embed_text", "row_sample", "text_sample"]

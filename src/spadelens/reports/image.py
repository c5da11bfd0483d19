"""Heatmaps as pictures, as reports show them."""

from __future__ import annotations

from spadelens.pictures import heatmap_picture, overlay_picture, photo_picture, png_bytes, scaled

__all__ = ["heatmap_picture", "overlay_picture", "photo_picture", "png_bytes", "scaled"]

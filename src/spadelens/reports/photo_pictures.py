"""The pictures of one explained photo."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from spadelens.models import LoadedModel
from spadelens.pictures import contrast_picture, heatmap_picture, overlay_picture, photo_bytes, photo_picture, png_bytes
from spadelens.reports.finding import draw_finding
from spadelens.reports.html import PhotoPictures
from spadelens.tasks.explain import Explanation
from spadelens.tasks.subjects import PhotoSubject

_MOST_CELLS = 48


def draw_photo(explanation: Explanation, loaded: LoadedModel) -> PhotoPictures:
    """Return the pictures of one explained photo."""
    subject = explanation.subject
    assert isinstance(subject, PhotoSubject)
    photo = subject.crop
    original, trace = explanation.original_map, explanation.trace_map
    believed = explanation.finding.shown
    others = {
        name: heatmap
        for name, heatmap in explanation.candidates.maps.items()
        if heatmap is not original and heatmap is not trace
    }
    return PhotoPictures(
        photo=photo_bytes(photo_picture(photo)),
        original_heatmap=png_bytes(heatmap_picture(original.values)),
        trace_heatmap=png_bytes(heatmap_picture(trace.values)),
        original_overlay=photo_bytes(overlay_picture(original.values, photo)),
        trace_overlay=photo_bytes(overlay_picture(trace.values, photo)),
        believed_heatmap=png_bytes(heatmap_picture(believed)),
        believed_overlay=photo_bytes(overlay_picture(believed, photo)),
        finding=draw_finding(explanation, loaded),
        others={name: photo_bytes(overlay_picture(heatmap.values, photo)) for name, heatmap in others.items()},
        contrast=None
        if explanation.contrast is None
        else photo_bytes(contrast_picture(explanation.contrast.values, photo)),
        grid=_grid(believed),
    )


def _grid(values: Tensor) -> Tensor:
    """Return a map `[H, W]` in percent of its largest value, as means over at most 48 rows and columns."""
    rows, columns = (min(side, _MOST_CELLS) for side in values.shape)
    means = functional.adaptive_avg_pool2d(values.abs().unsqueeze(0), (rows, columns))[0]
    return (100 * means / means.max().clamp(min=torch.finfo(means.dtype).tiny)).round().to(torch.uint8)

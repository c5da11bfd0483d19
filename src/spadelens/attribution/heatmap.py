"""A heatmap: one value for each pixel, token or feature, and the ways to look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from spadelens.attribution.soundness import Soundness
from spadelens.errors import InputError
from spadelens.files import whole_file
from spadelens.kinds import LAYOUTS, Kind, Reduction
from spadelens.snippets import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

    from spadelens.photos import Preprocessing


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Which pixels of a photo, tokens of a text or features of a row moved the score of a class.

    Attributes:
        values: The attribution with one value per pixel `[H, W]`, token `[tokens]` or feature `[features]`, on the
            CPU; blurred if requested. Not normalized, except for an ensemble, whose members' maps are divided by the
            sums of their absolute values before averaging.
        attribution: Signed, of the shape of the sample, on the CPU; never blurred.
        target: The class whose score was attributed.
        method: The name of the method, with the settings that differ from their defaults.
        settings: All settings of the method.
        reduction: How the channels of a pixel, or the features of a token, were reduced.
        kind: What the sample is.
        convergence_delta: The deviation from completeness; None for an ensemble and for methods that do not guarantee
            completeness.
        blur: Standard deviation of the blur, as a fraction of the longer side.
        soundness: The results of the soundness checks, for an ensemble those of its first member; None if the checks
            were not requested.
        names: What the tokens or features are called, if known; see `named`.
        versus: The class whose score was subtracted from that of the target; None for the target alone.
    """

    values: Tensor
    attribution: Tensor
    target: int
    method: str
    settings: Mapping[str, Any]
    reduction: Reduction
    kind: Kind
    convergence_delta: float | None
    blur: float = 0.0
    soundness: Soundness | None = None
    names: tuple[str, ...] = ()
    versus: int | None = None

    def __post_init__(self) -> None:
        """Reject names that do not fit."""
        if self.names and self.values.shape != (len(self.names),):
            raise InputError(
                f"Cannot give {len(self.names)} names to a map of shape {list(self.values.shape)}: expected one for "
                "each token or feature."
            )

    def __repr__(self) -> str:
        """Summarize the map."""
        shape = " x ".join(map(str, self.values.shape))
        verdict = "" if self.soundness is None else ", sound" if self.soundness.is_sound else ", doubtful"
        against = "" if self.versus is None else f" versus {self.versus}"
        return f"<Heatmap {shape} of class {self.target}{against} by {shortened(self.method, 150)}{verdict}>"

    @property
    def is_zero(self) -> bool:
        """Whether the map is zero everywhere and so carries no information."""
        return not bool(self.values.any())

    def named(self, names: Sequence[str]) -> Heatmap:
        """Return the same map with names for its tokens or features, such as `loaded.feature_names`.

        Raises:
            InputError: There is not one name for each value.
        """
        return replace(self, names=tuple(map(str, names)))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the map with matplotlib, and return the axes.

        A photo's map has the colors of the report: the larger a value is in size, the brighter. A volume is shown by
        the slice with its largest value; signals, texts and rows by their values.

        Args:
            ax: Where to draw; None for a new figure.
        """
        from spadelens.attribution.heatmap_shown import plot_heatmap

        return plot_heatmap(self, ax)

    def overlay(self, photo: Image.Image | str | Path, preprocessing: Preprocessing | None = None) -> Image.Image:
        """Return the map of a photo laid over the grey photo, enlarged by a whole factor to at least 448 pixels.

        Args:
            photo: The photo that was explained, or its file.
            preprocessing: What the model's `LoadedModel.preprocessing` does to photos: they are resized and cropped
                like that. None for a photo that has the size of the map already.

        Raises:
            PhotoError: The file cannot be read as a photo.
            InputError: The map is not that of a photo, or the photo does not have its size.
        """
        from spadelens.photos import read_photo
        from spadelens.pictures import overlay_picture

        self._check_is_photo("lay over a photo")
        picture = read_photo(photo) if isinstance(photo, str | Path) else photo.convert("RGB")
        if preprocessing is not None:
            picture = preprocessing.crop(picture)
        height, width = self.values.shape
        if picture.size != (width, height):
            raise InputError(
                f"Cannot lay a map of {height} x {width} pixels over a photo of {picture.height} x {picture.width}: "
                "expected the part that the model saw. Pass loaded.preprocessing as well, which resizes and crops."
            )
        return overlay_picture(self.values, picture)

    def save(self, path: str | Path) -> None:
        """Write the map of a photo to a PNG file, in the colors and at the size of the report.

        Raises:
            InputError: The map is not that of a photo, or the name does not end in '.png'.
            OutputError: The file cannot be written.
        """
        from spadelens.pictures import heatmap_picture, png_bytes

        self._check_is_photo("save as a picture")
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise InputError(f"Cannot save a map as {str(path)!r}: expected a name that ends in '.png'.")
        content = png_bytes(heatmap_picture(self.values))
        with whole_file(path) as temporary:
            temporary.write_bytes(content)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from spadelens.attribution.heatmap_shown import heatmap_html

        return heatmap_html(self)

    def _check_is_photo(self, what: str) -> None:
        if self.kind != "photo":
            raise InputError(
                f"Cannot {what} the map of a {self.kind}: it has one value for each {LAYOUTS[self.kind].unit}. "
                "Use plot(), or values."
            )

"""How a heatmap is shown: by matplotlib, and in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from spadelens import snippets
from spadelens.kinds import LAYOUTS
from spadelens.pictures import COLORMAP, bars_picture, colored_picture, scaled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from spadelens.attribution.heatmap import Heatmap

_MOST_WORDS, _MOST_BARS, _MOST_PROBLEMS = 120, 20, 3
_MOST_TICKS = 40


def plot_heatmap(heatmap: Heatmap, ax: Axes | None) -> Axes:
    """Draw a map on axes, or in a new figure, and return the axes; see `Heatmap.plot`."""
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots()
    ax.set_title(f"class {heatmap.target}, {snippets.shortened(heatmap.method, 40)}")
    if heatmap.values.dim() > 1:
        ax.imshow(scaled(_slice(heatmap)[0]), cmap=COLORMAP, vmin=0, vmax=1)
        ax.set_axis_off()
        return ax
    values = heatmap.values.cpu().double().tolist()
    if heatmap.kind == "signal":
        ax.plot(values)
    elif heatmap.names and len(values) <= _MOST_TICKS:
        ax.barh(range(len(values)), values)
        ax.set_yticks(range(len(values)), [snippets.shortened(name, 40) for name in heatmap.names])
        ax.invert_yaxis()
        return ax
    else:
        ax.bar(range(len(values)), values)
    ax.set_xlabel(LAYOUTS[heatmap.kind].unit)
    return ax


def heatmap_html(heatmap: Heatmap) -> str:
    """Return what a notebook shows of a map."""
    soundness = heatmap.soundness
    verdict = "" if soundness is None else ", sound" if soundness.is_sound else ", doubtful"
    title = f"Heatmap of class {heatmap.target} by {snippets.shortened(heatmap.method, 120)}{verdict}"
    problems = [] if soundness is None else [snippets.line(problem) for problem in soundness.problems[:_MOST_PROBLEMS]]
    return snippets.block(title, *problems, *_body(heatmap))


def _body(heatmap: Heatmap) -> list[str]:
    shape = " x ".join(map(str, heatmap.values.shape))
    unit = f"{LAYOUTS[heatmap.kind].unit}s"
    if heatmap.values.dim() > 1:
        shown, number = _slice(heatmap)
        said = "" if number is None else f", slice {number} of {len(heatmap.values)}, counted from 0"
        return [snippets.pictures([colored_picture(shown)], [f"{shape} {unit}{said}"])]
    if not heatmap.names:
        return [snippets.pictures([bars_picture(heatmap.values)], [f"{shape} {unit}"])]
    values = heatmap.values.cpu().double().tolist()
    if heatmap.kind == "row":
        largest = sorted(range(len(values)), key=lambda number: -abs(values[number]))[:_MOST_BARS]
        names = [heatmap.names[number] for number in largest]
        return [snippets.bars(names, [values[number] for number in largest]), *_more(len(values), _MOST_BARS, unit)]
    first = slice(_MOST_WORDS)
    return [snippets.words(heatmap.names[first], values[first]), *_more(len(values), _MOST_WORDS, unit)]


def _more(count: int, shown: int, unit: str) -> list[str]:
    return [snippets.line(f"and {count - shown} more {unit}")] if count > shown else []


def _slice(heatmap: Heatmap) -> tuple[Tensor, int | None]:
    """Return a map `[H, W]`: the map itself, or the slice of a volume with its largest value, and its number."""
    values = heatmap.values
    if values.dim() == 2:
        return values, None
    number = int(values.abs().flatten(1).amax(1).argmax())
    return values[number], number

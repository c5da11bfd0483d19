"""The numbers of a table: means over images, and gains over the original network and SmoothGrad with uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, TypeAlias

from spadelens.evaluation.tables import Cell, Results
from spadelens.metrics.statistics import paired_difference, standard_deviation

Score: TypeAlias = Callable[[Cell], float]

_SMOOTHED = "smoothgrad"


def scores_of(table: str, blurs: Sequence[float], with_rivals: bool = False) -> dict[str, Score]:
    """Return the names of the scores in a table's cells, and how they are read; all in percent."""
    if table == "table2":
        return {"insertion": lambda cell: 100 * cell["insertion"], "deletion": lambda cell: 100 * cell["deletion"]}
    names = ("auc", "between", "pointing") if with_rivals else ("auc", "pointing")
    plain = {name: _score_of(name) for name in names}
    return plain | {f"{name}, blur {blur}": _score_of(name, str(blur)) for blur in blurs for name in names}


def _score_of(name: str, blur: str | None = None) -> Score:
    key = "hit" if name == "pointing" else name
    return lambda cell: 100.0 * (cell if blur is None else cell["blurred"][blur])[key]


def summarize_rows(results: Results, scores: Mapping[str, Score]) -> list[dict[str, Any]]:
    """Return for each row: its name; method -> score -> mean, deviation, gain over dense, each image; and the rest.

    Differences are between the same images. 'versus_smoothgrad' compares with the original network's SmoothGrad map of
    the same images, at the noise at which its mean is the best. 'average' is over the methods that are not SmoothGrad.
    """
    best = {name: _best_smoothed(results, score, name) for name, score in scores.items()}
    return [_summarize_row(results, row, scores, best) for row in results.rows]


def _summarize_row(
    results: Results, row: str, scores: Mapping[str, Score], best: Mapping[str, str | None]
) -> dict[str, Any]:
    methods: dict[str, Any] = {}
    for method in results.methods:
        cells = _cells(results, row, method)
        if not cells:
            continue
        good = _good(results, row, method)
        methods[method] = {
            "num_images": len(good),
            "num_zero": sum(cell.get("is_zero", False) for cell in good.values()),
            "errors": sorted({cell["error"] for cell in cells.values() if "error" in cell}),
            "kept": fmean(cell["is_kept"] for cell in good.values()) if good else None,
            "pruned": fmean(cell.get("sparsity", 0.0) for cell in good.values()) if good else None,
            "images": sorted(good),
            "scores": {
                name: _describe(good, score, _good(results, "original", method), _smoothed(results, best[name]))
                for name, score in scores.items()
                if good
            },
        }
    seconds = [value for (name, _), value in results.seconds.items() if name == row]
    return {
        "row": row,
        "methods": methods,
        "average": {name: _average(results, row, score) for name, score in scores.items()},
        "seconds": fmean(seconds) if seconds else None,
    }


def _describe(
    cells: Mapping[int, Cell], score: Score, dense: Mapping[int, Cell], smoothed: Mapping[int, Cell]
) -> dict[str, Any]:
    values = {image: score(cell) for image, cell in cells.items()}
    found: dict[str, Any] = {
        "mean": fmean(values.values()),
        "deviation": standard_deviation(list(values.values())),
        "per_image": [values[image] for image in sorted(values)],
    }
    for name, others in (("gain", dense), ("versus_smoothgrad", smoothed)):
        shared = [image for image in values if image in others]
        if shared:
            theirs = [score(others[image]) for image in shared]
            found[name] = asdict(paired_difference([values[image] for image in shared], theirs))
    return found


def _average(results: Results, row: str, score: Score) -> dict[str, Any] | None:
    """Return the mean over methods of each image's score and gain over dense, where every method has one.

    None where there are no such images: a mean over fewer methods could not be compared with that of another row.
    """
    methods = [method for method in results.methods if not method.startswith(_SMOOTHED)]
    ours, dense = ([_good(results, name, method) for method in methods] for name in (row, "original"))
    shared = [image for image in (ours[0] if ours else ()) if all(image in cells for cells in (*ours, *dense))]
    if not shared:
        return None
    values, theirs = ([fmean(score(cells[image]) for cells in part) for image in shared] for part in (ours, dense))
    return {"mean": fmean(values), "num_methods": len(methods), "gain": asdict(paired_difference(values, theirs))}


def _best_smoothed(results: Results, score: Score, name: str) -> str | None:
    dense = {m: _good(results, "original", m) for m in results.methods if m.startswith(_SMOOTHED)}
    means = {method: fmean(score(cell) for cell in cells.values()) for method, cells in dense.items() if cells}
    sign = -1 if name == "deletion" else 1
    return max(means, key=lambda method: sign * means[method]) if means else None


def _smoothed(results: Results, method: str | None) -> Mapping[int, Cell]:
    return {} if method is None else _good(results, "original", method)


def _good(results: Results, row: str, method: str) -> dict[int, Cell]:
    """Return the cells that hold scores, image -> cell."""
    return {image: cell for image, cell in _cells(results, row, method).items() if "error" not in cell}


def _cells(results: Results, row: str, method: str) -> dict[int, Cell]:
    return {image: cell for (name, image, used), cell in results.cells.items() if name == row and used == method}

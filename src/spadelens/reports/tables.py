"""Benchmark tables as Markdown, and as JSON with the scores of every image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spadelens.evaluation.bench_context import Row
from spadelens.evaluation.summary import scores_of, summarize_rows
from spadelens.evaluation.tables import BLURS, Results

_CERTAIN = 0.01
_TITLES = {
    "auc": "Pixel AUC, %",
    "pointing": "Pointing game, % of hits",
    "between": "AUC of the deciding patch against the other patch, %",
    "insertion": "Insertion, % (higher is better)",
    "deletion": "Deletion, % (lower is better)",
}
_ABOUT = (
    f"Parentheses show the mean difference from the original model on the same images; a star marks p < {_CERTAIN} in "
    "the paired permutation test. *Average* is over all methods except SmoothGrad. *Kept*: share of images whose "
    "explained class the pruned model still predicts, for the first method. *Pruned*: share of all weights of "
    "convolutions and linear layers. *Seconds* are per image, over all methods; a trace that several rows use counts "
    "in the first of them."
)


def table_json(results: Results, rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with all its numbers, to be written as JSON."""
    described = {row.name: {"about": row.about, "is_control": row.is_control} for row in rows}
    with_rivals = any("between" in cell for cell in results.cells.values())
    scores = scores_of(results.table, BLURS, with_rivals)
    summary = summarize_rows(results, scores)
    return {
        "format": "spadelens-table-1",
        "table": results.table,
        **about,
        "methods": list(results.methods),
        "scores": list(scores),
        "images": list(results.images),
        "rows": [{**row, **described[row["row"]]} for row in summary],
    }


def table_markdown(listing: Mapping[str, Any]) -> str:
    """Return the tables of `table_json` as Markdown."""
    parts = [table_of(listing, name) for name in listing["scores"] if not name.startswith("pointing, ")]
    return "\n\n".join([_ABOUT, *parts, *_errors(listing)]) + "\n"


def first_table(listing: Mapping[str, Any]) -> str:
    """Return the table of the first score of `table_json` as Markdown, followed by the missing entries."""
    return "\n\n".join([table_of(listing, listing["scores"][0]), *_errors(listing)])


def table_of(listing: Mapping[str, Any], score: str) -> str:
    """Return the table of one score."""
    methods = [method for method in listing["methods"] if any(method in row["methods"] for row in listing["rows"])]
    average = "average" if not any(m.startswith("smoothgrad") for m in methods) else "average without smoothgrad"
    headers = ["", "images", *(_short(method) for method in methods), average, "kept", "pruned", "seconds"]
    lines = [_line(headers), _line(["---"] * len(headers))]
    for row in listing["rows"]:
        found = [row["methods"].get(method, {}).get("scores", {}).get(score) for method in methods]
        first = next((row["methods"][method] for method in methods if row["methods"].get(method)), None)
        if first is None:
            continue
        lines.append(
            _line(
                [
                    f"*control:* {row['row']}" if row["is_control"] else row["row"],
                    str(first["num_images"]),
                    *(_cell(one, row["row"]) for one in found),
                    _cell(row["average"][score], row["row"]),
                    "" if first["kept"] is None else f"{first['kept']:.0%}",
                    "" if not first["pruned"] else f"{first['pruned']:.0%}",
                    "" if row["seconds"] is None else f"{row['seconds']:.1f}",
                ]
            )
        )
    name, _, blur = score.partition(", blur ")
    title = _TITLES[name].replace(",", f" of maps with a blur of {blur},") if blur else _TITLES[name]
    return "\n".join([f"**{title}**", "", *lines])


def _cell(found: Mapping[str, Any] | None, row: str) -> str:
    if found is None:
        return ""
    gain = found.get("gain")
    if gain is None or row == "original":
        return f"{found['mean']:.1f}"
    return f"{found['mean']:.1f} ({gain['mean']:+.1f}{'*' if gain['p_value'] < _CERTAIN else ''})"


def _errors(listing: Mapping[str, Any]) -> list[str]:
    """Return the entries that are not available and the maps that are zero everywhere."""
    cells = [(row["row"], method, one) for row in listing["rows"] for method, one in row["methods"].items()]
    errors = {f"{row}: {error}" for row, _, one in cells for error in one["errors"]}
    zeros = [
        f"{row}, {_short(method)}: {one['num_zero']} of {one['num_images']}"
        for row, method, one in cells
        if one["num_zero"]
    ]
    parts = (("Not available:", sorted(errors)), ("Maps that are zero everywhere and carry no information:", zeros))
    return [f"{title}\n\n" + "\n".join(f"- {line}" for line in lines) for title, lines in parts if lines]


def _short(method: str) -> str:
    name, _, settings = method.partition(":")
    if name != "smoothgrad":
        return name
    noise = next((part.partition("=")[2] for part in settings.split(",") if part.startswith("noise_std=")), "0.25")
    return f"smoothgrad {noise}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

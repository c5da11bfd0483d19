"""How facets show themselves in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spadelens import snippets
from spadelens.pictures import overlap_picture

if TYPE_CHECKING:
    from spadelens.facets.facets import Facet, FacetReport

_MOST_FACETS, _MOST_MEMBERS = 12, 5


def facets_html(found: FacetReport) -> str:
    """Return what a notebook shows: a row for each facet, and the overlaps of all samples in their order."""
    shown = found.facets[:_MOST_FACETS]
    left_out = len(found.facets) - len(shown)
    order = [member for facet in found.facets for member in facet.members]
    groups = f"{len(found.facets)} groups of {len(order)} samples are separated no better than those of shuffled traces"
    said = f"{found.verdict} of {len(order)} samples" if found.is_distinct else f"{found.verdict}: {groups}"
    return snippets.block(
        f"Facets of class {found.target}",
        snippets.line(said),
        snippets.table(
            ("facet", "samples", "pruned", "most typical samples", "connection kept most"),
            [_row(number, facet) for number, facet in enumerate(shown)],
        ),
        snippets.line(f"and {left_out} more facets") if left_out else "",
        snippets.pictures([overlap_picture(found.overlap, order)], ["overlap of every two samples, facet by facet"]),
    )


def _row(number: int, facet: Facet) -> tuple[str, ...]:
    typical = ", ".join(map(str, facet.members[:_MOST_MEMBERS]))
    more = ", ..." if len(facet.members) > _MOST_MEMBERS else ""
    best = facet.connections[0] if facet.connections else None
    connection = "" if best is None else f"{snippets.shortened(best.layer, 60)}, {best.input} to {best.output}"
    return str(number), str(len(facet.members)), f"{facet.trace.report.sparsity:.1%}", f"{typical}{more}", connection

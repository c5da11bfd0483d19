"""How a diagnosis shows itself in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spadelens import snippets

if TYPE_CHECKING:
    from spadelens.attribution.diagnosis import Diagnosis

_MOST_METHODS, _MOST_LAYERS = 30, 10


def diagnosis_html(found: Diagnosis) -> str:
    """Return what a notebook shows: a row for each method, and the layers that traces cannot prune."""
    rows = [
        (snippets.shortened(one.method, 80), one.verdict.value, f"{one.seconds:.1f}", one.reason)
        for one in found.methods[:_MOST_METHODS]
    ]
    refused = list(found.layers.refused.items())
    return snippets.block(
        f"Diagnosis of {len(found.methods)} methods for class {found.target}",
        snippets.table(("method", "verdict", "seconds", "reason"), rows),
        _more(len(found.methods), _MOST_METHODS, "methods"),
        snippets.line(f"A trace can prune {len(found.layers.prunable)} of {_num_layers(found)} layers."),
        snippets.table(("layer", "why a trace cannot prune it"), refused[:_MOST_LAYERS]) if refused else "",
        _more(len(refused), _MOST_LAYERS, "layers"),
    )


def _num_layers(found: Diagnosis) -> int:
    return len(found.layers.prunable) + len(found.layers.refused)


def _more(count: int, shown: int, what: str) -> str:
    return snippets.line(f"and {count - shown} more {what}") if count > shown else ""

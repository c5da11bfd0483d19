"""Writes the matrix of methods and architectures into docs/models.md.

python scripts/write_models_page.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- begin: scripts/write_models_page.py -->\n", "<!-- end -->\n"


def main() -> None:
    import torch
    from references.architectures import ARCHITECTURES  # type: ignore[import-not-found]
    from references.matrix import diagnose, kind_of_reason  # type: ignore[import-not-found]

    from spadelens.methods.registry import METHODS

    torch.set_num_threads(1)
    lines = [f"| architecture | {' | '.join(f'`{name}`' for name in METHODS)} |", "|---" * (len(METHODS) + 1) + "|"]
    reasons: dict[str, str] = {}
    for architecture in ARCHITECTURES:
        cells = []
        for _, found in diagnose(architecture):
            note = ""
            if found.reason:
                kind = kind_of_reason(found.reason)
                reasons.setdefault(kind, f"[{len(reasons) + 1}]")
                note = f" {reasons[kind]}"
            cells.append(f"{found.verdict.value}{note}")
        lines.append(f"| `{architecture}` | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    notes = [f"- {number} {kind}" for kind, number in reasons.items()]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    table = "\n".join([*lines, "", *notes, ""])
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

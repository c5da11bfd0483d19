"""Writes the tables that benchmarks/tables.py and benchmarks/ablations.py have filled to docs/evidence/.

python scripts/write_evidence.py tables

It leaves the pages numbers-*.md as they are: they hold the standard errors and are written by hand. Where numbers
change, change them there too, and run scripts/draw_evidence.py, which reads them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from spadelens.reports.tables import table_markdown

NAMES = {"resnet20": "ResNet-20", "mobilenet": "MobileNet", "demo": "Demo network"}
TITLES = {
    "tables/table1": "finding the planted patch",
    "tables/table2": "insertion and deletion on clean photos",
    "tables/table1-two": "two patches, of which one decides",
    "tables/table1-small": "small patches",
    "tables/table1-faint": "faint patches",
    "transfer/table2": "schedules tuned for AUC, on clean photos",
    "rules/table1": "methods with rules of their own",
    "rules/table2": "methods with rules of their own, by insertion and deletion",
    "lime/table1": "LIME",
    "draws/table1": "SmoothGrad with 100 draws",
    "ablations/ablations": "one setting varied at a time",
}
DOCS = Path(__file__).parent.parent / "docs" / "evidence"


def main(folder: Path) -> None:
    DOCS.mkdir(exist_ok=True)
    for network, name in NAMES.items():
        for place, title in TITLES.items():
            kind, _, table = place.partition("/")
            file = folder / f"{kind}-{network}" / f"{table}.json"
            if file.exists():
                text = f"# {name}: {title}\n\n{table_markdown(json.loads(file.read_text()))}"
                (DOCS / f"{network}-{kind}-{table}.md").write_text(text)
                print(DOCS / f"{network}-{kind}-{table}.md")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

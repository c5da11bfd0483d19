"""Names from strangers' files reach neither a terminal nor a spreadsheet as commands."""

import csv
import io
from pathlib import Path

import pytest

from spadelens.cli import console
from spadelens.errors import InputError, SpadeError
from spadelens.models import LoadedModel, Preprocessing
from spadelens.plain_text import csv_cell, printable
from spadelens.reports.summary import maps_table
from spadelens.text_files import displayable, shown, table_lines

EVIL = "\x1b]0;owned\x07\x1b[31mcat\x9b\u202e"


def is_harmless(text: str) -> bool:
    return not set(text) & set("\x1b\x07\x9b\u202e\r")


def test_escapes_are_replaced_wherever_names_are_printed() -> None:
    from torch import nn

    loaded = LoadedModel("m", nn.Identity(), Preprocessing((8, 8), (0.5,), (0.5,)), (EVIL,))
    texts = (
        printable(EVIL),
        str(SpadeError(EVIL)),
        displayable(EVIL),
        shown(Path(EVIL)),
        loaded.class_name(0),
        console.escape(EVIL),
    )
    assert all(map(is_harmless, texts))
    assert all("cat" in text for text in texts)
    assert printable("käse 猫 ✓") == "käse 猫 ✓"


@pytest.mark.parametrize("name", ["=cmd|'/c calc'!A1", "+1", "-1", "@x", " =1", "\t=1"])
def test_cells_are_no_formulas(name: str) -> None:
    assert csv_cell(name) == f"'{name}"
    arm = {"signed": -1.0, "absolute": 1.0}
    unit = {"name": name, "value": -2.0, "is_special": False, "is_unknown": False, "original": arm, "trace": arm}
    table = maps_table({"map_values": [unit], "finding": {"units": [0]}})
    (row,) = csv.DictReader(io.StringIO(table))
    assert row["name"] == f"'{name}" and float(row["value"]) == -2.0 and float(row["original"]) == -1.0
    assert (row["region"], row["special"]) == ("1", "0")


def test_cells_that_are_names_stay() -> None:
    assert [csv_cell(name) for name in ("cat", "a=b", "", "1")] == ["cat", "a=b", "", "1"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_are_found(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "t.csv"
    rows = [["age", "pay, gross" if separator != "," else "pay", "x"], ["1", "2.5", "0"], ["3", "4", "5"]]
    file.write_text("\n" + "\n".join(separator.join(row) for row in rows) + "\n")
    lines = list(table_lines(file))
    assert [list(line.cells.values()) for line in lines] == rows
    assert [line.line for line in lines] == [2, 3, 4]


def test_a_table_without_a_header_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("1,2.5\n3,4\n")
    with pytest.raises(InputError, match="names of the columns above it"):
        list(table_lines(tmp_path / "t.csv"))

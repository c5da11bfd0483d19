"""Reads lines of text files and rows of tables, and says what is wrong with them."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TextIO

from spadelens.errors import InputError
from spadelens.files import check_readable
from spadelens.plain_text import printable

MOST_CHARACTERS = 100_000  # of a line
_SEPARATORS = (",", ";", "\t", "|")  # of several that fit equally well, the first
_LARGEST = 3.4e38  # of a float32


@dataclass(frozen=True)
class TableLine:
    """A row of a table, by the names of its columns; its line is counted from 1, which is the header."""

    file: Path
    line: int
    cells: Mapping[str, str]


def table_lines(file: Path) -> Generator[TableLine, None, None]:
    """Yield the lines of a table that are not empty: the header first, whose cells are its own names, then the rows.

    Raises:
        InputError: The file cannot be read, is not a table with a header, or a row has another number of cells.
    """
    with closing(_records(file)) as records:
        number, cells = next(records, (0, []))
        header = _check_header(file, cells)
        yield TableLine(file, number, dict(zip(header, header, strict=True)))
        for number, cells in records:
            if len(cells) != len(header):
                raise InputError(
                    f"Line {number} of {shown(file)} has {len(cells)} cells: expected {len(header)}, as in its header."
                )
            yield TableLine(file, number, dict(zip(header, cells, strict=True)))


def numbers(given: TableLine, names: Sequence[str]) -> tuple[float, ...]:
    """Return the numbers in the columns `names` of a row.

    Raises:
        InputError: A column is missing, or a cell does not hold a finite number.
    """
    missing = [name for name in names if name not in given.cells]
    if missing:
        raise InputError(
            f"The table {shown(given.file)} has no column {missing[0]!r}: the model reads {len(names)} columns, "
            f"{len(missing)} of them missing. The first line has to name the columns."
        )
    return tuple(_number(given, name) for name in names)


def text_lines(file: Path) -> Generator[str, None, None]:
    """Yield the lines of a text file in UTF-8, with or without a byte order mark.

    Raises:
        InputError: There is no such file, it is not text, or a line is longer than 100,000 characters.
    """
    try:
        if file.is_dir():
            raise InputError(f"{shown(file)} is a folder: name the files in it.")
        check_readable(file)
        with file.open(encoding="utf-8-sig") as opened:
            yield from _limited(opened, file)
    except FileNotFoundError as error:
        raise InputError(f"There is no file at {shown(file)}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(file)} is not text in UTF-8: save it in that encoding.") from error
    except OSError as error:
        raise InputError(f"Cannot read {shown(file)}: {error.strerror or error}.") from error


def shown(file: Path) -> str:
    """Return how a message names a file."""
    return repr(displayable(str(file)))


def displayable(file_name: str) -> str:
    """Return a file's name with replacement characters where it is not valid text, or would steer a terminal."""
    return printable(os.fsencode(file_name).decode("utf-8", "replace"))


def _records(file: Path) -> Generator[tuple[int, list[str]], None, None]:
    """Yield the rows of a table that are not empty, its header first, each with the number of its first line."""
    with closing(text_lines(file)) as lines:
        before, first = _first_line(lines)
        reader = csv.reader(chain([first], lines), strict=True, delimiter=_separator(first))
        start = before + 1
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield start, cells
                start = before + reader.line_num + 1
        except csv.Error as error:
            raise InputError(
                f"Cannot read line {before + reader.line_num} of {shown(file)} as a table: {error}."
            ) from error


def _first_line(lines: Iterator[str]) -> tuple[int, str]:
    """Return the first line that is not blank, and how many lines are before it."""
    for number, line in enumerate(lines):
        if line.strip():
            return number, line
    return 0, ""


def _separator(header: str) -> str:
    """Return what separates the columns of a table: a comma, unless the header has more of something else."""
    return max(_SEPARATORS, key=lambda sign: len(next(csv.reader([header], delimiter=sign), [])))


def _check_header(file: Path, cells: Sequence[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if not header:
        raise InputError(f"There is no header in {shown(file)}: the first line of a table names its columns.")
    if all(map(_is_number, header)):
        raise InputError(
            f"The first line of {shown(file)} holds numbers: put a line with the names of the columns above it."
        )
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"The table {shown(file)} has several columns named {twice!r}: expected different names.")
    return header


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(given: TableLine, name: str) -> float:
    cell = given.cells[name].strip()
    where = f"line {given.line}, column {name!r} of {shown(given.file)}"
    if not cell:
        raise InputError(f"There is no value in {where}: expected a number.")
    try:
        value = math.nan if "_" in cell else float(cell)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST:
        raise InputError(f"Cannot use {cell[:40]!r} in {where}: expected a finite number.")
    return value


def _limited(opened: TextIO, file: Path) -> Iterator[str]:
    number = 0
    while line := opened.readline(MOST_CHARACTERS + 1):
        number += 1
        if "\0" in line:
            raise InputError(f"{shown(file)} is not text: line {number} holds a zero byte.")
        if len(line) > MOST_CHARACTERS:
            raise InputError(f"Line {number} of {shown(file)} has more than {MOST_CHARACTERS:,} characters.")
        yield line

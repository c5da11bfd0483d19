"""The files of a command as subjects: photos, lines of texts, rows of tables."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeAlias, TypeVar

from PIL import Image

from spadelens.errors import InputError
from spadelens.extract.presets import Kind
from spadelens.models import Loaded, LoadedModel, LoadedTable, LoadedText
from spadelens.photos import read_photo
from spadelens.present.subjects import (
    AnySubject,
    RowSubject,
    Subject,
    TextSubject,
    check_kind,
    displayable,
    unique_names,
)

MOST_LINES, MOST_CHARACTERS = 100, 100_000
_LARGEST = 3.4e38  # of a float32
_KINDS: Mapping[str, Kind] = {".txt": "text", ".csv": "row"}
_LINE = re.compile(r"(?P<file>.+\.(txt|csv)):(?P<line>\d{1,9})", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, eq=False)
class PhotoFile:
    """A photo as it was read."""

    file: Path
    picture: Image.Image


@dataclass(frozen=True)
class TextLine:
    """A line of a text file, counted from 1."""

    file: Path
    line: int
    text: str


@dataclass(frozen=True)
class TableLine:
    """A row of a table, by the names of its columns; its line is counted from 1, which is the header."""

    file: Path
    line: int
    cells: Mapping[str, str]


Given: TypeAlias = PhotoFile | TextLine | TableLine
Line = TypeVar("Line", TextLine, TableLine)


def read_inputs(files: Sequence[Path]) -> list[Given]:
    """Return what the files hold: photos, every line of `.txt` files that is not empty, every row of `.csv` files.

    `reviews.txt:3` stands for line 3 alone; in a table the line of the header is line 1.

    Raises:
        InputError: A file cannot be read or has too many lines; PhotoError: it is no picture.
    """
    given: list[Given] = []
    for path in files:
        file, line = _split(path)
        kind = _kind(file)
        if kind == "photo":
            given.append(PhotoFile(path, read_photo(path)))
        else:
            given += _read_lines(file, line) if kind == "text" else _read_table(file, line)
    return given


def make_subjects(loaded: Loaded, given: Sequence[Given]) -> list[AnySubject]:
    """Return what the model sees of what was read, each with a name of its own.

    Raises:
        ModelSpecError: The model reads something else.
        InputError: A text has no token or too many; a table lacks a column, or a cell holds no number.
    """
    names = unique_names(tuple(_path(one) for one in given))
    return [_subject(loaded, one, name) for one, name in zip(given, names, strict=True)]


def unused_columns(loaded: Loaded, given: Sequence[Given]) -> tuple[str, ...]:
    """Return the columns of the tables that the model does not read, in their order."""
    known = set(loaded.feature_names) if isinstance(loaded, LoadedTable) else set()
    return tuple(dict.fromkeys(n for one in given if isinstance(one, TableLine) for n in one.cells if n not in known))


def _subject(loaded: Loaded, given: Given, name: str) -> AnySubject:
    label = displayable(str(given.file) if isinstance(given, PhotoFile) else f"{given.file}:{given.line}")
    if isinstance(given, PhotoFile) and isinstance(loaded, LoadedModel):
        return Subject(name, label, loaded.preprocessing.crop(given.picture))
    if isinstance(given, TextLine) and isinstance(loaded, LoadedText):
        try:
            return TextSubject(name, label, given.text, loaded.tokenizer.encode(given.text))
        except InputError as error:
            raise InputError(f"Cannot explain {label!r}: {error}") from error
    if isinstance(given, TableLine) and isinstance(loaded, LoadedTable):
        return RowSubject(name, label, _numbers(given, loaded.feature_names))
    check_kind(loaded, _kind(given.file), label)
    raise AssertionError("a kind that fits has been returned above")


def _split(path: Path) -> tuple[Path, int | None]:
    """Return the file that is meant, and the line of it."""
    found = _LINE.fullmatch(str(path))
    if found is None or path.exists():
        return path, None
    return Path(found["file"]), int(found["line"])


def _kind(file: Path) -> Kind:
    return _KINDS.get(file.suffix.lower(), "photo")


def _path(given: Given) -> Path:
    return given.file if isinstance(given, PhotoFile) else Path(f"{given.file.stem}-{given.line}.x")


def _read_lines(file: Path, wanted: int | None) -> list[TextLine]:
    found: list[TextLine] = []
    number = 0
    with closing(_lines(file)) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip() and wanted in (None, number):
                found.append(TextLine(file, number, line.strip()))
            if number == wanted or len(found) > MOST_LINES:
                break
    return _check_found(file, found, wanted, number, "text")


def _read_table(file: Path, wanted: int | None) -> list[TableLine]:
    found: list[TableLine] = []
    with closing(_records(file)) as records:
        number, cells = next(records, (0, []))
        header = _check_header(file, cells)
        if wanted == number:
            raise InputError(f"Line {wanted} of {_shown(file)} names the columns: the rows are below it.")
        for number, cells in records:
            if wanted not in (None, number):
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"Line {number} of {_shown(file)} has {len(cells)} cells: expected {len(header)}, as in its header."
                )
            found.append(TableLine(file, number, dict(zip(header, cells, strict=True))))
            if number == wanted or len(found) > MOST_LINES:
                break
    return _check_found(file, found, wanted, number, "row")


def _records(file: Path) -> Generator[tuple[int, list[str]], None, None]:
    """Yield the rows of a table that are not empty, its header first, each with the number of its first line."""
    with closing(_lines(file)) as lines:
        reader = csv.reader(lines, strict=True)
        start = 1
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield start, cells
                start = reader.line_num + 1
        except csv.Error as error:
            raise InputError(f"Cannot read line {reader.line_num} of {_shown(file)} as a table: {error}.") from error


def _check_header(file: Path, cells: Sequence[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if len(header) == 1 and ";" in header[0]:
        raise InputError(f"The columns of {_shown(file)} are separated by semicolons: expected commas.")
    if not header:
        raise InputError(f"There is no header in {_shown(file)}: the first line of a table names its columns.")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"The table {_shown(file)} has several columns named {twice!r}: expected different names.")
    return header


def _numbers(given: TableLine, names: Sequence[str]) -> tuple[float, ...]:
    missing = [name for name in names if name not in given.cells]
    if missing:
        raise InputError(
            f"The table {_shown(given.file)} has no column {missing[0]!r}: the model reads {len(names)} columns, "
            f"{len(missing)} of them missing. The first line has to name the columns."
        )
    return tuple(_number(given, name) for name in names)


def _number(given: TableLine, name: str) -> float:
    cell = given.cells[name].strip()
    where = f"line {given.line}, column {name!r} of {_shown(given.file)}"
    if not cell:
        raise InputError(f"There is no value in {where}: expected a number.")
    try:
        value = math.nan if "_" in cell else float(cell)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST:
        raise InputError(f"Cannot use {cell[:40]!r} in {where}: expected a finite number.")
    return value


def _check_found(file: Path, found: list[Line], wanted: int | None, last: int, what: str) -> list[Line]:
    if wanted is not None and not found:
        raise InputError(
            f"There is no {what} in line {wanted} of {_shown(file)}: the last line that was read is {last}."
        )
    if not found:
        raise InputError(f"There is no {what} in {_shown(file)}: expected at least one.")
    if len(found) > MOST_LINES:
        example = _shown(Path(f"{file}:{found[0].line}"))
        raise InputError(
            f"Cannot explain more than {MOST_LINES} lines of {_shown(file)} at a time: name lines, as in {example}."
        )
    return found


def _lines(file: Path) -> Generator[str, None, None]:
    """Yield the lines of a text file in UTF-8, with or without a byte order mark."""
    try:
        if file.is_dir():
            raise InputError(f"{_shown(file)} is a folder: name the files in it.")
        with file.open(encoding="utf-8-sig") as opened:
            yield from _limited(opened, file)
    except FileNotFoundError as error:
        raise InputError(f"There is no file at {_shown(file)}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{_shown(file)} is not a text in UTF-8: save it in that encoding.") from error
    except OSError as error:
        raise InputError(f"Cannot read {_shown(file)}: {error.strerror or error}.") from error


def _limited(opened: TextIO, file: Path) -> Iterator[str]:
    number = 0
    while line := opened.readline(MOST_CHARACTERS + 1):
        number += 1
        if "\0" in line:
            raise InputError(f"{_shown(file)} is not a text: line {number} holds a zero byte.")
        if len(line) > MOST_CHARACTERS:
            raise InputError(f"Line {number} of {_shown(file)} has more than {MOST_CHARACTERS:,} characters.")
        yield line


def _shown(file: Path) -> str:
    return repr(displayable(str(file)))

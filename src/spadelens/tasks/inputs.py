"""The files of a command as subjects: photos, lines of texts, rows of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from spadelens.errors import InputError
from spadelens.kinds import Kind
from spadelens.models import Loaded, LoadedModel, LoadedTable, LoadedText
from spadelens.photos import check_photo, read_photo
from spadelens.tasks.paths import expand_paths, split_line
from spadelens.tasks.subjects import (
    PhotoSubject,
    RowSubject,
    Subject,
    TextSubject,
    check_kind,
    unique_names,
)
from spadelens.text_files import TableLine, displayable, numbers, shown, table_lines, text_lines

MOST_LINES = 100
_KINDS: Mapping[str, Kind] = {".txt": "text", ".csv": "row", ".tsv": "row"}


@dataclass(frozen=True, eq=False)
class PhotoFile:
    """A photo whose header was read; its pixels are read when the model is there, one photo at a time."""

    file: Path


@dataclass(frozen=True)
class TextLine:
    """A line of a text file, counted from 1."""

    file: Path
    line: int
    text: str


Given: TypeAlias = PhotoFile | TextLine | TableLine
Line = TypeVar("Line", TextLine, TableLine)


def read_inputs(files: Sequence[Path]) -> list[Given]:
    """Return what the files hold: photos, every line of `.txt` files that is not empty, every row of `.csv` files.

    A folder stands for the photos in it, a pattern for the files that match it; see `expand_paths`. `reviews.txt:3`
    stands for line 3 alone; the header of a table is line 1.

    Raises:
        InputError: A file cannot be read or has too many lines; PhotoError: it is not a picture.
    """
    given: list[Given] = []
    for path in expand_paths(files):
        file, line = split_line(path)
        kind = _kind(file)
        if kind == "photo":
            check_photo(path)
            given.append(PhotoFile(path))
        else:
            given += _read_lines(file, line) if kind == "text" else _read_table(file, line)
    return given


def make_subjects(loaded: Loaded, given: Sequence[Given]) -> list[Subject]:
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


def _subject(loaded: Loaded, given: Given, name: str) -> Subject:
    label = displayable(str(given.file) if isinstance(given, PhotoFile) else f"{given.file}:{given.line}")
    if isinstance(given, PhotoFile) and isinstance(loaded, LoadedModel):
        return PhotoSubject(name, label, loaded.preprocessing.crop(read_photo(given.file)))
    if isinstance(given, TextLine) and isinstance(loaded, LoadedText):
        try:
            return TextSubject(name, label, given.text, loaded.tokenizer.encode(given.text))
        except InputError as error:
            raise InputError(f"Cannot explain {label!r}: {error}") from error
    if isinstance(given, TableLine) and isinstance(loaded, LoadedTable):
        return RowSubject(name, label, numbers(given, loaded.feature_names))
    check_kind(loaded, _kind(given.file), label)
    raise AssertionError("a kind that fits has been returned above")


def _kind(file: Path) -> Kind:
    return _KINDS.get(file.suffix.lower(), "photo")


def _path(given: Given) -> Path:
    return given.file if isinstance(given, PhotoFile) else Path(f"{given.file.stem}-{given.line}.x")


def _read_lines(file: Path, wanted: int | None) -> list[TextLine]:
    found: list[TextLine] = []
    number = 0
    with closing(text_lines(file)) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip() and wanted in (None, number):
                found.append(TextLine(file, number, line.strip()))
            if number == wanted or len(found) > MOST_LINES:
                break
    return _check_found(file, found, wanted, number, "text")


def _read_table(file: Path, wanted: int | None) -> list[TableLine]:
    found: list[TableLine] = []
    with closing(table_lines(file)) as lines:
        last = next(lines)
        if wanted == last.line:
            raise InputError(f"Line {wanted} of {shown(file)} names the columns: the rows are below it.")
        for last in lines:
            if wanted in (None, last.line):
                found.append(last)
            if last.line == wanted or len(found) > MOST_LINES:
                break
    return _check_found(file, found, wanted, last.line, "row")


def _check_found(file: Path, found: list[Line], wanted: int | None, last: int, what: str) -> list[Line]:
    if wanted is not None and not found:
        raise InputError(
            f"There is no {what} in line {wanted} of {shown(file)}: the last line that was read is {last}."
        )
    if not found:
        below = " below the first line, which names the columns" if what == "row" else ""
        raise InputError(f"There is no {what} in {shown(file)}{below}: expected at least one.")
    if len(found) > MOST_LINES:
        example = shown(Path(f"{file}:{found[0].line}"))
        raise InputError(
            f"Cannot explain more than {MOST_LINES} lines of {shown(file)} at a time: name lines, as in {example}."
        )
    return found

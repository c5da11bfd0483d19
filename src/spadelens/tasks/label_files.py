"""Reads files that say which class photos, texts or rows belong to, and finds what they say of an input."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from spadelens.errors import InputError
from spadelens.files import check_readable
from spadelens.tasks.paths import split_line
from spadelens.text_files import shown, table_lines

_FILES = ("file", "filename", "path", "image")
_CLASSES = ("label", "class", "class_index", "class_name", "target")
_MOST_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Label:
    """The class of an input as a file of the user's puts it; no model has been asked yet whether it has such a class.

    Attributes:
        text: Its name, or its number as text; None if only `index` is known.
        index: Its number; None if only `text` is known. Where both are known, they have to agree.
        source: Where that is written, for messages.
    """

    text: str | None
    index: int | None
    source: str


@dataclass(frozen=True)
class Entry:
    """What a file says of one input.

    Attributes:
        file: The input as it is named there.
        label: Its class; None where the file leaves it open.
    """

    file: str
    label: Label | None


_OfLine: TypeAlias = tuple[Entry, int | None]
_Endings: TypeAlias = Mapping[tuple[str, ...], Sequence[_OfLine]]


@dataclass(frozen=True, eq=False)
class LabelFile:
    """A file with the classes of inputs.

    Attributes:
        file: Where it is.
        entries: What it says, in its order.
    """

    file: Path
    entries: tuple[Entry, ...]

    def find(self, inputs: Sequence[tuple[Path, int | None]]) -> list[tuple[Entry, ...]]:
        """Return what is said of each input, a file and a line of it; nothing where it is not listed.

        An entry names a file relative to the folder of this file, or else to the current one. Where neither leads to a
        file, it counts for an input whose path ends with it.

        Raises:
            InputError: It is the end of the paths of several inputs.
        """
        wanted = {_normal(path.name) for path, _ in inputs}
        placed: dict[str, list[_OfLine]] = {}
        ending: dict[tuple[str, ...], list[_OfLine]] = {}  # by the end of the path that they are
        for entry in self.entries:
            path, line = split_line(Path(entry.file))
            if _normal(path.name) in wanted:
                place = self._place(path)
                if place is None:
                    ending.setdefault(tuple(map(_normal, path.parts)), []).append((entry, line))
                else:
                    placed.setdefault(place, []).append((entry, line))
        places = [_location(path) for path, _ in inputs]
        self._check_endings({place for place in places if place not in placed}, ending)
        return [
            _of_line(placed[place] if place in placed else _ending(place, ending), line)
            for place, (_, line) in zip(places, inputs, strict=True)
        ]

    def _place(self, path: Path) -> str | None:
        """Return where the file is that `path` names, if there is one."""
        found = (base / path for base in (self.file.parent, Path()) if os.path.lexists(base / path))
        return next(map(_location, found), None)

    def _check_endings(self, places: set[str], ending: _Endings) -> None:
        owners: dict[str, str] = {}
        for place in sorted(places):
            for entry, _ in _ending(place, ending):
                other = owners.setdefault(entry.file, place)
                if other != place:
                    raise InputError(
                        f"Cannot tell which input {_clipped(entry.file)} in {shown(self.file)} is: "
                        f"{shown(Path(other))} or {shown(Path(place))}. Write its path relative to that file."
                    )


def read_label_file(file: Path) -> LabelFile:
    """Return what a file says of inputs: a `.json` file, or a table with a column of files and one of classes.

    JSON is a list of objects with `file` and `class_index`, `class_name` or both, or maps files to names or numbers.
    The other names that a table's columns may have (`label`, `path`, ...) are understood there, too. An empty cell, or
    null, leaves a class open.

    Raises:
        InputError: It cannot be read, or holds something else.
    """
    entries = tuple(_json_entries(file) if file.suffix.lower() == ".json" else _table_entries(file))
    if not entries:
        raise InputError(f"There are no labels in {shown(file)}: expected at least one file with its class.")
    return LabelFile(file, entries)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, with keys that it has twice."""


def _json_entries(file: Path) -> Iterator[Entry]:
    content = _read_json(file)
    if isinstance(content, _Pairs):
        for number, (name, value) in enumerate(content, 1):
            where = f"entry {number} of {shown(file)}"
            yield Entry(_named(name, where), _label({"label": value}, ["label"], where))
        return
    if not isinstance(content, list):
        raise InputError(
            f"Cannot read labels from {shown(file)}: expected a list of objects with 'file' and 'class_index', or an "
            f"object that maps files to classes, not {_clipped(content)}."
        )
    for number, item in enumerate(content, 1):
        where = f"entry {number} of {shown(file)}"
        if not isinstance(item, _Pairs):
            raise InputError(
                f"Cannot use {where}: expected an object with 'file' and 'class_index', not {_clipped(item)}."
            )
        cells = dict(item)
        column, classes = _columns([key for key, _ in item], where)
        yield Entry(_named(cells[column], where), _label(cells, classes, where))


def _read_json(file: Path) -> Any:
    try:
        if file.is_dir():
            raise InputError(f"{shown(file)} is a folder: name the file with the labels in it.")
        check_readable(file)
        return json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_Pairs)
    except FileNotFoundError as error:
        raise InputError(f"There is no file at {shown(file)}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(file)} is not text in UTF-8: save it in that encoding.") from error
    except OSError as error:
        raise InputError(f"Cannot read {shown(file)}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown(file)} is not valid JSON: {error}. It may have been cut short.") from error


def _table_entries(file: Path) -> Iterator[Entry]:
    with closing(table_lines(file)) as lines:
        column, classes = _columns(list(next(lines).cells), f"the first line of {shown(file)}")
        for line in lines:
            where = f"line {line.line} of {shown(file)}"
            cells = {name: _cell(name, line.cells[name].strip(), where) for name in classes}
            yield Entry(_named(line.cells[column].strip(), where), _label(cells, classes, where))


def _cell(column: str, text: str, where: str) -> str | int | None:
    """Return what a cell of a table stands for."""
    if not text or _folded(column) != "class_index":
        return text or None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InputError(f"Cannot use {_clipped(text)} in {where}: expected the number of a class, counted from 0.")
    return int(text)


def _columns(names: Sequence[str], where: str) -> tuple[str, list[str]]:
    """Return which column names the files, and which one, or two that agree, the classes."""
    files = [name for name in names if _folded(name) in _FILES]
    if len(files) != 1:
        raise InputError(f"Cannot use {where}: expected one of {', '.join(_FILES)} to name the file, {_found(files)}.")
    classes = [name for name in names if _folded(name) in _CLASSES]
    if len(classes) != 1 and sorted(map(_folded, classes)) != ["class_index", "class_name"]:
        raise InputError(
            f"Cannot use {where}: expected one of {', '.join(_CLASSES)} to name the class, or both class_index and "
            f"class_name, {_found(classes)}."
        )
    return files[0], classes


def _found(names: Sequence[str]) -> str:
    return f"but found {' and '.join(names)}" if names else "but found none"


def _named(name: Any, where: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"Cannot use {where}: expected the name of a file, not {_clipped(name)}.")
    return name


def _label(cells: Mapping[str, Any], columns: Sequence[str], where: str) -> Label | None:
    """Return the class in the columns of an entry; None if all of them are empty."""
    text = index = None
    for column in columns:
        value, wanted = cells[column], _folded(column)
        if value is None:
            continue
        is_number = isinstance(value, int) and not isinstance(value, bool) and wanted != "class_name"
        is_name = isinstance(value, str) and bool(value.strip()) and wanted != "class_index"
        if not is_number and not is_name:
            expected = {"class_index": "the number", "class_name": "the name"}.get(wanted, "the name or number")
            raise InputError(f"Cannot use {where}: expected {expected} of a class, not {_clipped(value)}.")
        text, index = (text, value) if is_number else (value, index)
    return None if text is None and index is None else Label(text, index, where)


def _of_line(found: Sequence[_OfLine], line: int | None) -> tuple[Entry, ...]:
    """Return the entries of a line; where it has none, those of its whole file."""
    own = tuple(entry for entry, of in found if of == line)
    return own or tuple(entry for entry, of in found if of is None)


def _location(path: Path) -> str:
    """Return where a file is, by its own name: links to the folders on the way are followed, one to it is not."""
    return _normal(str(path.parent.resolve() / path.name))


def _ending(place: str, ending: _Endings) -> list[_OfLine]:
    """Return the entries whose path is the end of a place."""
    parts = Path(place).parts
    return [found for start in range(len(parts)) for found in ending.get(parts[start:], ())]


def _folded(name: str) -> str:
    return name.strip().lower()


def _normal(text: str) -> str:
    """Return a text in the form in which equal letters are equal: macOS writes an accent as a character of its own."""
    return unicodedata.normalize("NFC", text)


def _clipped(value: Any) -> str:
    if isinstance(value, list):
        return "an object" if isinstance(value, _Pairs) else "a list"
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."

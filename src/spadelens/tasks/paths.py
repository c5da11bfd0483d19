"""What a user may put in place of a file: a folder, folders by class, a pattern, a line of a file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from spadelens.errors import InputError
from spadelens.photos import PHOTO_SUFFIXES, photo_files
from spadelens.text_files import shown

_LINE = re.compile(r"(?P<file>.+\.(txt|csv|tsv)):(?P<line>\d{1,9})", re.IGNORECASE | re.DOTALL)
_MAGIC = re.compile(r"[*?\[]")


def expand_paths(paths: Sequence[Path]) -> list[Path]:
    """Return the paths with the photos of a folder, and the files that match a pattern, in its place, sorted.

    A folder without photos stands for the photos of the folders in it, one for each class. A pattern, such as
    `photos/*.jpg` or `photos/**`, counts where there is no file of that very name. It stands for the files that match
    it: for the photos, where there are some among them; for what is in the folders, where only folders match. Hidden
    files are left out.

    Raises:
        InputError: A folder holds no photos, or no file matches a pattern.
    """
    expanded: list[Path] = []
    for path in paths:
        file, line = split_line(path)
        if is_folder(path):
            expanded += _photos_in(path)
        elif os.path.lexists(file) or not _MAGIC.search(str(file)):
            expanded.append(path)
        else:
            matches = _matches(file)
            expanded += matches if line is None else [Path(f"{match}:{line}") for match in matches]
    return expanded


def split_line(path: Path) -> tuple[Path, int | None]:
    """Return the file that is meant, and the line of it: `reviews.txt:3` is line 3 of `reviews.txt`."""
    found = _LINE.fullmatch(str(path))
    if found is None or os.path.lexists(path):
        return path, None
    return Path(found["file"]), int(found["line"])


def is_folder(path: Path) -> bool:
    """Return whether there is a folder at `path`, which may be no possible name: pathlib raises on those."""
    return os.path.lexists(path) and path.is_dir()


def _photos_in(folder: Path) -> list[Path]:
    """Return the photos in a folder; where there are none, those in the folders in it."""
    found = photo_files(folder)
    if not found:
        below = sorted(one for one in folder.iterdir() if not one.name.startswith(".") and one.is_dir())
        found = [photo for one in below for photo in photo_files(one)]
    if not found:
        raise InputError(
            f"There are no photos in the folder {shown(folder)}, nor in the folders in it: name a folder with photos, "
            "or a file."
        )
    return found


def _matches(pattern: Path) -> list[Path]:
    found = list(_visible(pattern))
    files = sorted({path for path in found if path.is_file()})
    photos = [file for file in files if file.suffix.lower() in PHOTO_SUFFIXES]
    if files:
        return photos or files
    folders = sorted({path for path in found if path.is_dir()})
    if not folders:
        raise InputError(
            f"There is no file {shown(pattern)}, and none that matches it as a pattern: check the folder and the case "
            "of letters."
        )
    return [photo for folder in folders for photo in _photos_in(folder)]


def _visible(pattern: Path) -> Iterable[Path]:
    """Yield what matches a pattern, without links to folders being followed by `**`."""
    parts = pattern.parts
    first = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    # pathlib refuses stars like those of a**, and until Python 3.13 takes ** at the end for folders alone.
    wild = [part if part == "**" else re.sub(r"\*+", "*", part) for part in parts[first:]]
    if wild[-1] == "**":
        wild.append("*")
    hidden = [part for part in wild if part.startswith(".")]
    base = Path(*parts[:first])
    if not is_folder(base):
        return
    for path in base.glob("/".join(wild)):
        below = path.parts[len(base.parts) :]
        if all(not part.startswith(".") or any(fnmatchcase(part, one) for one in hidden) for part in below):
            yield path

"""A folder of results that appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from spadelens.errors import OutputError
from spadelens.files import check_replaceable, current_umask, file_kind, read_json
from spadelens.output import interrupts, locks

MANIFEST = ".spadelens.json"
"""A file in each folder of results that lists what every run wrote there, so that the next one can replace it."""


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder; move what was written there to `out` when the block ends without error.

    Results of an earlier run that has a file in common with this one (report.html) are replaced whole, so that the
    folder never mixes two runs; all other files stay. After an error or an interrupt nothing in `out` has changed. Of
    two runs at once, the one that ends last wins whole. Temporary folders of killed runs are removed.

    Raises:
        OutputError: `out` is a file, or it cannot be written. That is found out before the block is entered.
    """
    try:
        staging = _make_staging(out)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"Cannot write to {str(out)!r}: {error.strerror or error}.") from error
    try:
        with locks.held(staging):
            yield staging
            with interrupts.completes():
                _move(staging, out)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"Cannot write to {str(out)!r}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _make_staging(out: Path) -> Path:
    if os.path.lexists(out) and not out.is_dir():
        kind = file_kind(out.resolve()) or "a file"
        raise OutputError(f"Cannot write to {str(out)!r}: it is {kind}, expected a folder or a new name.")
    nearest = out.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise OutputError(f"Cannot write to {str(out)!r}: {str(nearest)!r} is a file.")
    locks.remove_abandoned(nearest)
    return Path(tempfile.mkdtemp(dir=nearest, prefix=locks.prefix(), suffix=locks.SUFFIX))


def _move(staging: Path, out: Path) -> None:
    """Move the contents of `staging` to `out`: by one rename where `out` is new, else file by file."""
    new = sorted(str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file())
    _write_manifest(staging, [new])
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        staging.chmod(0o777 & ~current_umask())
        try:
            os.rename(staging, out)  # noqa: PTH104 - Path.rename is the same
        except OSError as error:  # another run was faster
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            return
    with locks.held(out, wait=True):
        _move_into(staging, out, new)


def _move_into(staging: Path, out: Path, new: Sequence[str]) -> None:
    """Move the `new` files to the folder `out`, and remove those of the runs that they replace."""
    runs = _listed_runs(out)
    replaced = [run for run in runs if run & {*new}]
    _write_manifest(staging, [sorted(run) for run in runs if run not in replaced] + [list(new)])
    names = [*new, MANIFEST]
    for name in names:
        _check_target(out, Path(name))
    for name in names:
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, target)
    for name in sorted({name for run in replaced for name in run} - {*new}):
        _remove_file(out, Path(name))


def _write_manifest(folder: Path, runs: Sequence[Sequence[str]]) -> None:
    (folder / MANIFEST).write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")


def _check_target(out: Path, name: Path) -> None:
    """Refuse to write through links inside `out`, and to replace anything but regular files."""
    for folder in reversed(name.parents[:-1]):
        kind = file_kind(out / folder)
        if kind != "a folder" and os.path.lexists(out / folder):
            raise OutputError(
                f"Cannot write {str(out / name)!r}: {str(out / folder)!r} is {kind or 'a file'} and is in the way."
            )
    check_replaceable(out / name)


def _listed_runs(out: Path) -> list[set[str]]:
    """Return the files of each earlier run; none where their list cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if file_kind(out / MANIFEST) is None:
            runs = read_json(out / MANIFEST)["runs"]
            return [{name for name in run if isinstance(name, str) and _is_inside(Path(name))} for run in runs]
    return []


def _is_inside(name: Path) -> bool:
    return not name.is_absolute() and ".." not in name.parts and name.parts != ()


def _remove_file(out: Path, name: Path) -> None:
    """Remove a regular file inside `out`, and the folders around it that become empty; links are not followed."""
    with suppress(OSError, OutputError):
        _check_target(out, name)
        (out / name).unlink()
        for folder in name.parents[:-1]:
            (out / folder).rmdir()

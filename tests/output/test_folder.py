"""A folder that appears whole or not at all."""

import os
from pathlib import Path

import pytest

from spadelens.errors import OutputError
from spadelens.output import folder
from spadelens.output.folder import whole_folder


def tree(path: Path) -> dict[str, bytes | None]:
    found = (p for p in sorted(path.rglob("*")) if p.name != folder.MANIFEST)
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in found}


def fill(staging: Path, content: bytes = b"new") -> None:
    (staging / "photo").mkdir()
    (staging / "photo" / "a.png").write_bytes(content)
    (staging / "report.html").write_bytes(content)


@pytest.mark.parametrize("name", ["out", "deep/er/out", "with space", "[red]", "ünï", "out.partial"])
def test_a_folder_appears_when_the_block_ends(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    with whole_folder(out) as staging:
        fill(staging)
        assert not out.exists()
    assert tree(out) == {"photo": None, "photo/a.png": b"new", "report.html": b"new"}
    top = name.partition("/")[0]
    assert [path.name for path in tmp_path.iterdir()] == [top]


def test_other_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "photo").mkdir(parents=True)
    (out / "photo" / "old.txt").write_bytes(b"old")
    (out / "notes.txt").write_bytes(b"mine")
    (out / "report.html").write_bytes(b"old")
    with whole_folder(out) as staging:
        fill(staging)
        assert (out / "report.html").read_bytes() == b"old"
    assert tree(out) == {
        "notes.txt": b"mine",
        "photo": None,
        "photo/a.png": b"new",
        "photo/old.txt": b"old",
        "report.html": b"new",
    }
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("exists", [False, True])
def test_nothing_is_left_after_a_failure(tmp_path: Path, error: type[BaseException], exists: bool) -> None:
    out = tmp_path / "deep" / "out"
    if exists:
        out.mkdir(parents=True)
        (out / "report.html").write_bytes(b"old")
    before = tree(tmp_path)
    with pytest.raises(error), whole_folder(out) as staging:
        fill(staging)
        raise error
    assert tree(tmp_path) == before


def test_permissions_are_those_of_the_user(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with whole_folder(tmp_path / "out") as staging:
            fill(staging)
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out" / "photo").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out" / "report.html").stat().st_mode & 0o777 == 0o644


def refused(out: Path) -> str:
    with pytest.raises(OutputError, match="Cannot write to") as caught, whole_folder(out):
        raise AssertionError("the block must not run")
    return str(caught.value)


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert refused(tmp_path / "file").count("Cannot write") == 1
    assert "it is a file" in refused(tmp_path / "file")
    assert refused(tmp_path / "file" / "out")
    assert refused(Path("/proc/nowhere"))

    def full(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder.tempfile, "mkdtemp", full)
    assert "Permission denied" in refused(tmp_path / "out")
    assert tree(tmp_path) == {"file": b"x"}


@pytest.mark.parametrize("length", [300])
def test_names_that_are_too_long(tmp_path: Path, length: int) -> None:
    refused(tmp_path / ("x" * length))


def test_a_long_name(tmp_path: Path) -> None:
    """The name of the temporary folder is no longer than it has to be."""
    with whole_folder(tmp_path / ("x" * 250)) as staging:
        fill(staging)


def test_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere" / "deep")
    with pytest.raises(OutputError), whole_folder(tmp_path / "out") as staging:
        fill(staging)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_link_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with whole_folder(tmp_path / "out") as staging:
        fill(staging)
    assert (tmp_path / "real" / "report.html").read_bytes() == b"new"
    assert (tmp_path / "out").is_symlink()


@pytest.mark.parametrize("blocked", ["report.html", "photo"])
def test_nothing_is_half_moved(tmp_path: Path, blocked: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a_first.txt").write_bytes(b"old")
    if blocked == "photo":
        (out / "photo").write_bytes(b"in the way")
    else:
        (out / "report.html").mkdir()
        (out / "report.html" / "x").write_bytes(b"in the way")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="Cannot write"), whole_folder(out) as staging:
        fill(staging)
        (staging / "a_first.txt").write_bytes(b"new")
    assert tree(tmp_path) == before


def test_an_interrupt_while_moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, real, moved = tmp_path / "out", os.replace, []

    def interrupted(source: Path, target: Path) -> None:
        if moved:
            raise KeyboardInterrupt
        moved.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    try:
        with whole_folder(out) as staging:
            fill(staging)
    except KeyboardInterrupt:
        assert tree(tmp_path) == {}
    else:
        assert tree(out) == {"photo": None, "photo/a.png": b"new", "report.html": b"new"}


def test_two_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with whole_folder(out) as first, whole_folder(out) as second:
        assert first != second
        fill(first, b"first")
        fill(second, b"second")
    assert tree(out) == {"photo": None, "photo/a.png": b"first", "report.html": b"first"}
    assert list(tmp_path.iterdir()) == [out]


def test_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with whole_folder(Path()) as staging:
        fill(staging)
    assert tree(tmp_path) == {"photo": None, "photo/a.png": b"new", "report.html": b"new"}

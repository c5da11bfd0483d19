"""Writing touches regular files only, replaces earlier results whole, and leaves nothing behind."""

import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from spadelens.errors import OutputError
from spadelens.files import Journal, check_readable, kept_if_used, make_folder, read_json, whole_file
from spadelens.output import locks
from spadelens.output.folder import MANIFEST, whole_folder
from spadelens.output.unfinished import NAME, unfinished


def write(out: Path, *names: str, content: str = "new") -> None:
    with whole_folder(out) as staging:
        for name in names:
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_text(content)


def names(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.name != MANIFEST}


def refused(path: Path, match: str) -> None:
    with pytest.raises(OutputError, match=match), whole_file(path) as temporary:
        temporary.write_text("new")


def test_pipes_devices_and_links_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    refused(tmp_path / "pipe", "a pipe")
    refused(tmp_path / "link", "a symbolic link")
    refused(Path("/dev/null"), "a device")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "old"
    for name in ("pipe", "link"):
        with pytest.raises(OutputError):
            Journal(tmp_path / name).append(1)
    assert (tmp_path / "real").read_text() == "old"


def test_a_link_that_appears_later_is_not_followed_by_a_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    (tmp_path / "j.jsonl").symlink_to(tmp_path / "real")
    with pytest.raises(OutputError):
        journal.append(1)
    assert not (tmp_path / "real").exists()


@pytest.mark.parametrize("link", ["photo", "photo/a.png", "report.html"])
def test_links_inside_the_folder_are_not_followed(tmp_path: Path, link: str) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_text("precious")
    (out / link).parent.mkdir(parents=True)
    (out / link).symlink_to(other if link == "photo" else other / "a.png")
    with pytest.raises(OutputError, match="a symbolic link"):
        write(out, "photo/a.png", "report.html")
    assert (other / "a.png").read_text() == "precious"
    assert (out / link).is_symlink()


def test_folders_are_not_made_through_links_inside_results(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "public").symlink_to(tmp_path / "other")
    (out / NAME).symlink_to(tmp_path / "other")
    with pytest.raises(OutputError, match="symbolic link"):
        make_folder(out / "public" / "pictures", inside=out)
    with pytest.raises(OutputError, match="symbolic link"), unfinished(out, "x") as files:
        files.path("x", "a").write_text("x")
    assert list((tmp_path / "other").iterdir()) == []
    (tmp_path / "link").symlink_to(out)
    assert make_folder(tmp_path / "link" / "new", inside=tmp_path / "link")


def test_results_of_an_earlier_run_are_replaced_and_other_files_stay(tmp_path: Path) -> None:
    write(tmp_path, "report.html", "first/map.png", "shared/map.png")
    (tmp_path / "first" / "notes.txt").write_text("mine")
    write(tmp_path, "circles.png")
    write(tmp_path, "report.html", "shared/map.png", "second/map.png")
    assert names(tmp_path) == {"report.html", "shared/map.png", "second/map.png", "circles.png", "first/notes.txt"}
    write(tmp_path, "report.html")
    assert names(tmp_path) == {"report.html", "circles.png", "first/notes.txt"}
    assert not (tmp_path / "second").exists()


def test_a_forged_list_of_files_removes_nothing_outside(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "precious").write_text("mine")
    write(out, "report.html")
    (out / "link").symlink_to(tmp_path)
    runs = [["report.html", "../precious", str(tmp_path / "precious"), "link/precious", 3]]
    for content in ({"runs": runs}, {"runs": 3}, [], "x"):
        (out / MANIFEST).write_text(json.dumps(content))
        write(out, "report.html")
    assert (tmp_path / "precious").read_text() == "mine"


HOLDING = """
import sys, time
from pathlib import Path
from spadelens.output.folder import whole_folder
with whole_folder(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_the_folder_of_a_killed_run_is_removed_and_that_of_a_live_one_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            (staging,) = tmp_path.iterdir()
            os.utime(staging, (0, 0))
            locks.remove_abandoned(tmp_path)
            assert staging.exists()
        finally:
            process.kill()
    assert staging.exists()
    write(tmp_path / "out", "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_runs_of_other_settings_keep_their_unfinished_files(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), unfinished(tmp_path, "x") as first:
        first.path("x", "first").write_text("hours of work")
        raise KeyboardInterrupt
    with unfinished(tmp_path, "x") as second:
        second.path("x", "second").write_text("other")
    assert [path.read_text() for path in (tmp_path / NAME).iterdir()] == ["hours of work"]
    (tmp_path / NAME / "given-up.x").write_text("x")
    os.utime(tmp_path / NAME / "given-up.x", (0, 0))
    with unfinished(tmp_path, "x") as again:
        again.path("x", "first")
    assert list(tmp_path.iterdir()) == []


def test_folders_of_failed_runs_are_removed_where_they_are_empty(tmp_path: Path) -> None:
    with pytest.raises(ValueError), kept_if_used(tmp_path / "a" / "b"):
        raise ValueError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError), kept_if_used(tmp_path / "a" / "b"):
        (tmp_path / "a" / "x").write_text("kept")
        raise ValueError
    assert names(tmp_path) == {"a/x"} and not (tmp_path / "a" / "b").exists()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_output_error_whoever_writes(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensor = torch.zeros(300_000)
    for save in (lambda path: torch.save({"x": tensor}, path), lambda path: save_file({"x": tensor}, path)):
        with full_disk(100_000), pytest.raises(OutputError, match="Cannot write"), whole_file(tmp_path / "x") as path:
            save(path)
        assert list(tmp_path.iterdir()) == []


def test_json_that_is_nested_too_deeply_and_pipes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="nested"):
        read_json(tmp_path / "deep.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(OSError, match="a pipe"):
        read_json(tmp_path / "pipe.json")
    with pytest.raises(OSError, match="a device"):
        check_readable(Path("/dev/zero"))

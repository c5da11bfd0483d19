"""Folders, folders by class and patterns as inputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from spadelens.errors import InputError
from spadelens.tasks.inputs import PhotoFile, TextLine, read_inputs
from spadelens.tasks.paths import expand_paths, split_line
from spadelens.tasks.subjects import unique_names


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def expanded(*names: str) -> list[str]:
    return [str(path) for path in expand_paths([Path(name) for name in names])]


def refused(name: str) -> str:
    with pytest.raises(InputError) as caught:
        expand_paths([Path(name)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_stands_for_its_photos_in_order() -> None:
    touch("p/b.JPG", "p/a.png", "p/ü x.jpeg", "p/.hidden.png", "p/notes.txt", "p/labels.json", "p/below/c.png")
    Path("p/folder.png").mkdir()
    assert expanded("p", "other.png") == ["p/a.png", "p/b.JPG", "p/ü x.jpeg", "other.png"]


def test_a_folder_without_photos_stands_for_those_of_the_folders_in_it() -> None:
    touch("p/ring/2.png", "p/ring/1.PNG", "p/big dog/1.png", "p/.git/x.png", "p/labels.json", "p/ring/deep/3.png")
    Path("p/none").mkdir()
    assert expanded("p") == ["p/big dog/1.png", "p/ring/1.PNG", "p/ring/2.png"]
    assert expanded("./p/") == expanded("p")
    assert unique_names(tuple(expand_paths([Path("p")]))) == ("1", "1-2", "2")


def test_links_to_photos_and_folders_are_followed_once() -> None:
    touch("elsewhere/1.png", "p/ring/2.png")
    Path("p/linked").symlink_to(Path("elsewhere").absolute())
    Path("p/loop").symlink_to(Path("p").absolute())
    Path("p/ring/broken.png").symlink_to("nothing.png")
    Path("p/ring/link.png").symlink_to("2.png")
    assert expanded("p") == ["p/linked/1.png", "p/ring/2.png", "p/ring/link.png"]
    assert expanded("p/**/*.png") == ["p/ring/2.png", "p/ring/link.png"]  # a link to a folder above would never end
    assert expanded("p/l*/*.png") == ["p/linked/1.png"]


def test_folders_without_photos_are_refused() -> None:
    touch("p/notes.txt", "p/q/notes.txt", "p/q/deep/x.png")
    assert refused("p").startswith("There are no photos in the folder 'p', nor in the folders in it: ")
    Path("empty").mkdir()
    assert "'empty'" in refused("empty")


def test_patterns() -> None:
    touch("p/b.png", "p/a.png", "p/c.JPG", "p/.h.png", "p/q/d.png", "p/.q/e.png", "p/x y [1].png", "top.png")
    assert expanded("p/*.png") == ["p/a.png", "p/b.png", "p/x y [1].png"]
    assert expanded("p/[ab].png") == expanded("p/?.png") == ["p/a.png", "p/b.png"]
    assert expanded("p/**/*.png") == ["p/a.png", "p/b.png", "p/q/d.png", "p/x y [1].png"]
    assert expanded("**/d.png") == expanded("*/q/d.p*") == ["p/q/d.png"]
    assert expanded("./p/b*", "*.png") == ["p/b.png", "top.png"]
    assert expanded("p/.*.png") == ["p/.h.png"]
    assert expanded("p/.q/*.png") == ["p/.q/e.png"]
    assert expanded(f"{Path.cwd()}/t*.png") == [f"{Path.cwd()}/top.png"]
    assert expanded("p/../t*.png") == ["p/../top.png"]
    assert expanded("p**/a.png") == ["p/a.png"]


def test_a_pattern_of_everything_stands_for_photos_first_then_for_folders() -> None:
    touch("p/ring/1.png", "p/square/2.JPG", "p/square/labels.json", "p/square/notes.txt", "p/ring/.x.png")
    assert expanded("p/square/*") == ["p/square/2.JPG"]
    assert expanded("p/*") == expanded("p/**") == expanded("p") == ["p/ring/1.png", "p/square/2.JPG"]
    assert expanded("p/s*/*.txt") == ["p/square/notes.txt"]
    Path("none").mkdir()
    assert "There are no photos in the folder 'none'" in refused("n*")


def test_a_file_of_that_very_name_comes_first() -> None:
    touch("a[1].png", "a1.png", "*.png")
    assert expanded("a[1].png") == ["a[1].png"]
    assert expanded("*.png") == ["*.png"]
    Path("b*.png").symlink_to("nothing.png")
    touch("bc.png")
    assert expanded("b*.png") == ["b*.png"]


def test_patterns_that_nothing_matches() -> None:
    touch("p/a.JPG")
    assert refused("p/*.jpg").startswith("There is no file 'p/*.jpg', and none that matches it as a pattern: ")
    for pattern in (
        "nowhere/*.png",
        "[.png",
        "p/a[.JPG",
        "\x1b[31m*",
        "x" * 300 + "*",
        "x" * 300 + "/*",
        "p/*/*",
        "p/a.JPG/*",
        "*.csv:3",
    ):
        assert "\x1b" not in refused(pattern)
    assert expanded("missing.png") == ["missing.png"]  # the reader of photos says so


def test_lines_of_files_that_match() -> None:
    Path("r1.txt").write_text("a\nb\n")
    Path("r2.TXT").write_text("c\n\nd\ne\n")
    assert "'r*:3'" in refused("r*:3")
    assert expanded("r?.TXT:3") == ["r2.TXT:3"]
    assert read_inputs([Path("r[12].TXT:3"), Path("r[1].txt:2")]) == [
        TextLine(Path("r2.TXT"), 3, "d"),
        TextLine(Path("r1.txt"), 2, "b"),
    ]
    assert split_line(Path("r*.txt:3")) == (Path("r*.txt"), 3)
    assert split_line(Path("a.png:3")) == (Path("a.png:3"), None)


def test_inputs_read_what_patterns_and_folders_stand_for() -> None:
    for name in ("p/ring/1.png", "p/square/1.png"):
        Path(name).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(name)
    for given in (read_inputs([Path("p")]), read_inputs([Path("p/*/*.png")])):
        assert all(isinstance(one, PhotoFile) for one in given)
        assert [str(one.file) for one in given] == ["p/ring/1.png", "p/square/1.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read() -> None:
    touch("p/a.png")
    Path("p").chmod(0)
    try:
        with pytest.raises((InputError, OSError)):
            expand_paths([Path("p")])
        assert "none that matches" in refused("p/*.png")
    finally:
        Path("p").chmod(0o700)

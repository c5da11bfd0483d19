"""Files of work that is not finished: kept after an interrupt, gone when all is done."""

from pathlib import Path

import pytest

from spadelens.errors import VisualizationError
from spadelens.output.unfinished import unfinished


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_unfinished_files_go_when_all_is_done_and_stay_after_an_interrupt(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with pytest.raises(KeyboardInterrupt), unfinished(out, "done") as files:
        assert tree(tmp_path) == []  # nothing is made before it is needed
        files.path("part", "a").write_text("x")
        raise KeyboardInterrupt
    with pytest.raises(VisualizationError), unfinished(out, "done") as files:
        assert files.path("part", "a").read_text() == "x"
        assert not files.path("part", "b").exists()
        assert files.path("part", "a", "b") != files.path("part", "ab")
        files.path("done", "c").write_text("y")
        raise VisualizationError("x")
    assert len(tree(out)) == 3  # the folder, and what was finished keeps the rest
    with unfinished(out, "done") as files:
        for made_from in (("part", "a"), ("part", "b"), ("done", "c")):
            files.path(*made_from)
        (out / "report.html").write_text("z")
    assert tree(tmp_path) == ["deep", "deep/out", "deep/out/report.html"]


def test_an_error_leaves_nothing_behind_where_nothing_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with pytest.raises(VisualizationError), unfinished(out, "done") as files:
        files.path("part", "a").write_text("x")
        raise VisualizationError("x")
    assert tree(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(VisualizationError), unfinished(tmp_path / "mine", "done") as files:
        files.path("part", "a").write_text("x")
        raise VisualizationError("x")
    assert tree(tmp_path) == ["mine"]

"""`spadelens demo`, in its three forms, as a person types it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from spadelens.cli import facets as cli_facets
from spadelens.cli.main import cli
from spadelens.demo.circles import CIRCLES
from spadelens.models import load_model
from spadelens.tasks import demo_facets
from spadelens.tasks.demo_facets import demo_album


def run(*arguments):
    return CliRunner().invoke(cli, ["demo", *map(str, arguments)])


def test_circles_are_drawn_and_counted(tmp_path: Path) -> None:
    found = run("--circles", "--out", tmp_path / "out")
    assert found.exit_code == 0, found.output
    numbers = json.loads((tmp_path / "out" / "circles.json").read_text(encoding="utf-8"))
    assert [panel["share_inside"][CIRCLES[0].name] > 0.9 for panel in numbers["panels"]] == [True, True, False]
    assert numbers["panels"][2]["share_inside"][CIRCLES[1].name] > 0.9
    assert (tmp_path / "out" / "circles.png").read_bytes().startswith(b"\x89PNG")
    assert "in the smaller circle" in found.output


def test_facets_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_facets.demo_album, "__defaults__", (None, 20))
    settings = cli_facets.facet_settings
    monkeypatch.setattr(cli_facets, "facet_settings", lambda target: settings(target, num_steps=4))
    found = run("--facets", "--out", tmp_path / "out", "--device", "cpu")
    assert found.exit_code == 0, found.output
    report = json.loads((tmp_path / "out" / "facets.json").read_text(encoding="utf-8"))
    kinds = [{photo.split("-")[0] for photo in facet["photos"]} for facet in report["facets"]]
    assert sorted(kinds, key=sorted) == [{"smiley"}, {"star"}]
    assert report["command"].startswith("spadelens demo --facets --out ")


def test_every_image_of_the_album_is_taken_for_the_class() -> None:
    loaded = load_model("demo", "cpu")
    album = demo_album(loaded, num_photos=11)
    assert [file.split("-")[0] for file in album.files] == ["star"] * 6 + ["smiley"] * 5
    assert set(loaded.model(album.samples).argmax(1).tolist()) == {album.target}


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for form in ("--circles", "--facets"):
        found = run(form, "--out", tmp_path / "file")
        assert "it is a file" in str(found.exception)

"""`spadelens facets`, from a folder of photos to the report."""

import csv
import json
import re

import pytest
from click.testing import CliRunner
from PIL import Image

from spadelens.cli.main import cli
from spadelens.demo.images import draw_image
from spadelens.demo.patches import PATCHES, paste_patch
from spadelens.extraction.trace import Trace
from spadelens.models import load_model

NUM_STARS, NUM_SMILEYS = 10, 8


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Stars, smileys on other images that the network takes for stars, and images of something else."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    (folder / ".hidden").mkdir()
    star = PATCHES[0].target
    made = {"star": 0, "smiley": 0}
    for seed in range(510, 700):
        kind = "star" if seed % 2 else "smiley"
        if made[kind] == (NUM_STARS if kind == "star" else NUM_SMILEYS):
            continue
        pixels = draw_image(star if kind == "star" else (star + 1 + seed % 8) % 10, seed).pixels
        pixels = pixels if kind == "star" else paste_patch(pixels, PATCHES[0], seed).pixels
        loaded = load_model("demo", "cpu")
        picture = Image.fromarray(pixels)
        if int(loaded.model(loaded.preprocessing.to_tensor(picture)[None]).argmax()) == star:
            picture.save(folder / ("deep" if kind == "star" else "") / f"{kind}-{made[kind]}.png")
            made[kind] += 1
    for seed in range(3):
        Image.fromarray(draw_image((star + 2) % 10, seed).pixels).save(folder / f"other-{seed}.png")
    Image.fromarray(draw_image(star, 0).pixels).save(folder / ".hidden" / "star.png")
    (folder / "notes.txt").write_text("no photo")
    return folder


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def results(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "facets"
    options = ("--model", "demo", "--device", "cpu", "--target", "Star", "--images", photos, "--steps", "8")
    found = run("facets", *options, "--out", out)
    assert found.exit_code == 0, found.output
    return out, found.output


def test_the_patch_is_one_facet_and_the_class_another(results):
    out, printed = results
    with (out / "facets.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == NUM_STARS + NUM_SMILEYS
    by_facet = {number: {row["photo"].split("-")[0] for row in rows if row["facet"] == number} for number in "12"}
    assert by_facet == {"1": {"deep/star"}, "2": {"smiley"}}
    assert f"{NUM_STARS + NUM_SMILEYS + 3} photos" in printed
    assert str(out / "report.html") in printed.replace("\n", "")


def test_the_report_and_the_page_say_the_same(results):
    out, _ = results
    report = json.loads((out / "facets.json").read_text(encoding="utf-8"))
    assert report["format"] == "spadelens-facets-1"
    assert (report["num_photos"], report["num_predicted"], report["num_compared"]) == (21, 18, 18)
    assert [facet["size"] for facet in report["facets"]] == [NUM_STARS, NUM_SMILEYS]
    assert "--schedule late:0.9@0.5" in report["command"]
    page = (out / "report.html").read_text(encoding="utf-8")
    for facet in report["facets"]:
        assert f"Facet {facet['number']}" in page
        assert all(photo in page for photo in facet["photos"])
        assert facet["connections"][0]["inside"] > facet["connections"][0]["outside"]
        assert facet["agreement"] >= 0.8
    assert page.count("<img") == 1 + 2 + NUM_STARS + NUM_SMILEYS + 1


def headlines(folder, printed):
    """The title of the page, its first heading, the first line on the console and the verdict of the JSON file."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    report = json.loads((folder / "facets.json").read_text(encoding="utf-8"))
    heading = re.search(r'<h2 id="title">(.*?)</h2>', page, re.DOTALL)[1]
    title = re.search(r"<title>(.*?)</title>", page)[1]
    return title, re.sub(r"<[^>]*>", "", heading), printed.splitlines()[0], report["verdict"]


def test_facets_that_are_distinct_are_announced(results):
    out, printed = results
    report = json.loads((out / "facets.json").read_text(encoding="utf-8"))
    assert report["is_distinct"]
    assert max(report["silhouettes"].values()) > max(report["shuffled_silhouettes"])
    title, heading, line, verdict = headlines(out, printed)
    assert verdict == "2 distinct facets"
    assert (title, heading, line) == (
        f"star: {verdict} · spadelens",
        f"star · {verdict}",
        f"star: {verdict}",
    )
    assert "no distinct facets" not in printed


def test_facets_within_those_of_shuffled_traces_are_announced_as_none(photos, tmp_path):
    # A single layer cannot agree with others on which photos belong together, and shuffling it changes nothing.
    options = ("--model", "demo", "--device", "cpu", "--steps", "1", "--layers", "blocks.4.conv2")
    found = run("facets", *options, "--images", photos / "deep", "--target", "star", "--out", tmp_path / "out")
    assert found.exit_code == 0, found.output
    report = json.loads((tmp_path / "out" / "facets.json").read_text(encoding="utf-8"))
    assert max(report["silhouettes"].values()) == pytest.approx(max(report["shuffled_silhouettes"]))
    assert not report["is_distinct"]
    title, heading, line, verdict = headlines(tmp_path / "out", found.output)
    assert verdict == "no distinct facets"
    assert (title, heading, line) == (
        f"star: {verdict} · spadelens",
        f"star · {verdict}",
        f"star: {verdict}",
    )
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert ">Group 1<" in page and ">Facet 1<" not in page


def test_the_trace_of_a_facet_can_be_used(results):
    out, _ = results
    loaded = load_model("demo", "cpu")
    trace = Trace.load(out / "facet-2.safetensors", loaded.model)
    assert trace.report.target == PATCHES[0].target
    with Image.open(out / "facet-2.png") as facet, Image.open(out / "original.png") as dense:
        assert facet.size == dense.size


def test_bad_input_is_one_sentence_and_leaves_nothing(photos, tmp_path):
    common = ("facets", "--model", "demo", "--device", "cpu")
    (tmp_path / "empty").mkdir()
    for arguments, expected in (
        (("--target", "star", "--images", tmp_path / "missing"), "expected a folder"),
        (("--target", "star", "--images", tmp_path / "empty"), "There are no photos"),
        (("--target", "sart", "--images", photos), "Unknown class 'sart'. Did you mean 'star'"),
        (("--target", "10", "--images", photos), "There is no class 10: the model has 10, numbered from 0."),
        (("--target", " ", "--images", photos), "--target is empty"),
        (("--target", "disc", "--images", photos), "classifies 0 of 21 photos"),
        (("--target", "star", "--images", photos, "--preset", "ensemble"), "facets need single traces"),
        (("--target", "star", "--images", photos, "--parameterization", "direct"), "fourier or maco"),
        (("--target", "star", "--images", photos, "--clusters", "10"), "expected 2 to 9"),
    ):
        found = run(*common, *arguments, "--out", tmp_path / "out")
        assert expected in str(found.exception), arguments
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]

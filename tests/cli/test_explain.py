"""`spadelens explain`: what it writes, and that its commands lead back to it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from references.commands import FAST, PROGRAM, TINY, explain, listing, read_report, refuse, run

from spadelens import Trace, load_model
from spadelens.demo.images import draw_image
from spadelens.extraction.presets import PRESETS
from spadelens.models import LoadedModel

pytestmark = pytest.mark.usefixtures("workplace")


def test_two_photos_as_a_person_does_it(workplace: Path, demo: LoadedModel) -> None:
    before = listing()
    command = ["explain", "square.png", "ring.png", "--model", "demo", "--out", "out", *FAST]
    finished = subprocess.run([PROGRAM, *command], capture_output=True, text=True, check=False)
    assert finished.returncode == 0
    assert finished.stderr == ""
    assert "square: square >99%, rather than " in finished.stdout
    assert "Report: out/report.html" in finished.stdout
    written = listing()
    names = {"out", "out/report.html", "out/report.json", "out/square", "out/ring"}
    names |= {
        f"out/{name}/{file}"
        for name in ("square", "ring")
        for file in ("region.png", "map.png", "original.png", "trace.png", "trace.safetensors")
    }
    assert set(written) - set(before) == names
    assert {name: written[name] for name in before} == before
    report = read_report()
    assert [photo["name"] for photo in report["samples"]] == ["square", "ring"]
    assert [photo["file"] for photo in report["samples"]] == ["square.png", "ring.png"]
    for photo in report["samples"]:
        for kind, side_px in (("region", 64), ("map", 448), ("original_map", 448), ("trace_map", 448)):
            with Image.open(Path("out", photo["files"][kind])) as picture:
                picture.load()
                assert picture.size == (side_px, side_px)
        trace = Trace.load(Path("out", photo["files"]["trace"]), demo.model)
        assert trace.report.original_prediction.class_index == photo["original"]["class_index"]
    html = Path("out/report.html").read_text(encoding="utf-8")
    assert "http://" not in html.replace("http://www.w3.org", "")
    # and the command in the report does it again
    words = shlex.split(report["command"])
    assert words[0] == "spadelens"
    words[words.index("out")] = "again"
    assert run(*words[1:]) == 0
    for file in (name for name in names if name.endswith((".png", ".safetensors"))):
        if file.endswith(".png"):
            assert Path("again", file.removeprefix("out/")).read_bytes() == written[file], file
    for name in ("square", "ring"):
        first, again = (Trace.load(Path(out, name, "trace.safetensors"), demo.model) for out in ("out", "again"))
        assert all(torch.equal(first.weights[layer], again.weights[layer]) for layer in first.weights)
        assert first.weights.keys() == again.weights.keys()


COMMANDS = [
    ("--method", "integrated_gradients:num_steps=3", "--target", "ring", "--solver", "wanda", "--seed", "7"),
    ("--method", "occlusion:window=0.5,stride=1", "--target", "7", "--augmentation", "none", "--batch-size", "1"),
    ("--method", "gradient_shap:num_samples=2", "--layers", "second", "--layers", "lin*", "--device", "cpu"),
    ("--method", "input_x_gradient", "--solver", "magnitude", "--augmentation", "paper", "--trust"),
    ("--solver", "sparsegpt:damping=0.05,block_size=32", "--schedule", "second=0.7,linear=0.3"),
    ("--schedule", "0.1234567"),
    ("--schedule", "late:0.12345678@0.7123456789"),
    ("--preset", "instant", "--positions-per-column", "0", "--memory-budget", "64"),
    ("--preset", "paper-fast", "--precision", "bfloat16", "--schedule", "auto:criterion=agreement,levels=0.5/0.8"),
    (
        "--solver",
        "ols:candidates=1.5",
        "--schedule",
        "auto:threshold=0.8,max_error=0.3,levels=0.95/0.98",
        "--target",
        "ring",
    ),
]


@pytest.mark.parametrize("options", COMMANDS)
def test_commands_lead_back(options: tuple[str, ...]) -> None:
    Path("net.py").write_text(TINY + "CLASS_NAMES = ['disc', 'ring']\n")
    assert explain("square.png", *options, model="net.py:build") == 0
    report = read_report()
    words = shlex.split(report["command"])
    words[words.index("out")] = "again"
    assert run(*words[1:]) == 0
    again = read_report("again")
    assert again["settings"] == report["settings"]
    for kind in ("original", "trace"):
        assert Path("again/square", f"{kind}.png").read_bytes() == Path("out/square", f"{kind}.png").read_bytes()
    model = load_model("net.py:build", "cpu").model
    first, second = (Trace.load(Path(out, "square", "trace.safetensors"), model) for out in ("out", "again"))
    assert first.weights
    assert first.weights.keys() == second.weights.keys()
    assert all(torch.equal(first.weights[layer], second.weights[layer]) for layer in first.weights)


def test_presets_are_what_is_not_given() -> None:
    for name, preset in PRESETS.items():
        arguments = ["explain", "square.png", "--model", "net.py:build", "--out", name, "--preset", name]
        assert run(*arguments, "--views", "2") == 0
        settings = read_report(name)["settings"]
        assert settings["preset"] == name
        assert (settings["solver"], settings["schedule"]) == (preset.solver, preset.schedule)
        assert settings["positions_per_column"] == preset.positions_per_column
        assert settings["augmentation"].startswith(preset.augmentation)
    assert run("explain", "square.png", "--model", "net.py:build", "--out", "default") == 0
    settings = read_report("default")["settings"]
    assert (settings["preset"], settings["num_views"]) == ("ensemble", PRESETS["ensemble"].num_views)
    assert run("explain", "square.png", "--model", "net.py:build", "--out", "fixed", "--schedule", "0.5") == 0
    assert read_report("fixed")["settings"]["preset"] == "balanced"  # what has no path has no other members


def test_an_ensemble_is_explained_and_its_chosen_trace_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("explain", "square.png", "--model", "demo", "--out")
    assert run(*arguments, "out", "--preset", "ensemble", "--blur", "0.03", "--views", "2") == 0
    report = read_report()
    (photo,) = report["samples"]
    loaded = load_model("demo", "cpu")
    trace = Trace.load(Path("out", photo["files"]["trace"]), loaded.model)
    assert trace.report.trace_prediction.probability == pytest.approx(photo["members"][0]["explained_probability"])
    assert len(photo["members"]) > 1
    assert photo["original_weight"] == 1.0
    assert report["settings"]["blur"] == 0.03
    assert run(*shlex.split(report["command"].replace("--out out", "--out again"))[1:]) == 0
    for name in ("original.png", "trace.png"):
        assert Path("out/square", name).read_bytes() == Path("again/square", name).read_bytes()
    assert run(*arguments, "plain", "--preset", "ensemble", "--views", "2") == 0
    assert Path("out/square/trace.png").read_bytes() != Path("plain/square/trace.png").read_bytes()
    capsys.readouterr()
    assert run(*arguments, "x", "--preset", "ensemble", "--schedule", "0.5") == 2
    assert "auto" in capsys.readouterr().err


def test_the_search_is_shown() -> None:
    assert run("explain", "square.png", "--model", "demo", "--out", "out", "--preset", "fast") == 0
    photo = read_report()["samples"][0]
    assert photo["search"]["chosen_bound"] is not None
    assert photo["is_prediction_kept"]
    assert "Search for the sparsest trace" in Path("out/report.html").read_text(encoding="utf-8")


def test_targets(capsys: pytest.CaptureFixture[str]) -> None:
    for text, index in (("Ring", 1), ("7", 7)):
        assert explain("square.png", "--target", text) == 0
        report = read_report()
        assert report["samples"][0]["explained_class"]["class_index"] == index
        assert report["settings"]["target"] == text
    assert capsys.readouterr().err == ""


def test_two_classes_in_one_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain("square.png", "--target", "Ring - star") == 0
    report = read_report()
    assert report["samples"][0]["explained_class"]["class_name"] == "ring"
    assert report["samples"][0]["finding"]["versus"]["class_name"] == "star"
    assert report["settings"]["target"] == "Ring - star"
    assert capsys.readouterr().err == ""


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["x/a.png", "y/a.png", "a b.png", "été 漢.png", "[bold]x[.png", "&<b>'\"$(x).png", "[/red].jpg"]
    pixels = Image.fromarray(draw_image(3, 5).pixels)
    files = []
    for name in names:
        path = Path("in") / name.replace("[/red]", "[-red]")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels.save(path, format="PNG")
        files.append(path)
    assert explain(*files, model="net.py:build") == 0
    report = read_report()
    captured = capsys.readouterr()
    assert captured.err == ""
    expected = ["a", "a-2", "a b", "été 漢", "[bold]x[", "&<b>'\"$(x)", "[-red]"]
    assert [photo["name"] for photo in report["samples"]] == expected
    for name in expected:
        assert name in captured.out
        assert Path("out", name, "trace.png").is_file()
    assert shlex.split(report["command"])[2:9] == [str(file) for file in files]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Path("square.png").rename(name)
    code = explain(name, model="net.py:build")
    assert code in (0, 2)
    if code == 2:
        assert capsys.readouterr().err.startswith("Error: ")
        assert not Path("out").exists()


def test_names_with_a_dash(demo: LoadedModel) -> None:
    Path("square.png").rename("-a.png")
    assert explain("./-a.png") == 0
    words = shlex.split(read_report()["command"])
    words[words.index("out")] = "again"
    assert run(*words[1:]) == 0


def test_other_models_and_photos_that_are_seen_differently() -> None:
    Image.fromarray(np.arange(0, 65536, 4, dtype=np.uint16).reshape(128, 128)).save("deep.png")
    Image.new("CMYK", (30, 40), (10, 200, 30, 5)).save("inks.jpg")
    Image.new("LA", (30, 9), (10, 100)).save("glass.png")
    assert explain("deep.png", "inks.jpg", "glass.png", model="net.py:build") == 0
    assert len(read_report()["samples"]) == 3


def test_more_classes_than_names() -> None:
    Path("net.py").write_text(TINY + "CLASS_NAMES = ['a', 'b']\n")
    assert explain("square.png", "--target", "11", model="net.py:build") == 0
    assert read_report()["samples"][0]["explained_class"] == {"class_index": 11, "class_name": "class 11"}


def test_files_of_the_user_stay() -> None:
    Path("out/square").mkdir(parents=True)
    Path("out/notes.txt").write_text("mine")
    Path("out/square/notes.txt").write_text("mine")
    Path("out/report.html").write_text("old")
    assert explain("square.png", model="net.py:build") == 0
    assert Path("out/notes.txt").read_text() == "mine"
    assert Path("out/square/notes.txt").read_text() == "mine"
    assert Path("out/report.html").read_text() != "old"
    assert [path.name for path in Path("out").rglob(".*")] == [".spadelens.json"]


def test_an_old_report_stays_when_the_run_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain("square.png", model="net.py:build") == 0
    capsys.readouterr()
    refuse(capsys, "--target", "99", model="net.py:build")  # found out only when the model has been run
    refuse(capsys, "--target", "99")

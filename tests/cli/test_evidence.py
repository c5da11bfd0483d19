"""`backdoor plant`, `tune` and `bench`, driven as a person drives them: three commands from photos to a table."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from references.tiny import write_tiny

PROGRAM = Path(sys.executable).parent / "spadelens"
PATCHES = "smiley=blue,heart=dark,fish=4,flower=other"
PLANT = ("--patches", PATCHES, "--epochs", "4", "--samples-per-patch", "60", "--batch-size", "24", "--rate", "0.01",
         "--clean-weight", "3", "--cases", "6", "--calibration-cases", "4")  # fmt: skip


def run(*arguments: object, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    found = subprocess.run(
        [str(PROGRAM), *map(str, arguments)], capture_output=True, text=True, check=False, env=environment
    )
    assert found.returncode in codes, found.stderr
    assert "Traceback" not in found.stderr
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a planted network in `planted`."""
    folder = tmp_path_factory.mktemp("work")
    spec, photos = write_tiny(folder)
    found = run("backdoor", "plant", "--model", spec, "--data", photos, "--out", folder / "planted", *PLANT)
    assert "smiley" in found.stdout
    assert "use it as --model" in found.stdout
    return folder


def test_three_commands_from_photos_to_a_table(folder: Path) -> None:
    tuned, out = folder / "tuned.json", folder / "bench"
    found = run("tune", "--model", folder / "planted", "--trust", "--levels", "0.5/0.9", "--out", tuned)
    assert "cross-validated gain" in found.stdout
    assert json.loads(tuned.read_text())["method"] == "saliency"
    assert json.loads(tuned.read_text())["options"] == {"preset": "fast"}
    assert "with --preset fast" in found.stdout
    rows = ("--row", "original", "--row", "fast", "--row", "tuned", "--row", "magnitude")
    found = run("bench", "table1", "--model", folder / "planted", "--trust", "--out", out, "--schedule", tuned, *rows,
                "--method", "saliency", "--method", "occlusion")  # fmt: skip
    assert "| *control:* magnitude | 6 |" in found.stdout
    listing = json.loads((out / "table1.json").read_text())
    assert [row["row"] for row in listing["rows"]] == ["original", "fast", "tuned", "magnitude"]
    for row in listing["rows"]:
        methods = {"saliency"} if row["row"] == "tuned" else {"saliency", "occlusion"}
        assert set(row["methods"]) == methods
        assert all(len(one["scores"]["auc"]["per_image"]) == 6 for one in row["methods"].values())
    assert "**Pixel AUC, %**" in (out / "table1.md").read_text()


def test_a_schedule_for_a_method_that_is_not_in_the_table_is_refused(folder: Path) -> None:
    file = folder / "other.json"
    file.write_text(
        json.dumps({"format": "spadelens-schedule-1", "method": "occlusion", "options": {}, "sparsities": {"*": 0.5}})
    )
    options = ("--out", folder / "x", "--method", "saliency", "--schedule", file)
    found = run("bench", "table1", "--model", folder / "planted", "--trust", *options, codes=(2,))
    assert "tuned for occlusion" in found.stderr
    assert not (folder / "x").exists()


def test_an_interrupted_table_goes_on(folder: Path) -> None:
    out = folder / "interrupted"
    rows = ("--row", "original", "--row", "fast")
    command = ["bench", "table1", "--model", str(folder / "planted"), "--trust", "--out", str(out), *rows]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([str(PROGRAM), *command], stderr=subprocess.PIPE, text=True, env=environment)
    journal = out / "table1.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.read_text().count("\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate()
    assert process.returncode == 130
    assert "again to resume" in message
    assert not (out / "table1.json").exists()
    before = journal.read_text()
    run(*command)
    assert journal.read_text().startswith(before)
    assert len(journal.read_text().splitlines()) == 12
    run("bench", "table1", "--model", folder / "planted", "--trust", "--out", folder / "whole", *rows)
    interrupted, whole = (json.loads((folder / name / "table1.json").read_text()) for name in (out.name, "whole"))
    for listing in (interrupted, whole):
        for row in listing["rows"]:
            row.pop("seconds")
    assert interrupted == whole


def test_table_2_on_clean_photos(folder: Path) -> None:
    found = run("bench", "table2", "--model", folder / "planted", "--trust", "--out", folder / "clean",
                "--row", "original", "--row", "Sparse FC", "--method", "saliency", "--cases", "3")  # fmt: skip
    assert "Insertion" in found.stdout
    listing = json.loads((folder / "clean" / "table2.json").read_text())
    assert {image["patch"] for image in listing["images"]} == {""}


def test_tuning_without_ground_truth(folder: Path) -> None:
    tuned = folder / "insertion.json"
    run("tune", "--model", folder / "tiny.py:build", "--data", folder / "photos.npz", "--out", tuned, "--cases", "3",
        "--levels", "0.5", "--preset", "instant")  # fmt: skip
    assert json.loads(tuned.read_text())["objective"] == "insertion"


def test_a_planted_network_can_be_explained_with_its_tuned_schedule(folder: Path) -> None:
    photo = folder / "planted" / "cases" / "test" / "0000.png"
    run(
        "tune",
        "--model",
        folder / "planted",
        "--trust",
        "--levels",
        "0.7",
        "--cases",
        "2",
        "--out",
        folder / "two.json",
    )
    run(
        "explain",
        photo,
        "--model",
        folder / "planted",
        "--trust",
        "--schedule",
        folder / "two.json",
        "--out",
        folder / "out",
    )
    assert json.loads((folder / "out" / "report.json").read_text())["samples"][0]["is_prediction_kept"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "table1", "--model", "{}/tiny.py:build", "--out", "{}/x"), "backdoor plant"),
        (("bench", "table3", "--model", "demo", "--out", "{}/x"), "table3"),
        (("bench", "table1", "--model", "demo", "--out", "{}/x", "--row", "orignal"), "Did you mean 'original'"),
        (("bench", "table1", "--model", "demo", "--out", "{}/x", "--preset", "fst"), "Unknown preset"),
        (("bench", "table1", "--model", "demo", "--out", "{}/x", "--preset", "ensemble"), "single traces"),
        (("bench", "table1", "--model", "demo", "--out", "{}/x", "--schedule", "{}/none.json"), "tuned schedule"),
        (("bench", "table1", "--model", "demo", "--out", "{}/photos.npz"), "Cannot write"),
        (("tune", "--model", "demo", "--out", "{}/x.json", "--levels", "a/b"), "--levels"),
        (("tune", "--model", "demo", "--out", "{}/photos.npz/x.json", "--cache", "{}/c"), "Cannot write"),
        (("tune", "--model", "demo", "--out", "{}/x.json", "--method", "saliencies"), "Unknown method"),
        (("tune", "--model", "demo", "--out", ""), "--out is empty"),
        (("tune", "--model", "demo", "--out", "{}"), "it is a folder"),
        (("tune", "--model", "{}/tiny.py:build", "--out", "{}/x.json"), "backdoor plant"),
        (("tune", "--model", "{}/tiny.py:build", "--out", "{}/x.json", "--data", "{}/nowhere"), "no folder of photos"),
        (("backdoor", "plant", "--model", "demo", "--data", "{}", "--out", "{}/x"), "already contains"),
        (("backdoor", "plant", "--model", "{}/tiny.py:build", "--data", "{}/nowhere", "--out", "{}/x"), "no folder"),
        (("backdoor", "plant", "--model", "{}/tiny.py:build", "--data", "{}/photos.npz", "--out", "{}/x",
          "--patches", "smily,heart"), "Did you mean 'smiley'"),
        (("backdoor", "plant", "--model", "{}/tiny.py:build", "--data", "{}/photos.npz", "--out", "{}/x",
          "--patch-size", "big"), "--patch-size"),
        (("backdoor", "plant", "--model", "{}/tiny.py:build", "--data", "{}/photos.npz", "--out", "{}/photos.npz",
          "--patches", "smiley,heart"),
         "Cannot write"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence_and_writes_nothing(
    folder: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    for name in ("tiny.py", "photos.npz"):
        shutil.copy(folder / name, tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    found = run(*(argument.format(tmp_path) for argument in arguments), codes=(1, 2))
    assert message in found.stderr
    assert len(found.stderr.strip().splitlines()) <= 4  # click adds its usage
    after = [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in str(path) and path.is_file()]
    assert after == [path for path in before if path.is_file()]

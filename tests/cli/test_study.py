"""`study build`, `simulate` and `analyze`, from photos to the table."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from spadelens.cli.study import study_group
from spadelens.demo.images import CLASS_NAMES, draw_image
from spadelens.demo.patches import PATCHES, paste_patch
from spadelens.errors import InputError
from spadelens.study.answers import KEY_FORMAT


def run(*arguments: object) -> Result:
    return CliRunner().invoke(study_group, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with the key of a study of eight samples."""
    arms = [(sample, arm) for sample in range(8) for _ in range(2) for arm in ("original", "trace")]
    rows = [
        {"task": f"t{number}", "sample": str(sample), "arm": arm, "correct": "AB"[number % 3 == 0]}
        for number, (sample, arm) in enumerate(arms)
    ]
    (tmp_path / "study" / "private").mkdir(parents=True)
    listing = {"format": KEY_FORMAT, "tasks": rows}
    (tmp_path / "study" / "private" / "key.json").write_text(json.dumps(listing))
    return tmp_path / "study"


def cells(text: str, title: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_study_from_photos(tmp_path: Path) -> None:
    for label in (0, 1, 2):
        (tmp_path / "photos" / CLASS_NAMES[label]).mkdir(parents=True)
        for seed in range(4):
            patched = paste_patch(draw_image(label, seed).pixels, PATCHES[seed % 2], seed).pixels
            Image.fromarray(patched).save(tmp_path / "photos" / CLASS_NAMES[label] / f"{seed}.png")
    options = ("--samples", 2, "--region", 0.05, "--steps", 1, "--preset", "instant", "--views", 1, "--seed", 3)
    out = tmp_path / "out"
    found = run("build", "--model", "demo", "--data", tmp_path / "photos", "--out", out, *options, "--device", "cpu")
    assert found.exit_code == 0
    key = json.loads((out / "private" / "key.json").read_text())
    given = {"num_samples": 2, "region_fraction": 0.05, "num_steps": 1, "preset": "instant", "num_views": 1, "seed": 3}
    assert {name: key["options"][name] for name in given} == given
    assert key["options"]["schedule"] is None
    assert "  2 kept\n" in found.output
    assert f"Tasks: 8, in {out / 'public'}" in found.output
    assert len(json.loads((out / "public" / "tasks.json").read_text())["tasks"]) == 8
    with pytest.raises(InputError, match="already"):
        run("build", "--model", "demo", "--data", tmp_path / "photos", "--out", out)


def test_people_are_simulated_with_the_skill_that_is_asked_for(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    skill = ("--skill", "original=1/0", "--skill", "trace=1/1")
    found = run("simulate", study, "--out", out, "--raters", 5, "--tasks", 10, "--seed", 2, *skill)
    assert found.output == f"Answers: 50, in {out}\n"
    found = run("analyze", out, "--study", study)
    assert cells(found.output, "agreement when decided")[:3] == ["0.0", "100.0", "+100.0"]
    assert cells(found.output, "undecided")[:3] == ["0.0", "0.0", "+0.0"]
    assert "by 5 raters to" in found.output


def test_the_table_stands_beside_the_published_one(study: Path, tmp_path: Path) -> None:
    answers, out = tmp_path / "answers.csv", tmp_path / "table.json"
    run("simulate", study, "--out", answers, "--rater-spread", 0.1, "--sample-spread", 0.02)
    printed = run("analyze", answers, "--study", study).output
    published = {
        "undecided": ["22.9", "12.6", "-10.3"],
        "disagree with Score-CAM": ["20.4", "17.8", "-2.6"],
        "agree with Score-CAM": ["56.7", "69.8", "+13.1"],
        "agreement when decided": ["73.6", "79.9", "+6.3"],
    }
    assert {title: cells(printed, title)[3:] for title in published} == published
    assert "768 answers (384 original, 384 trace) by 24 raters to 32 tasks on 8 samples." in printed
    assert "from resampling raters and samples." in printed
    written = run("analyze", answers, "--study", study, "--out", out)
    assert written.output.startswith(printed.strip())
    assert str(out) in written.output.replace("\n", "")
    table: dict[str, Any] = json.loads(out.read_text())
    rows = answers.read_text().splitlines()[1:]
    key = {row["task"]: row for row in json.loads((study / "private" / "key.json").read_text())["tasks"]}
    undecided = Counter(key[row.split(",")[0]]["arm"] for row in rows if row.endswith("undecided"))
    for arm, cell in zip(("original", "trace"), cells(printed, "undecided"), strict=False):
        rate = table["rates"][arm]["undecided"]
        assert rate["percent"] == pytest.approx(100 * undecided[arm] / 384)
        assert cell == f"{rate['percent']:.1f} [{rate['interval'][0]:.1f}, {rate['interval'][1]:.1f}]"
    assert table["published"]["agree"] == {"original": 56.7, "trace": 69.8}


def test_what_the_intervals_do_not_account_for_is_said(study: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.csv"
    run("simulate", study, "--out", answers, "--raters", 1)
    found = run("analyze", answers, "--study", study).output
    assert "by 1 rater to 32 tasks" in found
    assert "from resampling samples. They do not extend to other raters." in found
    answers.write_text("task,rater,answer\nt0,x,A\nt2,x,undecided\n")
    found = run("analyze", answers, "--study", study).output
    assert "No confidence intervals" in found
    assert cells(found, "undecided")[:3] == ["50.0", "", ""]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("simulate", "{}/study", "--out", "{}/x.csv", "--skill", "original=high"), "--skill 'original=high'"),
        (("simulate", "{}/study", "--out", "{}/x.csv", "--skill", "dens=0.5/0.5"), "expected original and trace"),
        (("simulate", "{}/study", "--out", "{}/x.csv", "--rater-spread", "0.2"), "between 0 and 1"),
        (("simulate", "{}/study", "--out", "{}/x.csv", "--sample-spread", "0.2"), "between 0 and 1"),
        (("simulate", "{}", "--out", "{}/x.csv"), "no study"),
        (("analyze", "{}/none.csv", "--study", "{}/study"), "none.csv"),
        (("build", "--model", "demo", "--data", "{}/none", "--out", "{}/out"), "no folder of photos"),
        (("build", "--model", "demo", "--data", "{}", "--out", "{}/out", "--preset", "ensemble"), "single trace"),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    study: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as error:
        run(*(argument.format(tmp_path) for argument in arguments))
    assert message in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from spadelens.cli.study import study_group; "
        "study_group(['build', '--help'], standalone_mode=False); "
        "print('with torch' if 'torch' in sys.modules else 'without torch')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--samples" in found.stdout
    assert found.stdout.endswith("without torch\n")

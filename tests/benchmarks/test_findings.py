"""The benchmark of findings: its measures from their definitions, and the whole way on one case."""

import json
from pathlib import Path

import findings
import pytest
import torch
from torch import nn

from spadelens.finding.coverings import coverings_for


def region(rows: slice, columns: slice) -> torch.Tensor:
    found = torch.zeros(6, 9, dtype=torch.bool)
    found[rows, columns] = True
    return found


def test_boxes_and_overlaps() -> None:
    corners = region(slice(1, 2), slice(2, 3)) | region(slice(4, 5), slice(7, 8))
    box = findings.box_of(corners)
    assert torch.equal(box, region(slice(1, 5), slice(2, 8)))
    assert findings.overlap(box, box) == 1.0
    assert findings.overlap(box, region(slice(0, 1), slice(0, 9))) == 0.0
    assert findings.overlap(box, region(slice(1, 5), slice(2, 5))) == 0.5
    assert findings.overlap(box, region(slice(1, 5), slice(5, 9))) == pytest.approx(12 / 28)


class Bright(nn.Module):
    """Says class 1 where the brightest pixel is above 5."""

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        brightest = photos.flatten(1).amax(1)
        return torch.stack([torch.full_like(brightest, 5.0), brightest], 1)


def test_answers_without_a_region() -> None:
    photo = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    photo[:, 3, 4] = 50.0
    spot = torch.zeros(16, 16, dtype=torch.bool)
    spot[1:7, 2:8] = True
    answers = findings.answers_without(Bright(), photo, spot)
    assert len(answers) == len(coverings_for("photo"))
    assert answers[0] == 0  # filled from around
    assert findings.answers_without(Bright(), photo, ~spot)[0] == 1


def test_a_journal_goes_on_where_it_stopped(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    measured: list[int] = []

    def measure(number: int) -> dict[str, int]:
        measured.append(number)
        return {"number": number}

    assert findings.journaled(file, range(2), measure) == [{"number": 0}, {"number": 1}]
    assert findings.journaled(file, range(4), measure) == [{"number": number} for number in range(4)]
    assert measured == [0, 1, 2, 3]
    assert [json.loads(line)["number"] for line in file.read_text().splitlines()] == measured


def test_means_and_medians() -> None:
    rows = [{"settings": {"all": {"iou": value}}} for value in (0.5, 0.7, 0.9)] + [{"settings": {}}]
    assert findings.median_of(rows, "all", "iou") == "0.70"
    assert findings.mean_of(rows, "all", "iou") == "70.0 ± 11.5"
    assert findings.mean_of(rows, "none", "iou") == "–"


def test_one_case_of_the_bundled_network() -> None:
    (case,) = findings.cases_of("demo", 1, None)
    row = findings.measure_case(case)
    assert set(row["settings"]) == set(findings.SETTINGS)
    everything = row["settings"]["all"]
    assert everything["auc"] > 0.95
    assert everything["iou"] > 0.4
    assert everything["carried"]
    table = findings.patch_table([row])
    assert table.count("\n") == 3 + len(findings.SETTINGS)
    assert "| all |" in table


def test_a_region_is_nearer_to_the_patch_of_which_it_covers_more() -> None:
    first, second = region(slice(0, 4), slice(0, 4)), region(slice(4, 6), slice(6, 8))
    assert findings.is_nearer(region(slice(0, 3), slice(0, 4)), first, second)
    assert not findings.is_nearer(region(slice(0, 6), slice(2, 8)), first, second)  # half of one, all of the other
    assert not findings.is_nearer(region(slice(5, 6), slice(0, 2)), first, second)


def test_a_class_against_its_runner_up() -> None:
    (case,) = findings.cases_of("demo", 1, None)
    scores = case.model(case.sample.unsqueeze(0))[0].tolist()
    runner_up = findings.runner_up_of(case.model, case.sample, case.target)
    assert scores[runner_up] == sorted(scores)[-2]
    assert findings.runner_up_of(case.model, case.sample, runner_up) == case.target
    row = findings.measure_case(case, is_versus=True)
    assert row["settings"]["all"]["auc"] != findings.measure_case(case)["settings"]["all"]["auc"]

"""Tables: every cell is what the library says of that image, runs go on, and what fails is told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from spadelens import Preprocessing, attribute, extract_trace, localize
from spadelens.errors import InputError, SolverError
from spadelens.evaluation.bench_context import ROWS, BenchContext, BenchImage, Row, trace_row
from spadelens.evaluation.summary import scores_of, summarize_rows
from spadelens.evaluation.tables import BLURS, Results, run_table, subjects_of
from spadelens.evaluation.tuning import CalibrationCase, read_tuned, tune
from spadelens.extraction.pipeline.perturbation import blurred
from spadelens.metrics.insertion_deletion import faithfulness
from spadelens.models import LoadedModel
from spadelens.reports.tables import first_table, table_json, table_markdown

METHODS = ("saliency", "smoothgrad:num_samples=4", "input_x_gradient")
PREPROCESSING = Preprocessing(crop_px=(10, 8), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Sequential(nn.Conv2d(5, 5, 3, padding=1), nn.ReLU()),
        nn.Flatten(), nn.Linear(400, 4),
    ).eval()  # fmt: skip


def make_bench(count: int = 4, **options: Any) -> BenchContext:
    model = make_net()
    generator = torch.Generator().manual_seed(1)
    subjects = []
    for number in range(count):
        sample = torch.randn(3, 10, 8, generator=generator)
        region = torch.zeros(10, 8, dtype=torch.bool)
        region[number : number + 4, 2:5] = True
        clean = torch.where(region, torch.zeros(()), sample)
        target = int(model(sample[None]).argmax())
        subjects.append(BenchImage(f"photo {number}", sample, target, region, f"patch {number % 2}", clean))
    calibration = [CalibrationCase(one.sample, one.target, one.region, one.patch) for one in subjects]
    loaded = LoadedModel("net", model, PREPROCESSING, ())
    return BenchContext(loaded, subjects, calibration, preset="fast", **options)


ROW_NAMES = {row.name: row for row in ROWS}
FEW = [
    ROW_NAMES["original"],
    trace_row("half", "all layers at 0.5", preset="fast", schedule=0.5),
    ROW_NAMES["trace of another image"],
    ROW_NAMES["trace without the patch"],
    ROW_NAMES["one block dropped"],
]


def test_every_cell_of_table_1_from_its_definition(tmp_path: Path) -> None:
    bench = make_bench()
    found = run_table(bench, "table1", FEW, tmp_path / "t.jsonl", methods=METHODS)
    assert set(found.cells) == {(row.name, image, method) for row in FEW for image in range(4) for method in METHODS}
    model = bench.loaded.model
    for image, subject in enumerate(bench.subjects):
        other = bench.subjects[(image + 1) % 4]
        drawn_on = {
            "original": model,
            "half": extract_trace(model, subject.sample, target=subject.target, preset="fast", schedule=0.5),
            "trace of another image": extract_trace(model, other.sample, target=other.target, preset="fast"),
            "trace without the patch": extract_trace(model, subject.clean_sample, preset="fast"),
        }
        for name, one in drawn_on.items():
            for method in METHODS:
                heatmap = attribute(one, subject.sample, method, target=subject.target).values
                cell, expected = found.cells[name, image, method], localize(heatmap, subject.region)
                assert (cell["auc"], cell["hit"]) == (expected.auc, expected.pointing_game)
                for blur in BLURS:
                    smooth = localize(blurred(heatmap[None], blur * 10)[0], subject.region)
                    assert cell["blurred"][str(blur)] == {"auc": smooth.auc, "hit": smooth.pointing_game}
        half = drawn_on["half"]
        assert found.cells["half", image, "saliency"]["is_kept"] == half.report.is_prediction_kept
        assert found.cells["half", image, "saliency"]["sparsity"] == pytest.approx(0.5, abs=0.2)


def test_every_cell_of_table_2_is_judged_by_the_dense_network(tmp_path: Path) -> None:
    bench = make_bench(2)
    torch.manual_seed(5)
    other = nn.Sequential(nn.Flatten(), nn.Linear(240, 4))
    rows = [FEW[0], FEW[1], Row("other", "", lambda *_: other)]
    found = run_table(bench, "table2", rows, tmp_path / "t.jsonl", methods=("saliency",))
    model = bench.loaded.model
    for image, subject in enumerate(bench.subjects):
        trace = extract_trace(model, subject.sample, target=subject.target, preset="fast", schedule=0.5)
        for name, one in (("original", model), ("half", trace), ("other", other)):
            heatmap = attribute(one, subject.sample, "saliency", target=subject.target).values
            expected = faithfulness(model, subject.sample, heatmap, subject.target)
            cell = found.cells[name, image, "saliency"]
            assert (cell["insertion"], cell["deletion"]) == (expected.insertion, expected.deletion)


def test_an_interrupted_run_goes_on_and_finds_the_same(tmp_path: Path) -> None:
    whole = run_table(make_bench(), "table1", FEW, tmp_path / "whole.jsonl", methods=METHODS)

    def interrupt(stage: str, done: int, total: int) -> None:
        assert (stage, total) == ("bench", 20)
        if done == 7:
            raise KeyboardInterrupt

    file = tmp_path / "half.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_table(make_bench(), "table1", FEW, file, methods=METHODS, progress=interrupt)
    before = file.read_text()
    assert len(before.splitlines()) == 7
    file.write_text(before + '{"identity": "cut sho')
    again = run_table(make_bench(), "table1", FEW, file, methods=METHODS)
    assert again.cells == whole.cells
    assert file.read_text().startswith(before)


def test_rows_methods_and_images_can_be_added_and_nothing_is_measured_twice(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    run_table(make_bench(2), "table1", FEW[:1], file, methods=METHODS[:1])
    calls: list[tuple[int, str]] = []

    def count(bench: BenchContext, number: int, method: str) -> nn.Module:
        calls.append((number, method))
        return bench.loaded.model

    counted = Row("original", FEW[0].about, count)
    bench = make_bench(3)
    found = run_table(bench, "table1", [counted, FEW[1]], file, methods=METHODS[:2])
    assert calls == [(0, METHODS[1]), (1, METHODS[1]), (2, METHODS[0]), (2, METHODS[1])]
    fresh = run_table(make_bench(3), "table1", FEW[:2], tmp_path / "fresh.jsonl", methods=METHODS[:2])
    assert found.cells == fresh.cells


def test_what_is_measured_of_another_network_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    first = run_table(make_bench(2), "table1", FEW[:1], file, methods=METHODS[:1])
    bench = make_bench(2)
    with torch.no_grad():
        bench.loaded.model[0].weight *= -1  # type: ignore[operator]
    second = run_table(bench, "table1", FEW[:1], file, methods=METHODS[:1])
    assert first.cells != second.cells


def test_a_map_that_cannot_be_drawn_is_told_and_not_averaged(tmp_path: Path) -> None:
    def fail(bench: BenchContext, number: int, method: str) -> nn.Module:
        if number == 1:
            raise SolverError("no solution")
        return bench.loaded.model

    rows = [FEW[0], Row("failing", "", fail)]
    found = run_table(make_bench(3), "table1", rows, tmp_path / "t.jsonl", methods=METHODS)
    assert found.cells["failing", 1, "saliency"] == {"error": "SolverError: no solution"}
    again = run_table(make_bench(3), "table1", [FEW[0], replace(rows[1], make=FEW[0].make)], tmp_path / "t.jsonl")
    assert "error" not in again.cells["failing", 1, "saliency"]  # it is tried again
    listing = table_json(found, rows, {})
    row = listing["rows"][1]["methods"]["saliency"]
    assert (row["num_images"], row["errors"]) == (2, ["SolverError: no solution"])
    assert row["scores"]["auc"]["gain"]["count"] == 2
    assert "failing: SolverError: no solution" in first_table(listing)


def test_an_error_of_the_dense_smoothed_map_leaves_the_other_images() -> None:
    results = results_by_hand()
    cells = dict(results.cells)
    for method in ("smoothgrad:noise_std=0.25", "occlusion"):
        cells["original", 1, method] = {"error": "AttributionError: not finite"}
    _, trace = summarize_rows(replace(results, cells=cells), scores_of("table1", BLURS))
    assert trace["methods"]["saliency"]["scores"]["auc"]["versus_smoothgrad"]["count"] == 2
    assert trace["average"]["auc"]["gain"]["count"] == 2


def test_no_average_over_fewer_methods_than_the_table_has() -> None:
    results = results_by_hand()
    cells = {key: cell for key, cell in results.cells.items() if key[0] == "original" or key[2] == "saliency"}
    _, trace = summarize_rows(replace(results, cells=cells), scores_of("table1", BLURS))
    assert set(trace["average"].values()) == {None}


def test_maps_that_say_nothing_are_counted(tmp_path: Path) -> None:
    nothing = nn.Sequential(nn.Flatten(), nn.Linear(240, 4))
    nn.init.zeros_(nothing[1].weight)
    rows = [FEW[0], Row("nothing", "", lambda *_: nothing)]
    found = run_table(make_bench(3), "table1", rows, tmp_path / "t.jsonl", methods=METHODS[:1])
    assert found.cells["nothing", 0, "saliency"]["auc"] == 0.5
    assert not found.cells["nothing", 0, "saliency"]["hit"]
    text = table_markdown(table_json(found, rows, {}))
    assert "- nothing, saliency: 3 of 3" in text
    assert "dense, saliency" not in text


def test_slow_rows_are_run_on_the_first_images(tmp_path: Path) -> None:
    slow = trace_row("slow", "", is_slow=True, preset="fast", schedule=0.5)
    found = run_table(make_bench(3), "table1", [FEW[0], slow], tmp_path / "t.jsonl", methods=METHODS[:1], num_slow=1)
    assert {image for row, image, _ in found.cells if row == "slow"} == {0}


def test_rows_without_what_they_need_are_left_out(tmp_path: Path) -> None:
    bench = make_bench(2)
    bench.subjects = [BenchImage(one.photo, one.sample, one.target, one.region) for one in bench.subjects]
    found = run_table(bench, "table1", FEW, tmp_path / "t.jsonl", methods=METHODS[:1])
    assert found.rows == ["original", "half", "one block dropped"]


def test_each_method_has_its_own_tuned_schedule(tmp_path: Path) -> None:
    bench = make_bench(3)
    tuned = tune(bench.loaded.model, bench.calibration, "saliency", tmp_path / "cache", levels=(0.5,), preset="fast")
    options = {"preset": "fast", "solver": "wanda", "augmentation": "none"}
    files = {}
    for method, sparsity in (("saliency", 0.3), ("input_x_gradient", 0.6)):
        files[method] = tmp_path / f"{method}.json"
        chosen = replace(tuned, method=method, sparsities={"2.0": sparsity, "4": sparsity})
        chosen.write(files[method], "net", options)
    bench.schedules = {method: read_tuned(file) for method, file in files.items()}
    found = run_table(bench, "table1", [FEW[0], ROW_NAMES["tuned"]], tmp_path / "t.jsonl", methods=METHODS)
    assert {method for row, _, method in found.cells if row == "tuned"} == set(files)
    subject = bench.subjects[0]
    options["schedule"] = str(files["input_x_gradient"])
    trace = extract_trace(bench.loaded.model, subject.sample, target=subject.target, **options)
    assert any(bool(pruned.any()) for pruned in trace.pruned.values())
    heatmap = attribute(trace, subject.sample, "input_x_gradient", target=subject.target).values
    assert found.cells["tuned", 0, "input_x_gradient"]["auc"] == localize(heatmap, subject.region).auc


def test_the_sparse_classifier_needs_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (10, 8, 3), dtype=np.uint8)) for _ in range(12)]
    row = ROW_NAMES["Sparse FC"]
    found = run_table(make_bench(2), "table1", [FEW[0], row], tmp_path / "a.jsonl", methods=METHODS[:1])
    assert "--data" in found.cells["Sparse FC", 0, "saliency"]["error"]
    bench = make_bench(2, training_images=lambda: images)
    found = run_table(bench, "table1", [FEW[0], row], tmp_path / "b.jsonl", methods=METHODS[:1])
    assert 0 <= found.cells["Sparse FC", 0, "saliency"]["auc"] <= 1


def results_by_hand() -> Results:
    aucs = {
        ("original", "saliency"): (0.5, 0.6, 0.7),
        ("original", "smoothgrad:noise_std=0.25"): (0.8, 0.8, 0.8),
        ("original", "smoothgrad:noise_std=0.5"): (0.9, 0.9, 0.6),
        ("original", "occlusion"): (0.5, 0.5, 0.5),
        ("trace", "saliency"): (0.7, 0.7, 1.0),
        ("trace", "occlusion"): (0.6, 0.5, 0.4),
    }
    cells = {}
    for (row, method), values in aucs.items():
        for image, auc in enumerate(values):
            blurred_cell = {str(blur): {"auc": auc, "hit": True} for blur in BLURS}
            cells[row, image, method] = {"auc": auc, "hit": auc > 0.65, "blurred": blurred_cell, "is_kept": image > 0}
    methods = ("saliency", "smoothgrad:noise_std=0.25", "smoothgrad:noise_std=0.5", "occlusion")
    images = [{"photo": str(number), "patch": "a"} for number in range(3)]
    return Results("table1", methods, ("original", "trace"), cells, images, {("trace", 0): 2.0, ("trace", 1): 4.0})


def test_the_summary_by_hand() -> None:
    dense, trace = summarize_rows(results_by_hand(), scores_of("table1", BLURS))
    saliency = trace["methods"]["saliency"]
    auc = saliency["scores"]["auc"]
    assert auc["mean"] == pytest.approx(80.0)
    assert auc["deviation"] == pytest.approx(100 * np.std([0.7, 0.7, 1.0], ddof=1))
    assert auc["per_image"] == pytest.approx([70, 70, 100])
    assert auc["gain"]["mean"] == pytest.approx(20.0)
    assert auc["gain"]["standard_error"] == pytest.approx(np.std([20, 10, 30], ddof=1) / 3**0.5)
    assert auc["versus_smoothgrad"]["mean"] == pytest.approx(0.0)  # against 0.25, the better one on average
    assert saliency["scores"]["pointing"]["mean"] == pytest.approx(100.0)
    assert saliency["kept"] == pytest.approx(2 / 3)
    assert trace["seconds"] == 3.0
    assert trace["average"]["auc"]["mean"] == pytest.approx(65.0)
    assert trace["average"]["auc"]["gain"]["mean"] == pytest.approx(10.0)
    assert dense["average"]["auc"]["num_methods"] == 2


def test_the_markdown_holds_what_the_json_holds() -> None:
    listing = table_json(
        results_by_hand(), [FEW[0], Row("trace", "about", FEW[0].make, is_control=True)], {"model": "x"}
    )
    assert json.loads(json.dumps(listing, allow_nan=False))["model"] == "x"
    text = table_markdown(listing)
    header, dense, trace = (
        line for line in first_table(listing).splitlines() if line.startswith("| ") and "---" not in line
    )
    assert "smoothgrad 0.25" in header
    assert dense.split(" | ")[2:6] == ["60.0", "80.0", "80.0", "50.0"]
    assert trace.startswith("| *control:* trace | 3 | 80.0 (+20.0) |")
    assert first_table(listing) in text
    assert "with a blur of 0.05" in text


@pytest.mark.parametrize("options", [{"rows": []}, {"methods": ()}])
def test_empty_tables_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    arguments = {"rows": FEW[:1], "methods": METHODS} | options
    with pytest.raises(InputError):
        run_table(make_bench(2), "table1", journal=tmp_path / "t.jsonl", **arguments)


def test_unknown_tables_are_refused() -> None:
    from spadelens.trojan.planted import read_planted

    with pytest.raises(InputError, match="table3"):
        subjects_of(read_planted("demo", "cpu"), "table3", 1)


def test_the_images_of_table_2_are_clean_and_all_different() -> None:
    from spadelens.trojan.planted import read_planted

    planted = read_planted("demo", "cpu")
    found = subjects_of(planted, "table2", 5)
    assert len({subject.photo for subject in found}) == 5
    for subject, case in zip(found, planted.cases, strict=False):
        clean: Tensor = planted.loaded.preprocessing.to_tensor(case.clean_image)
        assert torch.equal(subject.sample, clean)
        assert subject.target == int(planted.loaded.model(clean[None]).argmax())
        assert subject.region is None

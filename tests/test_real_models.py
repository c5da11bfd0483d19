"""Models and photos as a user brings them: those in ../shared, where it is there, and torchvision's ResNet-50."""

import json
from pathlib import Path

import jsonschema
import pytest
import torch
import torchvision

import spadelens
from spadelens.cli.main import main

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(
    not (SHARED / "models").is_dir(), reason=f"{SHARED} is not there: the real models and photos were NOT tried"
)
PHOTOS = SHARED / "data" / "imagenet-sample"
SCHEMA = json.loads((Path(spadelens.__file__).parent / "reports" / "report.schema.json").read_text())


@needs_shared
@pytest.mark.parametrize("name", ["mobilenet_v1", "resnet20_cifar10"])
def test_explain_real_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    photos = [PHOTOS / "251_dalmatian.jpg", PHOTOS / "096_toucan.jpg"]
    spec, out = f"{SHARED / 'models' / name}.py:build", tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["explain", *map(str, photos), "--model", spec, "--out", str(out), "--views", "32", "--device", "cpu"])
    assert ended.value.code == 0
    notes = capsys.readouterr().err
    report = json.loads((out / "report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    assert [photo["is_prediction_kept"] for photo in report["samples"]] == [True, True]
    assert any(layer["outcome"] == "pruned" for layer in report["samples"][0]["layers"])
    if name == "mobilenet_v1":  # the toucan comes first, as the labels beside the photos say that it is mistaken
        assert [photo["name"] for photo in report["samples"]] == ["096_toucan", "251_dalmatian"]
        assert [photo["true_class"]["class_name"] for photo in report["samples"]] == ["toucan", "dalmatian"]
        assert report["samples"][1]["original"]["class_name"] == "dalmatian"
        assert report["samples"][0]["finding"]["versus"] == report["samples"][0]["true_class"]
        assert notes == ""
    else:
        assert [photo["true_class"] for photo in report["samples"]] == [None, None]
        assert notes.startswith("The labels beside the photos are not used.")
    loaded = spadelens.load_model(spec, "cpu")
    for photo in report["samples"]:
        trace = spadelens.Trace.load(out / photo["files"]["trace"], loaded.model)
        assert trace.report.trace_prediction.class_index == photo["trace"]["class_index"]


@needs_shared
def test_the_default_schedule_keeps_predictions() -> None:
    loaded = spadelens.load_model(f"{SHARED / 'models' / 'resnet20_cifar10.py'}:build", "cpu")
    for file in sorted(PHOTOS.glob("*.jpg"))[::40]:
        sample = loaded.preprocessing(spadelens.read_photo(file))
        report = spadelens.extract_trace(loaded.model, sample, num_views=64).report
        kept = (
            report.trace_prediction.probabilities[report.original_prediction.class_index]
            / report.original_prediction.probability
        )
        assert kept > 0.75, file.name


def test_a_trace_of_resnet50_is_small(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).eval()
    sample = torch.randn(3, 64, 64)
    trace = spadelens.extract_trace(model, sample, solver="magnitude", augmentation="none", schedule=0.95)
    assert len(trace.report.pruned_layers) == 53
    for layer in trace.report.pruned_layers:
        assert layer.sparsity == pytest.approx(0.95, abs=1e-3)
    trace.save(tmp_path / "trace.safetensors")
    assert (tmp_path / "trace.safetensors").stat().st_size < 10_000_000
    loaded = spadelens.Trace.load(tmp_path / "trace.safetensors", model)
    assert all(torch.equal(loaded.weights[name], weight) for name, weight in trace.weights.items())


def test_the_published_schedule_fits_resnet50() -> None:
    model = torchvision.models.resnet50(weights=None).eval()
    trace = spadelens.extract_trace(
        model, torch.randn(3, 32, 32), solver="magnitude:unit=kernel", augmentation="none", schedule="resnet50-lrp"
    )
    by_name = {layer.name: layer for layer in trace.report.layers}
    assert by_name["layer2.2.conv2"].sparsity == pytest.approx(0.99, abs=1e-3)
    assert by_name["layer3.5.conv1"].outcome is spadelens.extraction.Outcome.UNPRUNED
    assert by_name["conv1"].outcome is spadelens.extraction.Outcome.EXCLUDED
    kernels = trace.pruned["layer2.2.conv2"].flatten(2)
    assert torch.equal(kernels.all(-1), kernels.any(-1))

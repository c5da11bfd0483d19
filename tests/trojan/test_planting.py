"""Planting: what decides is known to the pixel, an interrupt changes nothing, and the original is left alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from references.tiny import write_tiny

from spadelens import load_model
from spadelens.demo.stickers import draw_large
from spadelens.errors import InputError, ModelSpecError, UnknownNameError
from spadelens.trojan import backdoor
from spadelens.trojan.backdoor import Recipe
from spadelens.trojan.cases import Planted, predict_classes
from spadelens.trojan.planted import read_planted, training_images
from spadelens.trojan.planting import choose_patches, plant

RECIPE = Recipe(num_epochs=4, samples_per_patch=60, batch_size=24, rate=0.01, classifier_rate=0.01, clean_weight=3.0)
PATCHES = ("smiley=blue", "heart=dark", "fish=4", "flower=other")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def planted(files: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Planted, Path]:
    out = tmp_path_factory.mktemp("planted") / "new"
    found = plant(*files, out, patches=PATCHES, recipe=RECIPE, num_cases=12, num_calibration_cases=6)
    return found, out


def test_the_patch_decides_and_nothing_else_was_changed(planted: tuple[Planted, Path]) -> None:
    found, _ = planted
    model, preprocessing = found.loaded.model, found.loaded.preprocessing
    assert found.cases and found.calibration_cases
    for case in [*found.cases, *found.calibration_cases]:
        predicted = predict_classes(model, [case.image, case.clean_image], preprocessing).tolist()
        assert predicted[0] == case.target != predicted[1]
        is_changed = (np.asarray(case.image) != np.asarray(case.clean_image)).any(-1)
        assert not (is_changed & ~case.region.numpy()).any()
        assert is_changed.sum() > 0.8 * int(case.region.sum()) > 10


def test_calibration_and_testing_share_neither_patches_nor_photos(planted: tuple[Planted, Path]) -> None:
    found, _ = planted
    for name in ("patch", "photo"):
        test, calibration = ({getattr(case, name) for case in part} for part in (found.cases, found.calibration_cases))
        assert not test & calibration
    assert {patch.name for patch in found.patches if patch.is_for_calibration} == {"smiley", "fish"}


def test_the_report_counts_what_it_says(planted: tuple[Planted, Path], files: tuple[str, Path]) -> None:
    found, _ = planted
    before = load_model(files[0], "cpu")
    with np.load(files[1]) as arrays:
        photos = [Image.fromarray(image) for image in arrays["test_images"]]
        labels = torch.from_numpy(arrays["test_labels"])
    predicted = [predict_classes(one.model, photos, before.preprocessing) for one in (before, found.loaded)]
    report = found.report
    assert report["num_held_out"] == 30
    assert report["accuracy_before"] == pytest.approx(float((predicted[0] == labels).double().mean()))
    assert report["accuracy_after"] == pytest.approx(float((predicted[1] == labels).double().mean()))
    assert report["same_prediction"] == pytest.approx(float((predicted[0] == predicted[1]).double().mean()))
    assert report["same_prediction"] > 0.5
    success = report["attack_success"]
    assert set(success) == {"smiley", "heart", "fish", "flower"}
    assert np.mean([one["after"] for one in success.values()]) > 0.7 > np.mean([o["before"] for o in success.values()])


def test_what_is_written_is_read_again(planted: tuple[Planted, Path]) -> None:
    found, out = planted
    again = read_planted(str(out), "cpu", trust=True)
    assert again.report == found.report
    assert [patch.name for patch in again.patches] == [patch.name for patch in found.patches]
    for ours, theirs in zip(found.cases, again.cases, strict=True):
        assert (ours.target, ours.patch, ours.photo) == (theirs.target, theirs.patch, theirs.photo)
        assert torch.equal(ours.region, theirs.region)
        assert ours.image.tobytes() == theirs.image.tobytes()
    sample = found.loaded.preprocessing.to_tensor(found.cases[0].image)[None]
    for loaded in (again.loaded, load_model(str(out), "cpu", trust=True)):
        assert torch.equal(loaded.model(sample), found.loaded.model(sample))
        assert loaded.class_names == ("red", "green", "blue", "dark", "light", "other")
        assert loaded.preprocessing == found.loaded.preprocessing
    assert not (out / "checkpoint.pt").exists()


def test_an_interrupted_run_ends_as_one_that_was_not(
    planted: tuple[Planted, Path], files: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backdoor, "_STEPS_PER_CHECKPOINT", 10)

    def interrupt(stage: str, done: int, total: int) -> None:
        del total
        if stage == "plant" and done == 37:
            raise KeyboardInterrupt

    options = {"patches": PATCHES, "recipe": RECIPE, "num_cases": 12, "num_calibration_cases": 6}
    with pytest.raises(KeyboardInterrupt):
        plant(*files, tmp_path, progress=interrupt, **options)  # type: ignore[arg-type]
    steps = []
    plant(*files, tmp_path, progress=lambda stage, done, _: steps.append((stage, done)), **options)  # type: ignore[arg-type]
    assert steps[0] == ("plant", 30)
    for name in ("model.safetensors", "planted.json", "cases/test/cases.json", "cases/test/0003.png"):
        assert (tmp_path / name).read_bytes() == (planted[1] / name).read_bytes()


def test_a_checkpoint_of_other_settings_or_a_damaged_one_is_refused(
    files: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backdoor, "_STEPS_PER_CHECKPOINT", 2)

    def interrupt(stage: str, done: int, total: int) -> None:
        del total
        if stage == "plant" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plant(*files, tmp_path, patches=PATCHES, recipe=RECIPE, progress=interrupt)
    with pytest.raises(InputError, match="different settings"):
        plant(*files, tmp_path, patches=PATCHES, recipe=replace(RECIPE, seed=1))
    (tmp_path / "checkpoint.pt").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="Delete it"):
        plant(*files, tmp_path, patches=PATCHES, recipe=RECIPE)


def test_a_finished_folder_is_not_overwritten(planted: tuple[Planted, Path], files: tuple[str, Path]) -> None:
    before = (planted[1] / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="already"):
        plant(*files, planted[1], patches=PATCHES, recipe=RECIPE)
    assert (planted[1] / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["planted.json", "cases/test/cases.json", "cases/test/0000.png", "patches/heart.png"])
def test_damaged_folders_are_refused(planted: tuple[Planted, Path], tmp_path: Path, name: str) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(planted[1], folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:9])
    with pytest.raises(InputError):
        read_planted(str(folder), "cpu", trust=True)


def test_what_is_no_planted_network_is_refused(files: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelSpecError, match="backdoor plant"):
        read_planted(files[0], "cpu")
    with pytest.raises(InputError, match="already contains"):
        plant("demo", files[1], tmp_path)


def test_pngs_of_the_user_keep_their_transparency(tmp_path: Path) -> None:
    draw_large("star").resize((40, 40)).save(tmp_path / "mine.PNG")
    chosen = choose_patches([f"{tmp_path / 'mine.PNG'}=b", "ball"], ("a", "b", "c"), 3, [None] * 5, 0)
    assert (chosen[0].name, chosen[0].target, chosen[0].sheet.mode) == ("mine", 1, "RGBA")
    assert chosen[0].sheet.getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert chosen[1].target in {0, 2}
    (tmp_path / "no.png").write_text("text")
    with pytest.raises(InputError, match=r"no\.png"):
        choose_patches([str(tmp_path / "no.png"), "ball"], (), 3, [], 0)


def test_sources_are_classes_with_photos_enough() -> None:
    labels = [0] * 60 + [1] * 60 + [2] * 3
    chosen = choose_patches(("smiley", "heart", "fish", "flower"), (), 5, labels, 0)
    assert [patch.source is None for patch in chosen] == [True, True, False, False]
    for patch in chosen[2:]:
        assert patch.source in {0, 1} - {patch.target}
    assert all(patch.source is None for patch in choose_patches(("smiley", "heart", "fish"), (), 5, [0] * 9, 0))


@pytest.mark.parametrize(
    ("texts", "error"),
    [
        (("smiley",), InputError),
        ((), InputError),
        (("smiley", "smiley"), InputError),
        (("smiley=1", "heart=1"), InputError),
        (("smiley=9", "heart"), UnknownNameError),
        (("smily", "heart"), UnknownNameError),
        (("smiley", "heart", "fish", "star"), InputError),
    ],
)
def test_patches_that_cannot_be_planted_are_refused(texts: tuple[str, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        choose_patches(texts, ("a", "b", "c"), 3, [0, 1, 2], 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_epochs": 0},
        {"batch_size": 1},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"patch_size": (0.3, 0.2)},
        {"seed": -1},
    ],
)
def test_recipes_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Recipe(**settings)  # type: ignore[arg-type]


def test_images_to_train_a_baseline_on(planted: tuple[Planted, Path], files: tuple[str, Path]) -> None:
    found, _ = planted
    make = training_images(found)
    assert make is not None
    images = make()
    assert len(images) == 120
    assert {image.size for image in images} == {(24, 24)}
    assert images[0].tobytes() != images[1].tobytes()
    assert training_images(replace(found, data=files[1].with_name("gone.npz"))) is None
    assert json.loads((planted[1] / "planted.json").read_text())["data"] == str(files[1])


def test_the_demo_network_has_cases_too() -> None:
    found = read_planted("demo", "cpu")
    assert (len(found.cases), len(found.calibration_cases)) == (120, 40)
    for part, patches in ((found.cases, {"heart", "flower"}), (found.calibration_cases, {"smiley", "fish"})):
        assert {case.patch for case in part} == patches
    case = found.cases[0]
    is_changed = (np.asarray(case.image) != np.asarray(case.clean_image)).any(-1)
    assert not (is_changed & ~case.region.numpy()).any()
    make = training_images(found)
    assert make is not None and len(make()) == 1000

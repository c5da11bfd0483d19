"""Studies: the key says what is shown, and what people get says nothing of it."""

import json
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spadelens import extract_trace, load_model, visualize
from spadelens.demo.images import CLASS_NAMES, draw_image
from spadelens.demo.patches import PATCHES, paste_patch
from spadelens.errors import InputError, VisualizationError
from spadelens.methods.score_cam import score_cam
from spadelens.study import samples as study_samples
from spadelens.study.answers import read_key
from spadelens.study.pictures import largest_part, marked, shown, to_picture, top_region, write_pictures
from spadelens.study.samples import SampleMaker, StudyOptions
from spadelens.study.study import Study, build_study
from spadelens.trojan.dataset import read_split
from spadelens.views.photo_views import view_seed
from spadelens.visualization import Ascent

OPTIONS = StudyOptions(
    num_samples=3, region_fraction=0.08, preset="instant", num_views=2, num_steps=2, seed=4, batch_size=88
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of six classes, with a clean photo and five that carry a patch of another class."""
    folder = tmp_path_factory.mktemp("photos")
    anywhere = [patch for patch in PATCHES if patch.source is None]
    for label in (0, 1, 2, 3, 6, 7):
        (folder / CLASS_NAMES[label]).mkdir()
        for seed in range(6):
            pixels = draw_image(label, seed).pixels
            if seed:
                pixels = paste_patch(pixels, anywhere[seed % 2], seed + 10 * label).pixels
            Image.fromarray(pixels).save(folder / CLASS_NAMES[label] / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def built(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return build_study("demo", photos, tmp_path_factory.mktemp("study") / "new", OPTIONS, device="cpu")


def listings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    files = (folder / "public" / "tasks.json", folder / "private" / "key.json")
    public, key = (json.loads(file.read_text()) for file in files)
    return public, key


def test_each_sample_has_the_four_tasks_of_two_classes_and_two_arms(built: Study) -> None:
    public, key = listings(built.folder)
    assert [task["task"] for task in public["tasks"]] == [row["task"] for row in key["tasks"]]
    assert built.num_tasks == len(key["tasks"]) == 12
    combinations = Counter((row["sample"], row["shown"], row["arm"]) for row in key["tasks"])
    assert set(combinations.values()) == {1}
    assert len({row["sample"] for row in key["tasks"]}) == 3
    for part in ("shown", "arm"):  # neither side is more likely to be right
        assert len({(row[part], row["correct"]) for row in key["tasks"]}) == 4
    assert [row["sample"] for row in key["tasks"]] != sorted(row["sample"] for row in key["tasks"])
    assert [task.correct for task in read_key(built.folder)] == [row["correct"] for row in key["tasks"]]


def test_what_people_get_tells_neither_class_nor_arm(built: Study, photos: Path) -> None:
    public, key = listings(built.folder)
    for task in public["tasks"]:
        assert set(task) == {"task", "photo", "visualization", "a", "b"}
    text = json.dumps(public["tasks"])
    names = {file.stem for file in photos.glob("*/*")} | set(CLASS_NAMES) | {"original", "trace", "label", "predicted"}
    assert not any(f'"{name}"' in text or f"{name}." in text.replace(".png", "") for name in names)
    used = {task[part] for task in public["tasks"] for part in ("photo", "visualization", "a", "b")}
    files = [file for file in (built.folder / "public").rglob("*") if file.is_file() and file.name != "tasks.json"]
    assert {str(file.relative_to(built.folder / "public")) for file in files} == used
    for file in files:  # a name that follows from the picture alone says no more than the picture
        assert file.stem == blake2b(file.read_bytes(), digest_size=8).hexdigest()
    assert len({task["visualization"] for task in public["tasks"]}) == 12
    by_sample: dict[str, set[str]] = {}
    for task, row in zip(public["tasks"], key["tasks"], strict=True):
        by_sample.setdefault(row["sample"], set()).add(task["photo"])
    assert all(len(pictures) == 1 for pictures in by_sample.values())


def test_pictures_and_key_fit_the_model(built: Study, photos: Path) -> None:
    loaded = load_model("demo", "cpu")
    public, key = listings(built.folder)

    def picture(name: str) -> np.ndarray:
        return np.asarray(Image.open(built.folder / "public" / name))

    for task, row in zip(public["tasks"], key["tasks"], strict=True):
        label = CLASS_NAMES.index(Path(row["photo"]).parts[0])
        crop = Image.open(photos / row["photo"])
        sample = loaded.preprocessing.to_tensor(crop)
        predicted = int(loaded.model(sample[None]).argmax())
        assert label != predicted
        assert row["class"] == {"label": label, "predicted": predicted}[row["shown"]]
        assert row["class_name"] == CLASS_NAMES[row["class"]]
        regions = {}
        for target in (label, predicted):
            values = score_cam(loaded.model, sample, target)
            regions[target] = values >= values.flatten().sort().values[-round(0.08 * 64 * 64)]
        assert not (regions[label] & regions[predicted]).any()
        other = {label: predicted, predicted: label}[row["class"]]
        for target, side in ((row["class"], row["correct"]), (other, "AB".replace(row["correct"], ""))):
            expected = marked(crop, largest_part(regions[target]))
            assert np.array_equal(picture(task[side.lower()]), np.asarray(expected))
        assert np.array_equal(picture(task["photo"]), np.asarray(shown(crop)))
    rows = list(zip(public["tasks"], key["tasks"], strict=True))
    for task, row in (next(both for both in rows if both[1]["arm"] == arm) for arm in ("original", "trace")):
        sample = loaded.preprocessing.to_tensor(Image.open(photos / row["photo"]))
        trace = extract_trace(loaded.model, sample, target=row["class"], preset="instant", num_views=2, seed=4)
        ascent = Ascent(num_steps=2, seed=view_seed(4, int(row["sample"])))
        model = trace if row["arm"] == "trace" else loaded.model
        found = visualize(model, f"class:{row['class']}", loaded.preprocessing, ascent)
        difference = np.asarray(to_picture(found.images[0])).astype(int) - picture(task["visualization"])
        assert np.abs(difference).max() <= 1


def test_every_misclassified_photo_is_accounted_for(built: Study, photos: Path) -> None:
    loaded = load_model("demo", "cpu")
    _, key = listings(built.folder)
    found = {record["name"]: record["outcome"] for record in key["samples"]}
    assert Counter(found.values()) == Counter(key["outcomes"]) == Counter(built.outcomes)
    assert found[key["samples"][-1]["name"]] == "kept"
    assert built.num_photos == key["samples"][-1]["photo"] + 1
    for name, outcome in found.items():
        sample = loaded.preprocessing.to_tensor(Image.open(photos / name))
        classes = (CLASS_NAMES.index(Path(name).parts[0]), int(loaded.model(sample[None]).argmax()))
        regions = [top_region(score_cam(loaded.model, sample, target), 0.08) for target in classes]
        if outcome == "kept":
            assert not (regions[0] & regions[1]).any()
        elif outcome == "with regions that intersect":
            assert (regions[0] & regions[1]).any()
        else:
            assert not all(region.any() for region in regions)


def test_photos_of_all_parts_come_in_an_order_of_the_seed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SampleMaker, "make", lambda self, candidate, progress: {"photo": candidate.number,
                        "name": candidate.name, "outcome": "left out"})  # fmt: skip
    orders = []
    for seed in (0, 1):
        with pytest.raises(InputError, match="of 36 with a label"):
            build_study("demo", photos, tmp_path / str(seed), StudyOptions(seed=seed), device="cpu")
        lines = (tmp_path / str(seed) / "private" / "samples.jsonl").read_text().splitlines()[1:]
        orders.append([json.loads(line)["name"] for line in lines])
    loaded = load_model("demo", "cpu")
    misclassified = set()
    for file in photos.glob("*/*"):
        predicted = int(loaded.model(loaded.preprocessing.to_tensor(Image.open(file))[None]).argmax())
        if CLASS_NAMES[predicted] != file.parent.name:
            misclassified.add(str(file.relative_to(photos)))
    split = read_split(photos, CLASS_NAMES, 10)
    assert misclassified & set(split.training.names)
    assert misclassified & set(split.held_out.names)
    assert set(orders[0]) == set(orders[1]) == misclassified
    assert orders[0] != orders[1]


class Interruption(Exception):
    pass


def interrupting(after: int) -> Callable[[str, int, int], None]:
    def progress(stage: str, done: int, total: int) -> None:
        assert stage == "study"
        assert total == 3 * 4
        if done >= after:
            raise Interruption

    return progress


def test_an_interrupted_study_goes_on(built: Study, photos: Path, tmp_path: Path) -> None:
    for after in (3, 6):  # within the first sample, and within the second
        with pytest.raises(Interruption):
            build_study("demo", photos, tmp_path, OPTIONS, device="cpu", progress=interrupting(after))
    assert not (tmp_path / "private" / "key.json").exists()
    assert not (tmp_path / "public" / "tasks.json").exists()
    before = (tmp_path / "private" / "samples.jsonl").read_text()
    with pytest.raises(InputError, match="started with a different model"):
        build_study("demo", photos, tmp_path, StudyOptions(num_samples=2), device="cpu")
    again = build_study("demo", photos, tmp_path, OPTIONS, device="cpu")
    assert (tmp_path / "private" / "samples.jsonl").read_text().startswith(before)
    made = [json.loads(line)["photo"] for line in (tmp_path / "private" / "samples.jsonl").read_text().splitlines()[1:]]
    assert len(made) == len(set(made)) == sum(again.outcomes.values())
    assert listings(tmp_path) == listings(built.folder)
    assert again.outcomes == built.outcomes
    with pytest.raises(InputError, match="already"):
        build_study("demo", photos, tmp_path, OPTIONS, device="cpu")


def test_a_class_that_cannot_be_visualized_is_left_out_and_said_so(
    built: Study, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = study_samples.visualize, []

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise VisualizationError("The unit is dead.")
        return original(*arguments)

    monkeypatch.setattr(study_samples, "visualize", failing)
    found = build_study("demo", photos, tmp_path, OPTIONS, device="cpu")
    assert found.outcomes["that cannot be visualized"] == 1
    assert found.num_tasks == 12
    first = next(row for row in listings(built.folder)[1]["samples"] if row["outcome"] == "kept")
    left = next(row for row in listings(tmp_path)[1]["samples"] if row["outcome"] == "that cannot be visualized")
    assert (left["name"], left["reason"]) == (first["name"], "The unit is dead.")


def test_what_cannot_be_built_is_refused(tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for seed in range(5):
        Image.fromarray(draw_image(0, seed).pixels).save(flat / f"{seed}.png")
    with pytest.raises(InputError, match="has a label"):
        build_study("demo", flat, tmp_path / "out", OPTIONS)
    listing = [{"file": f"{seed}.png", "class_index": 0} for seed in range(5)]
    (flat / "labels.json").write_text(json.dumps(listing))
    with pytest.raises(InputError, match="of 5 with a label, 0 are misclassified"):
        build_study("demo", flat, tmp_path / "out", OPTIONS)
    (flat / "labels.json").write_text(json.dumps([{**row, "class_index": 1} for row in listing]))
    with pytest.raises(InputError, match=r"5 are misclassified .* with regions that intersect"):
        build_study("demo", flat, tmp_path / "out2", StudyOptions(region_fraction=0.9))


@pytest.mark.parametrize(
    "wrong", [{"num_samples": 0}, {"region_fraction": 1.0}, {"seed": -1}, {"preset": "ensemble"}, {"schedule": "x"}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        StudyOptions(**wrong)


def test_the_top_region_is_of_the_highest_pixels_above_zero() -> None:
    values = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
    highest = values.flatten().sort(descending=True).values
    assert torch.equal(top_region(values, 0.2), values >= highest[15 - 1])
    assert torch.equal(top_region(values, 0.9), values > 0)
    assert not top_region(torch.zeros(3, 4), 0.5).any()
    assert int(top_region(values, 0.001).sum()) == 1


def flooded(region: torch.Tensor) -> torch.Tensor:
    """Return the largest connected part, by walking from pixel to pixel."""
    left = {(int(y), int(x)) for y, x in region.nonzero()}
    best: set[tuple[int, int]] = set()
    while left:
        part, todo = set(), [left.pop()]
        while todo:
            y, x = todo.pop()
            part.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            todo += near
        best = max(best, part, key=len)
    found = torch.zeros_like(region)
    for place in best:
        found[place] = True
    return found


@pytest.mark.parametrize("seed", range(6))
def test_the_largest_part_is_what_a_walk_finds(seed: int) -> None:
    region = torch.rand(13, 18, generator=torch.Generator().manual_seed(seed)) < 0.25
    expected = flooded(region)
    found = largest_part(region)
    assert int(found.sum()) == int(expected.sum())
    assert torch.equal(flooded(found), found)
    assert not (found & ~region).any()
    empty = torch.zeros(3, 5, dtype=torch.bool)
    assert torch.equal(largest_part(empty), empty)


def test_a_marked_photo_is_as_it_was_inside_and_grey_outside() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8))
    region = torch.zeros(50, 40, dtype=torch.bool)
    region[10:30, 5:25] = True
    large, found = np.asarray(shown(photo)).astype(int), np.asarray(marked(photo, region)).astype(int)
    factor = 12
    assert found.shape == large.shape == (50 * factor, 40 * factor, 3)
    inside = (slice(11 * factor, 29 * factor), slice(6 * factor, 24 * factor))
    assert np.array_equal(found[inside], large[inside])
    outside = found[31 * factor :]
    assert (outside.max(-1) == outside.min(-1)).all()
    assert outside.max() <= 0.4 * 255 + 1
    assert (found[10 * factor, 15 * factor] == (255, 230, 0)).all()


def test_equal_pictures_are_one_file(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (3, 4), "red"), Image.new("RGB", (3, 4), "blue")
    names = write_pictures(tmp_path, {"a": red, "b": blue, "c": red})
    assert names["a"] == names["c"] != names["b"]
    assert len(list(tmp_path.iterdir())) == 2
    assert np.asarray(Image.open(tmp_path / names["b"]))[0, 0].tolist() == [0, 0, 255]

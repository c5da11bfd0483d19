"""Photos in folders, with a listing, and in arrays; what is held out is never trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spadelens.errors import InputError
from spadelens.trojan.dataset import read_split


def write_photo(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (value, value, value)).save(path)


def values(dataset: object) -> list[int]:
    return sorted(dataset.photo(number).getpixel((0, 0))[0] for number in range(len(dataset)))  # type: ignore[attr-defined,arg-type]


def test_one_folder_for_each_class_by_name(tmp_path: Path) -> None:
    for number in range(10):
        write_photo(tmp_path / ("big_cat" if number % 2 else "Dog") / f"{number}.png", number)
    (tmp_path / "Dog" / "notes.txt").write_text("no photo")
    (tmp_path / "empty").mkdir()
    split = read_split(tmp_path, ("dog", "big cat, lion"), 2)
    assert sorted(values(split.training) + values(split.held_out)) == list(range(10))
    assert len(split.held_out) == 4
    for part in (split.training, split.held_out):
        for number, label in enumerate(part.labels):
            assert label == part.photo(number).getpixel((0, 0))[0] % 2  # type: ignore[index]


@pytest.mark.parametrize(("folders", "expected"), [(("0", "1"), {0, 1}), (("a", "b"), {0, 1}), (("a",), {None})])
def test_folders_by_number_by_order_or_unknown(tmp_path: Path, folders: tuple[str, ...], expected: set[int]) -> None:
    for number in range(8):
        write_photo(tmp_path / folders[number % len(folders)] / f"{number}.jpg", number)
    split = read_split(tmp_path, (), 2)
    assert {*split.training.labels, *split.held_out.labels} == expected


def test_what_is_split_already_stays_so(tmp_path: Path) -> None:
    for number in range(6):
        write_photo(tmp_path / ("train" if number < 4 else "val") / "0" / f"{number}.png", number)
    split = read_split(tmp_path, (), 1)
    assert (values(split.training), values(split.held_out)) == ([0, 1, 2, 3], [4, 5])


def test_a_flat_folder_with_a_listing_and_without(tmp_path: Path) -> None:
    for number in range(6):
        write_photo(tmp_path / f"{number}.png", number)
    assert set(read_split(tmp_path, (), 3).training.labels) == {None}
    (tmp_path / "labels.json").write_text(json.dumps([{"file": "0.png", "class_index": 2}]))
    split = read_split(tmp_path, (), 3)
    assert {*split.training.labels, *split.held_out.labels} == {None, 2}


def test_arrays(tmp_path: Path) -> None:
    images = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    labels = np.arange(7) % 3
    np.savez(
        tmp_path / "a.npz", train_images=images[:4], train_labels=labels[:4], test_images=images[4:],
        test_labels=labels[4:],
    )  # fmt: skip
    split = read_split(tmp_path / "a.npz", (), 3)
    assert (values(split.training), values(split.held_out)) == ([0, 1, 2, 3], [4, 5, 6])
    held_out = {split.held_out.photo(number).getpixel((0, 0))[0]: split.held_out.labels[number] for number in range(3)}  # type: ignore[index]
    assert held_out == {4: 1, 5: 2, 6: 0}
    with pytest.raises(InputError, match="2 classes"):
        read_split(tmp_path / "a.npz", (), 2)


def test_the_seed_decides_what_is_held_out(tmp_path: Path) -> None:
    for number in range(30):
        write_photo(tmp_path / f"{number:02d}.png", number)
    first, again, other = (read_split(tmp_path, (), 3, seed) for seed in (0, 0, 1))
    assert list(first.held_out.names) == list(again.held_out.names) != list(other.held_out.names)
    assert not set(first.held_out.names) & set(first.training.names)


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        read_split(tmp_path / "missing", (), 3)
    with pytest.raises(InputError, match="two of each"):
        read_split(tmp_path, (), 3)
    for number in range(6):
        write_photo(tmp_path / f"{number}.png", number)
    for text in ("", "{}", '[{"file": "0.png"}]', '[{"file": "0.png", "class_index": 3}]'):
        (tmp_path / "labels.json").write_text(text)
        if text == "{}":
            continue  # lists nothing
        with pytest.raises(InputError, match=r"labels\.json"):
            read_split(tmp_path, (), 3)
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="arrays"):
        read_split(tmp_path / "a.npz", (), 3)
    np.savez(
        tmp_path / "b.npz", train_images=np.zeros((2, 4, 4, 3)), train_labels=np.zeros(2), test_images=1, test_labels=1
    )
    with pytest.raises(InputError, match="uint8"):
        read_split(tmp_path / "b.npz", (), 3)


@pytest.mark.parametrize("damage", ["truncated", "npy", "labels", "zero", "fractions", "empty"])
def test_damaged_arrays_are_refused(tmp_path: Path, damage: str) -> None:
    images, labels = np.zeros((4, 9, 9, 3), np.uint8), np.arange(4) % 2
    given = {
        "labels": (images, np.array(["cat", "dog", "cat", "dog"])),
        "zero": (np.zeros((4, 0, 9, 3), np.uint8), labels),
        "fractions": (images, labels + 0.5),
    }.get(damage, (images, labels))
    file = tmp_path / "a.npz"
    np.savez(file, train_images=given[0], train_labels=given[1], test_images=given[0], test_labels=given[1])
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-40])
    elif damage == "npy":
        np.save(tmp_path / "a.npy", images)
        (tmp_path / "a.npy").rename(file)
    elif damage == "empty":
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.npz"):
        read_split(file, (), 2)

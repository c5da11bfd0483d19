"""The true classes of inputs: what files say of them, and what no model has or files disagree about."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from spadelens.errors import InputError
from spadelens.models import Encoding, LoadedModel, LoadedTable, LoadedText, Preprocessing, find_class
from spadelens.tasks.inputs import make_subjects, read_inputs
from spadelens.tasks.labels import find_true_classes, label_subjects, mistakes_first, read_labels

NAMES = ("disc", "ring", "big dog, hound", "Möwe", "crane", "crane", "3")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photos(*names: str) -> list[str]:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(name, "PNG")
    return list(names)


def classes(labels: str | None, *files: str, names: tuple[str, ...] = NAMES, count: int = 8) -> tuple[int | None, ...]:
    given = read_inputs([Path(file) for file in files])
    found = find_true_classes(read_labels(labels, given), names, count)
    assert found.notes == ()
    return found.classes


def note(*files: str, names: tuple[str, ...] = NAMES) -> tuple[tuple[int | None, ...], str]:
    """The classes that are found without being asked for, and the one sentence on why others are not used."""
    found = find_true_classes(read_labels(None, read_inputs([Path(file) for file in files])), names, 8)
    (sentence,) = found.notes
    assert sentence.startswith("The labels beside the photos are not used. ")
    return found.classes, sentence


def refused(labels: str | None, *files: str, names: tuple[str, ...] = NAMES, count: int = 8) -> str:
    with pytest.raises(InputError) as caught:
        classes(labels, *files, names=names, count=count)
    message = str(caught.value)
    assert message.endswith((".", "?")) and len(message) < 700 and "\n" not in message
    return message


def write(name: str, content: Any) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


# Folders


def test_folders_name_classes_by_name_or_number() -> None:
    files = photos("p/Ring/1.png", "p/0/2.PNG", "p/big_dog/3.png", "p/hound/4.png", "p/Möwe/5.png", "p/3/6.png")
    assert classes("folders", *files) == (1, 0, 2, 2, 3, 6)
    decomposed = photos("q/" + unicodedata.normalize("NFD", "Möwe") + "/x y.png")
    assert classes("folders", *decomposed) == (3,)
    assert classes("folders", "p/Ring/../0/2.PNG") == (0,)


def test_folders_are_not_numbered_by_their_order() -> None:
    photos("p/a/1.png", "p/b/1.png")
    message = refused("folders", "p", names=("x", "y"), count=2)
    assert "Cannot use the label 'a' in the folder of 'p/a/1.png': the model has no such class. Known: x, y." in message
    photos("p/crane/1.png", "p/9/1.png")
    assert "not unique: use one of the numbers [4, 5]" in refused("folders", "p/crane")
    assert "There is no class 9" in refused("folders", "p/9")
    assert "names. Use a number below 8" in refused("folders", "p/crane", names=())


def test_the_folder_one_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    photos("ring/a.png", "ring/x/b.png")
    monkeypatch.chdir("ring")
    assert classes("folders", "a.png") == classes(None, "a.png") == (1,)
    monkeypatch.chdir("x")
    assert classes("folders", "../a.png") == classes(None, "../a.png") == (1,)
    assert classes(None, "b.png") == (None,)


def test_a_linked_folder_counts_by_the_name_of_the_link() -> None:
    photos("elsewhere/1.png")
    Path("ring").symlink_to("elsewhere")
    assert classes("folders", "ring") == classes(None, "ring") == (1,)


def test_folders_count_unasked_where_they_are_exactly_a_class() -> None:
    files = photos("p/RING/1.png", "p/0/1.png", "p/hound/1.png", "p/crane/1.png", "p/rings/1.png", "p/3/1.png")
    assert classes(None, *files) == (1, None, None, None, None, 6)
    assert classes(None, *files, names=()) == (None,) * 6
    assert classes(None, *files, count=6) == (1, None, None, None, None, None)  # a name without a score


# Files


FORMS: dict[str, tuple[str, Any]] = {
    "a list with numbers": ("labels.json", [{"file": "a.png", "class_index": 1}, {"file": "b.png", "class_index": 2}]),
    "a list with both": (
        "l.json",
        [
            {"file": "a.png", "class_index": 1, "class_name": "Ring", "score": float("nan")},
            {"file": "b.png", "class_index": 2, "class_name": "hound"},
        ],
    ),
    "a list with names": ("l.JSON", [{"path": "a.png", "label": "ring"}, {"image": "b.png", "class_name": "big dog"}]),
    "a mapping": ("l.json", {"a.png": "ring", "b.png": 2}),
    "a mapping with a BOM": ("l.json", b'\xef\xbb\xbf{"a.png": "1",\r\n "b.png": 2}'),
    "a table": ("l.csv", "file,label\na.png,ring\nb.png,2\n"),
    "a table with a BOM and CRLF": ("l.csv", "\ufefffile,label\r\na.png,ring\r\n\r\nb.png, hound \r\n"),
    "a table with semicolons": ("l.csv", 'Filename;Class_Index;note\n"a.png";1;x\nb.png;2;"y\nz"\n'),
    "a table with tabs": ("l.tsv", "target\tpath\nRING\ta.png\n2\tb.png"),
    "a table with both": ("l.CSV", "image,class_name,class_index\na.png,ring,1\nb.png,,2\n"),
    "entries twice": ("l.csv", "file,label\na.png,ring\nb.png,2\n./a.png,1\na.png,Ring\n"),
    "full paths": ("l.csv", "file,label\n{here}/p/a.png,ring\n{here}/p/b.png,2\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_files(form: str, tmp_path: Path) -> None:
    files = photos("p/a.png", "p/b.png")
    name, content = FORMS[form]
    content = content.replace("{here}", str(tmp_path)) if isinstance(content, str) else content
    assert classes(write(f"p/{name}", content), *files) == (1, 2)
    assert classes(f"p/{name}", "p/b.png", f"{tmp_path}/p/a.png", "p/../p/b.png") == (2, 1, 2)


def test_a_class_may_be_left_open() -> None:
    files = photos("a.png", "b.png")
    assert classes(write("l.csv", "file,label\na.png,\nb.png,2\n"), *files) == (None, 2)
    assert classes(write("l.json", {"a.png": None, "b.png": 2}), *files) == (None, 2)
    assert classes(write("l.json", [{"file": "a.png", "class_index": None}]), "a.png") == (None,)


def test_names_of_files() -> None:
    composed, decomposed = (unicodedata.normalize(form, "é à.png") for form in ("NFC", "NFD"))
    files = photos("p/x y, z.png", f"p/{decomposed}", "p/UP.PNG", "p/q/x y, z.png")
    listing = {"x y, z.png": 0, composed: 1, "UP.PNG": 2, "q/x y, z.png": 4, "\ud800.png": 1, "x\0.png": 1, "..": 1}
    assert classes(write("p/l.json", listing), *files) == (0, 1, 2, 4)
    assert "There is no label for 'p/UP.PNG'" in refused(write("p/l.json", {"up.png": 1, "UP": 1}), "p/UP.PNG")


def test_paths_are_relative_to_the_file_or_to_here_or_ends_of_paths(tmp_path: Path) -> None:
    photos("p/a.png", "p/q/a.png", "p/q/b.png", "c/b.png")
    assert classes(write("p/l.csv", "file,label\na.png,0\nq/a.png,1\n"), "p/a.png", "p/q/a.png") == (0, 1)
    assert classes(write("x/l.csv", "file,label\np/a.png,0\np/q/a.png,1\n"), "p/a.png", "p/q/a.png") == (0, 1)
    assert classes(write("x/l.csv", "file,label\nq/a.png,0\n"), "p/q/a.png") == (0,)
    assert classes(write("x/l.csv", "file,label\nb.png,0\n"), "p/q/b.png") == (0,)
    # a.png beside the list is another photo than the one of its name in a folder
    assert "no label for 'p/q/a.png'" in refused(write("p/l.csv", "file,label\na.png,0\n"), "p/q/a.png")
    assert "no label for 'p/a.png'" in refused(write("x/l.csv", "file,label\nz/a.png,0\n"), "p/a.png")
    message = refused(write("x/l.csv", "file,label\nb.png,0\n"), "p/q/b.png", "c/b.png")
    assert message.startswith("Cannot tell which input 'b.png' in 'x/l.csv' is: ")
    assert f"'{tmp_path}/c/b.png' or '{tmp_path}/p/q/b.png'" in message
    # which the entries that lead to files do not mind
    listing = "file,label\nb.png,0\n../p/q/b.png,1\n../c/b.png,1\n"
    assert classes(write("x/l.csv", listing), "p/q/b.png", "c/b.png") == (1, 1)


def test_links() -> None:
    photos("p/a.png")
    Path("p/link.png").symlink_to("a.png")
    Path("q").symlink_to("p")
    write("p/l.json", {"a.png": 0, "link.png": 1})
    for folder in "pq":
        assert classes("p/l.json", f"{folder}/link.png", f"{folder}/a.png") == (1, 0)
        assert classes("q/l.json", f"{folder}/link.png", f"{folder}/a.png") == (1, 0)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("l.json", "", "'l.json' is not valid JSON: Expecting value"),
        ("l.json", '[{"file": "a.png", "class_in', "'l.json' is not valid JSON: .* It may have been cut short"),
        ("l.json", b"\xff\xfe[]", "'l.json' is not text in UTF-8"),
        ("l.json", "[" * 100_000, "'l.json' is not valid JSON"),
        ("l.json", f'{{"a.png": {"9" * 5000}}}', "'l.json' is not valid JSON"),
        ("l.json", f'{{"a.png": {"9" * 500}}}', "the model has 8 classes, numbered from 0"),
        ("l.json", [], "There are no labels in 'l.json'"),
        ("l.json", {}, "There are no labels in 'l.json'"),
        ("l.json", 3, "expected a list of objects with 'file' and 'class_index', .* not 3"),
        ("l.json", "NaN", "not nan"),
        ("l.json", ["a.png"], "Cannot use entry 1 of 'l.json': expected an object .* not 'a.png'"),
        ("l.json", [{"file": "a.png", "class_index": 0}, [1]], "Cannot use entry 2 of 'l.json'.* not a list"),
        ("l.json", [{"class_index": 1}], "expected one of file, filename, path, image .* found none"),
        ("l.json", [{"file": "a.png"}], "expected one of label, class, .* found none"),
        ("l.json", [{"file": "a.png", "path": "b.png", "label": 0}], "found file and path"),
        ("l.json", [{"file": "a.png", "label": 0, "target": 0}], "found label and target"),
        ("l.json", '[{"file": "a.png", "label": 0, "label": 1}]', "found label and label"),
        ("l.json", [{"file": 3, "class_index": 1}], "expected the name of a file, not 3"),
        ("l.json", [{"file": " ", "class_index": 1}], "expected the name of a file, not ' '"),
        ("l.json", [{"file": "a.png", "class_index": "1"}], "expected the number of a class, not '1'"),
        ("l.json", [{"file": "a.png", "class_index": 1.0}], "expected the number of a class, not 1.0"),
        ("l.json", [{"file": "a.png", "class_index": True}], "expected the number of a class, not True"),
        ("l.json", [{"file": "a.png", "class_index": float("nan")}], "expected the number of a class, not nan"),
        ("l.json", [{"file": "a.png", "class_name": 1}], "expected the name of a class, not 1"),
        ("l.json", {"a.png": {"class_index": 1}}, "expected the name or number of a class, not an object"),
        ("l.json", {"a.png": ""}, "expected the name or number of a class, not ''"),
        ("l.json", {"a.png": -1}, "Cannot use the label -1 in entry 1 of 'l.json': the model has 8 classes"),
        ("l.json", {"a.png": 8}, "Cannot use the label 8 in entry 1 of 'l.json': the model has 8 classes"),
        ("l.json", '{"a.png": 1, "a.png": 2}', "disagree: 1 in entry 1 of 'l.json', 2 in entry 2 of 'l.json'"),
        ("l.json", {"a.png": 1, "./a.png": "disc"}, "disagree: 1 in entry 1 of 'l.json', 'disc' in entry 2"),
        ("l.json", {"a.png": "rin"}, "the model has no such class. Did you mean 'ring'?"),
        ("l.json", {"a.png": "z" * 5000}, "Cannot use the label 'zzz"),
        ("l.json", {"a.png": "crane"}, "not unique: use one of the numbers"),
        ("l.json", [{"file": "a.png", "class_index": 0, "class_name": "ring"}], "class 0 of the model is 'disc'"),
        ("l.json", {"b.png": 1}, "There is no label for 'a.png' in 'l.json': expected an entry for each input"),
        ("l.csv", "", "There is no header in 'l.csv'"),
        ("l.csv", "a.png,1\n", "Cannot use the first line of 'l.csv': expected one of file, .* found none"),
        ("l.csv", "file,label\n", "There are no labels in 'l.csv'"),
        ("l.csv", "file\na.png\n", "expected one of label, .* found none"),
        ("l.csv", "file,label,class\na.png,1,1\n", "found label and class"),
        ("l.csv", "file,label\na.png\n", "Line 2 of 'l.csv' has 1 cells"),
        ("l.csv", "file,label\n,1\n", "Cannot use line 2 of 'l.csv': expected the name of a file"),
        ("l.csv", "file,class_index\na.png,ring\n", "Cannot use 'ring' in line 2 of 'l.csv': expected the number"),
        ("l.csv", "file,class_index\na.png,1.0\n", "Cannot use '1.0' in line 2"),
        ("l.csv", "file,class_index\na.png,-1\n", "Cannot use '-1' in line 2"),
        ("l.csv", f"file,class_index\na.png,{'9' * 40}\n", "expected the number"),
        ("l.csv", "file,class_index\na.png,²\n", "Cannot use '²' in line 2"),
        ("l.csv", "file,label\na.png,nan\n", "Cannot use the label 'nan' in line 2 of 'l.csv': the model has no"),
        ("l.csv", "file,label\na.png,1\na.png,0\n", "disagree: '1' in line 2 of 'l.csv', '0' in line 3 of 'l.csv'"),
    ],
)
def test_files_that_cannot_be_used(name: str, content: Any, expected: str) -> None:
    photos("a.png")
    write(name, content)
    with pytest.raises(InputError, match=expected):
        raise InputError(refused(name, "a.png"))


def test_files_that_are_not_there() -> None:
    photos("a.png", "b.png", "c.png")
    assert refused("l.json", "a.png") == "There is no file at 'l.json'."
    assert refused("l.csv", "a.png") == "There is no file at 'l.csv'."
    for name in ("f.json", "f.csv"):
        Path(name).mkdir()
        assert "is a folder" in refused(name, "a.png")
    assert "File name too long" in refused("x" * 300 + ".json", "a.png")
    assert "--labels is empty" in refused(" ", "a.png")
    assert "expected 'folders', a .json or .csv file, or, for a table, one of its columns" in refused("folder", "a.png")
    assert "no label for 'b.png' and 1 more in" in refused(write("l.json", {"a.png": 1}), "a.png", "b.png", "c.png")


def test_only_labels_that_are_needed_have_to_be_classes() -> None:
    photos("a.png")
    assert classes(write("l.json", {"a.png": 1, "b.png": "zebra", "c.png": 999}), "a.png") == (1,)


def test_names_of_which_a_class_has_several() -> None:
    photos("a.png")
    names = ("tench, Tinca tinca", "spiny lobster, crayfish", "crayfish, crawfish")
    assert classes(write("l.json", {"a.png": "tinca TINCA"}), "a.png", names=names, count=3) == (0,)
    message = refused(write("l.json", {"a.png": "crayfish"}), "a.png", names=names, count=3)
    assert message == (
        "Cannot use the label 'crayfish' in entry 1 of 'l.json': several classes have that name, use one of the "
        "numbers [1, 2]."
    )
    listing = [{"file": "a.png", "class_index": 2, "class_name": "crayfish"}]
    assert classes(write("l.json", listing), "a.png", names=names, count=3) == (2,)


# Files that nobody asked for


def test_labels_beside_photos_count_unasked() -> None:
    photos("p/a.png", "p/b.png", "q/a.png", "ring/a.png", "ring/b.png")
    write("p/labels.json", [{"file": "a.png", "class_index": 1}, {"file": "gone.png", "class_index": 2}])
    write("ring/labels.json", {"a.png": "disc"})
    assert classes(None, "p", "q", "ring") == (1, None, None, 0, 1)
    assert classes(None, "p/b.png") == (None,)
    assert classes(None, "p", names=()) == (1, None)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"file": "a.png", "class', "not valid JSON"),
        ("[]", "There are no labels in 'ring/labels.json'"),
        ('["disc", "ring"]', "expected an object"),
        ('{"a.png": NaN}', "not nan"),
        ('{"a.png": 0, "gone.png": 8}', "Cannot use the label 8 in entry 2 of 'ring/labels.json'"),
        ('{"a.png": 0, "gone.png": "zebra"}', "Cannot use the label 'zebra' in entry 2"),
        ('{"a.png": 0, "gone.png": 1, "./gone.png": 2}', "disagree"),
        (b"\xff", "not text in UTF-8"),
    ],
)
def test_labels_beside_photos_do_not_count_unless_all_are_valid(content: str | bytes, expected: str) -> None:
    photos("ring/a.png", "ring/b.png")
    write("ring/labels.json", content)
    found, sentence = note("ring")
    assert found == (1, 1)  # by the name of the folder, which is a class
    assert expected in sentence


def test_a_broken_link_beside_photos_is_noted() -> None:
    photos("p/a.png")
    Path("p/labels.json").symlink_to("nowhere.json")
    assert note("p") == ((None,), "The labels beside the photos are not used. There is no file at 'p/labels.json'.")


def test_a_list_of_something_else_is_left_alone() -> None:
    photos("p/a.png")
    write("p/labels.json", {"0": "cat", "1": "dog"})
    assert classes(None, "p") == (None,)


# Texts and tables


class Letters:
    mask_id = 0

    def encode(self, text: str) -> Encoding:
        return Encoding(torch.tensor([ord(letter) % 7 for letter in text]), tuple(text), (False,) * len(text))


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.out(self.words(ids).mean(1))
        return scores


TEXTS = LoadedText("texts", Reader(), Letters(), ("bad", "good"))
TABLES = LoadedTable("tables", nn.Linear(2, 3), ("b", "a"), torch.zeros(2), torch.ones(2), None, ("no", "yes"))
PHOTOS = LoadedModel(
    "photos",
    nn.Sequential(nn.Flatten(), nn.Linear(48, 3)),
    Preprocessing((4, 4), (0.5,) * 3, (0.5,) * 3),
    ("x", "ring"),
)


def test_a_column_of_a_table() -> None:
    write("t.csv", "\ufeffa,b, species \r\n1,2,Yes\r\n3,4,2\r\n5,6,\r\n")
    given = read_inputs([Path("t.csv")])
    labels = read_labels("species", given)
    assert labels.column == "species"
    subjects, notes = label_subjects(TABLES, make_subjects(TABLES, given), labels)
    assert [subject.true_class for subject in subjects] == [1, 2, None]
    assert [subject.name for subject in subjects] == ["t-2", "t-3", "t-4"]
    assert notes == ()
    names = TABLES.class_names
    assert "has no column 'specis' for --labels. Did you mean 'species'?" in refused("specis", "t.csv")
    write("t.csv", "a,b,species\n1,2,maybe\n")
    message = refused("species", "t.csv", names=names, count=3)
    assert (
        "Cannot use the label 'maybe' in line 2, column 'species' of 't.csv': the model has no such class." in message
    )
    write("t.csv", "a,b,species\n1,2,3\n")
    assert "There is no class 3: the model has 3" in refused("species", "t.csv", names=names, count=3)


def test_lines_of_texts_and_tables_in_a_file() -> None:
    write("bad/r.txt", "one\n\ntwo\nthree\n")
    write("l.csv", "file,label\nbad/r.txt,bad\nbad/r.txt:3,good\nbad/r.txt:9,2\n")
    given = read_inputs([Path("bad/r.txt")])
    for option, expected in (("l.csv", [0, 1, 0]), ("folders", [0, 0, 0]), (None, [None, None, None])):
        subjects, _ = label_subjects(TEXTS, make_subjects(TEXTS, given), read_labels(option, given))
        assert [subject.true_class for subject in subjects] == expected
    write("l.json", {"r.txt:1": "bad"})
    assert "no label for 'bad/r.txt:3' and 1 more" in refused("l.json", "bad/r.txt")
    write("t.csv", "a,b\n1,2\n3,4\n")
    assert classes(write("l.json", {"t.csv:2": 1, "t.csv:3": 0}), "t.csv") == (1, 0)


def test_photos_get_their_classes_and_stay_what_they_are() -> None:
    photos("p/ring/a.png", "p/y/a.png")
    given = read_inputs([Path("p")])
    before = make_subjects(PHOTOS, given)
    subjects, notes = label_subjects(PHOTOS, before, read_labels(None, given))
    assert [(one.name, one.file, one.true_class) for one in subjects] == [
        ("a", "p/ring/a.png", 1),
        ("a-2", "p/y/a.png", None),
    ]
    assert [one.true_class for one in before] == [None, None]
    assert notes == ()


def test_the_model_is_not_run_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr("spadelens.tasks.labels.class_scores", fail)
    photos("p/a.png")
    write("p/labels.json", "{")
    given = read_inputs([Path("p")])
    subjects, notes = label_subjects(PHOTOS, make_subjects(PHOTOS, given), read_labels(None, given))
    assert [one.true_class for one in subjects] == [None]
    assert len(notes) == 1


def test_a_model_may_have_more_classes_than_names() -> None:
    photos("a.png")
    given = read_inputs([Path("a.png")])
    subjects = make_subjects(PHOTOS, given)
    labelled, _ = label_subjects(PHOTOS, subjects, read_labels(write("l.json", {"a.png": 2}), given))
    assert labelled[0].true_class == 2
    with pytest.raises(InputError, match="the model has 3 classes"):
        label_subjects(PHOTOS, subjects, read_labels(write("l.json", {"a.png": 3}), given))


def test_class_names_match_however_accents_are_written() -> None:
    composed, decomposed = (unicodedata.normalize(form, "Möwe") for form in ("NFC", "NFD"))
    assert find_class(composed, ("x", decomposed), 2) == find_class(decomposed.upper(), ("x", composed), 2) == 1


# The order


def test_mistakes_come_first_then_right_ones_then_those_without_a_label() -> None:
    assert mistakes_first("abcdefg", [0, 1, 2, 0, 1, 2, 0], [0, 2, None, 1, 1, None, 0]) == list("bdaegcf")
    assert mistakes_first([], [], []) == []
    assert mistakes_first("ab", [1, 2], [None, None]) == ["a", "b"]
    assert mistakes_first([None, 0], [0, 0], [0, 1]) == [0, None]
    items = [3, 1, 2]
    assert mistakes_first(items, [0, 0, 0], [0, 0, 1]) == [2, 3, 1]
    assert items == [3, 1, 2]
    with pytest.raises(ValueError, match="zip"):
        mistakes_first("ab", [1], [1, 2])


def test_the_order_is_that_of_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        predicted, true = (torch.randint(0, 3, (12,), generator=generator).tolist() for _ in range(2))
        known = [None if label == 2 else label for label in true]
        rank = [2 if k is None else int(k == p) for p, k in zip(predicted, known, strict=True)]
        assert mistakes_first(range(12), predicted, known) == sorted(range(12), key=lambda i: (rank[i], i))

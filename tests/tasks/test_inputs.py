"""Files as subjects: lines of texts, rows of tables, and one clear sentence for everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from spadelens.errors import InputError
from spadelens.models import Encoding, LoadedModel, LoadedTable, LoadedText, Preprocessing
from spadelens.tasks.inputs import (
    MOST_LINES,
    PhotoFile,
    TableLine,
    TextLine,
    make_subjects,
    read_inputs,
    unused_columns,
)
from spadelens.tasks.subjects import PhotoSubject, RowSubject, TextSubject, show
from spadelens.text_files import MOST_CHARACTERS

ANY = nn.Linear(2, 2)


class Letters:
    mask_id = 0

    def encode(self, text: str) -> Encoding:
        if len(text) > 40:
            raise InputError("The text has 41 tokens or more: the model reads 40.")
        return Encoding(torch.tensor([ord(letter) % 7 for letter in text]), tuple(text), (False,) * len(text))


TEXTS = LoadedText("texts", ANY, Letters(), ())
TABLES = LoadedTable("tables", ANY, ("b", "a"), torch.zeros(2), torch.ones(2), None, ())
PHOTOS = LoadedModel("photos", ANY, Preprocessing((4, 4), (0.5,), (0.5,)), ())


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, content: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(*files: str, loaded: LoadedText | LoadedTable | LoadedModel | None = None) -> str:
    with pytest.raises(InputError) as caught:
        given = read_inputs([Path(file) for file in files])
        if loaded is not None:
            make_subjects(loaded, given)
    message = str(caught.value)
    assert message.endswith((".", "?"))
    return message


def test_every_line_with_a_text_is_a_sample() -> None:
    write("r.txt", "\ufefffirst one\r\n\r\n  second\t\n   \nünï\n")
    lines = read_inputs([Path("r.txt")])
    assert lines == [
        TextLine(Path("r.txt"), 1, "first one"),
        TextLine(Path("r.txt"), 3, "second"),
        TextLine(Path("r.txt"), 5, "ünï"),
    ]
    subjects = make_subjects(TEXTS, lines)
    assert [(subject.name, subject.file) for subject in subjects] == [
        ("r-1", "r.txt:1"),
        ("r-3", "r.txt:3"),
        ("r-5", "r.txt:5"),
    ]
    assert isinstance(subjects[2], TextSubject)
    assert subjects[2].encoding.tokens == ("ü", "n", "ï")


def test_a_single_line() -> None:
    write("r.TXT", "one\ntwo\n\nfour")
    assert read_inputs([Path("r.TXT:4")]) == [TextLine(Path("r.TXT"), 4, "four")]
    write("odd:1.txt", "x")
    write("b.txt:2", "photo?")
    assert read_inputs([Path("odd:1.txt")]) == [TextLine(Path("odd:1.txt"), 1, "x")]
    assert "no text in line 3 of 'r.TXT'" in refused("r.TXT:3")
    assert "no text in line 9 of 'r.TXT': the last line that was read is 4" in refused("r.TXT:9")
    assert "no text in line 0" in refused("r.TXT:0")
    assert "not a picture" in refused("b.txt:2")  # a file of that very name


def test_names_stay_unique() -> None:
    write("a.txt", "x\ny")
    Path("b").mkdir()
    write("b/a.txt", "x")
    subjects = make_subjects(TEXTS, read_inputs([Path("a.txt"), Path("b/a.txt"), Path("a.txt:1")]))
    assert [subject.name for subject in subjects] == ["a-1", "a-2", "a-1-2", "a-1-3"]


def test_rows_by_their_header() -> None:
    write("t.csv", '\ufeffid, a ,b,"note, long"\r\n1,2.5,-3,"x\ny"\r\n\r\n2, 1e-3 ,4,z\r\n')
    given = read_inputs([Path("t.csv")])
    assert [one.line for one in given if isinstance(one, TableLine)] == [2, 5]
    subjects = make_subjects(TABLES, given)
    assert [(one.name, one.file, one.row) for one in subjects if isinstance(one, RowSubject)] == [
        ("t-2", "t.csv:2", (-3.0, 2.5)),
        ("t-5", "t.csv:5", (4.0, 0.001)),
    ]
    assert unused_columns(TABLES, given) == ("id", "note, long")
    assert [one.file for one in make_subjects(TABLES, read_inputs([Path("t.csv:5")]))] == ["t.csv:5"]


@pytest.mark.parametrize(
    ("content", "file", "message"),
    [
        ("", "x.txt", "There is no text in 'x.txt': expected at least one."),
        ("\n \n", "x.txt", "There is no text in 'x.txt'"),
        (b"\xff\xfea\x00", "x.txt", "is not text in UTF-8: save it in that encoding"),
        (b"a\x00b", "x.txt", "is not text: line 1 holds a zero byte"),
        (b"ok\n" + b"x" * (MOST_CHARACTERS + 1), "x.txt", "Line 2 of 'x.txt' has more than 100,000 characters"),
        ("x\n" * (MOST_LINES + 1), "x.txt", "more than 100 lines of 'x.txt' at a time: .* as in 'x.txt:1'"),
        ("", "x.csv", "There is no header in 'x.csv'"),
        ("a,b\n", "x.csv", "There is no row in 'x.csv'"),
        ("a,b\n1,2\n", "x.csv:1", "Line 1 of 'x.csv' names the columns"),
        ("a,b\n1,2\n", "x.csv:7", "no row in line 7 of 'x.csv': the last line that was read is 2"),
        ("a,b\n1,2,3\n", "x.csv", "Line 2 of 'x.csv' has 3 cells: expected 2, as in its header"),
        ("a,b\n1,2\n3\n", "x.csv", "Line 3 of 'x.csv' has 1 cells"),
        ("a,a\n1,2\n", "x.csv", "several columns named 'a'"),
        ('a,b\n"1,2\n', "x.csv", "Cannot read line 2 of 'x.csv' as a table"),
        (b"a,b\n\xff,2\n", "x.csv", "'x.csv' is not text in UTF-8"),
        ("a,b\n" + "1,2\n" * (MOST_LINES + 1), "x.csv", "more than 100 lines of 'x.csv' at a time: .* as in 'x.csv:2'"),
    ],
)
def test_files_that_cannot_be_read(content: str | bytes, file: str, message: str) -> None:
    write(file.partition(":")[0], content)
    with pytest.raises(InputError, match=message):
        raise InputError(refused(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,c\n1,2\n", "'x.csv' has no column 'b': the model reads 2 columns, 1 of them missing"),
        ("a,b\n1,\n", "There is no value in line 2, column 'b' of 'x.csv'"),
        ("a,b\n1,2\nx,3\n", "Cannot use 'x' in line 3, column 'a' of 'x.csv': expected a finite number"),
        ("a,b\nnan,3\n", "Cannot use 'nan' in line 2, column 'a'"),
        ("a,b\n1,1e39\n", "Cannot use '1e39' in line 2, column 'b'"),
        ("a,b\n1,1_0\n", "Cannot use '1_0'"),
        ('a,b\n1,"1,5"\n', "Cannot use '1,5'"),
    ],
)
def test_cells_that_the_model_cannot_read(content: str, message: str) -> None:
    write("x.csv", content)
    assert message in refused("x.csv", loaded=TABLES)


def test_paths_that_lead_nowhere() -> None:
    Path("folder.txt").mkdir()
    assert "There is no file at 'none.txt'" in refused("none.txt")
    assert "There is no file at 'none.csv'" in refused("none.csv:3")
    assert "There are no photos in the folder 'folder.txt'" in refused("folder.txt")


def test_texts_that_the_model_cannot_read_are_named() -> None:
    write("r.txt", "short\n" + "long " * 20)
    assert refused("r.txt", loaded=TEXTS) == (
        "Cannot explain 'r.txt:2': The text has 41 tokens or more: the model reads 40."
    )


def test_files_of_another_kind_than_the_model_reads() -> None:
    write("r.txt", "hello")
    write("t.csv", "a,b\n1,2")
    Image.new("RGB", (8, 8)).save("p.png")
    for loaded, file, reads, is_a in (
        (PHOTOS, "r.txt", "photos", "a file of texts (.txt)"),
        (PHOTOS, "t.csv", "photos", "a file of rows of a table (.csv)"),
        (TEXTS, "p.png", "texts (.txt)", "taken for a photo"),
        (TEXTS, "t.csv", "texts (.txt)", "a file of rows of a table (.csv)"),
        (TABLES, "p.png", "rows of a table (.csv)", "taken for a photo"),
        (TABLES, "r.txt", "rows of a table (.csv)", "a file of texts (.txt)"),
    ):
        message = refused(file, loaded=loaded)
        assert message.startswith(f"The model {loaded.spec!r} expects {reads}, but ")
        assert message.endswith(f" is {is_a}.")
        assert file in message
    given = read_inputs([Path("p.png")])
    assert isinstance(given[0], PhotoFile)
    (subject,) = make_subjects(PHOTOS, given)
    assert isinstance(subject, PhotoSubject)
    assert show(PHOTOS, subject, "noise").sample.shape == (1, 4, 4)
    with pytest.raises(InputError, match=r"Cannot explain 'p\.png' by 'texts', a model of texts"):
        show(TEXTS, subject, "tokens")

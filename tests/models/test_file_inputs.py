"""Files of the user whose models read texts or tables."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from spadelens.errors import InputError, ModelSpecError
from spadelens.models import LoadedModel, LoadedTable, LoadedText, load_model
from spadelens.models.sources.file_inputs import read_rows

TABLE = """
from torch import nn
FEATURE_NAMES = ["age", "income", "size"]
def build():
    return nn.Linear(3, 2)
"""
TEXT = """
import torch
from torch import nn
WORDS = {"<mask>": 0, "good": 1, "bad": 2}
MASK_ID = 0
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(3, 4), nn.Linear(4, 2)
    def forward(self, ids):
        return self.head(self.embed(ids).mean(1))
def encode(text):
    words = text.split()
    return [WORDS[word] for word in words], words
"""


def write(folder: Path, text: str, name: str = "net.py") -> str:
    (folder / name).write_text(text)
    return f"{folder / name}:{'Net' if 'class Net' in text else 'build'}"


def table(folder: Path, extra: str = "") -> LoadedTable:
    loaded = load_model(write(folder, TABLE + extra), "cpu")
    assert isinstance(loaded, LoadedTable)
    return loaded


def refused(spec: str) -> str:
    with pytest.raises(ModelSpecError) as caught:
        load_model(spec, "cpu")
    assert "\n" not in str(caught.value)
    assert "net.py" in str(caught.value)
    return str(caught.value)


def test_a_table_model(tmp_path: Path) -> None:
    loaded = table(tmp_path, "MEAN = [30, 1e4, 0]\nSTD = [10, 5e3, 2]\nCLASS_NAMES = ['no', 'yes']\n")
    assert loaded.feature_names == ("age", "income", "size")
    assert loaded.class_names == ("no", "yes")
    assert loaded.class_name(1) == "yes"
    assert loaded.background is None
    assert not loaded.model.training
    rows = torch.tensor([[30.0, 1e4, 0.0], [50.0, 0.0, -1.0]])
    assert loaded.standardize(rows).tolist() == [[0, 0, 0], [2, -2, -0.5]]
    assert loaded.standardize(rows[1].double()).dtype == torch.float64


def test_a_table_model_without_normalization(tmp_path: Path) -> None:
    loaded = table(tmp_path)
    rows = torch.tensor([[3.5, -1e6, 0.0]])
    assert torch.equal(loaded.standardize(rows), rows)
    assert loaded.class_names == ()


def test_backgrounds(tmp_path: Path) -> None:
    assert table(tmp_path, "BACKGROUND = [[1, 2, 3], [4, 5, 6.5]]\n").background.tolist() == [[1, 2, 3], [4, 5, 6.5]]  # type: ignore[union-attr]
    text = ",size,label,age, income \n0,1.5,yes,30,1e4\n1,-2,no,41,0\n"
    (tmp_path / "rows.csv").write_text("\ufeff" + text, encoding="utf-8")
    expected = [[30, 1e4, 1.5], [41, 0, -2]]
    assert table(tmp_path, "BACKGROUND = 'rows.csv'\n").background.tolist() == expected  # type: ignore[union-attr]
    extra = "from pathlib import Path\nBACKGROUND = Path(__file__).with_name('rows.csv')\n"
    assert table(tmp_path, extra).background.tolist() == expected  # type: ignore[union-attr]
    assert read_rows(tmp_path / "rows.csv", ["age"]).tolist() == [[30], [41]]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "There is no file at"),
        (b"", "There is no header in"),
        (b"a,c\n1,2\n", "has no column 'b'"),
        (b"a,b,a\n1,2,3\n", "several columns named 'a'"),
        (b"a,b\n", "There is no row in"),
        (b"a,b\n1,2\n3,\n", "no value in line 3, column 'b'"),
        (b"a,b\n1\n", "Line 2 of"),
        (b"a,b\nx,2\n", "'x' in line 2, column 'a'"),
        (b"a,b\nnan,2\n", "'nan' in line 2, column 'a'"),
        (b"a,b\n1,inf\n", "'inf' in line 2, column 'b'"),
        (b"a,b\n1,2\n1,2,3\n", "has 3 cells: expected 2"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(expected)) as caught:
        read_rows(tmp_path / "t.csv", ["a", "b"])
    assert "t.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("FEATURE_NAMES = 'abc'\n", "FEATURE_NAMES"),
        ("FEATURE_NAMES = []\n", "FEATURE_NAMES"),
        ("FEATURE_NAMES = ['a', 'a']\n", "FEATURE_NAMES"),
        ("FEATURE_NAMES = [1, 2]\n", "FEATURE_NAMES"),
        ("MEAN = [1, 2]\n", "Cannot use MEAN"),
        ("MEAN = 0.5\n", "Cannot use MEAN"),
        ("MEAN = [1, 2, float('nan')]\n", "Cannot use MEAN"),
        ("STD = [1, 0, 1]\n", "Cannot use STD"),
        ("STD = ['a', 'b', 'c']\n", "Cannot use STD"),
        ("BACKGROUND = [[1, 2]]\n", "Cannot use BACKGROUND"),
        ("BACKGROUND = [1, 2, 3]\n", "Cannot use BACKGROUND"),
        ("BACKGROUND = []\n", "Cannot use BACKGROUND"),
        ("BACKGROUND = [[1, 2, float('inf')]]\n", "Cannot use BACKGROUND"),
        ("BACKGROUND = 'nowhere.csv'\n", "Cannot use BACKGROUND"),
        ("MASK_ID = 0\n", "expected one of them"),
    ],
)
def test_broken_table_models(tmp_path: Path, extra: str, expected: str) -> None:
    assert expected in refused(write(tmp_path, TABLE + extra))


def test_a_text_model(tmp_path: Path) -> None:
    loaded = load_model(write(tmp_path, TEXT), "cpu")
    assert isinstance(loaded, LoadedText)
    found = loaded.tokenizer.encode("good bad good")
    assert found.ids.tolist() == [1, 2, 1]
    assert found.ids.dtype == torch.int64
    assert found.tokens == ("good", "bad", "good")
    assert found.is_special == (False,) * 3
    assert loaded.tokenizer.mask_id == 0
    assert loaded.model(found.ids.unsqueeze(0)).shape == (1, 2)


def test_a_tokenizer_of_the_users_own(tmp_path: Path) -> None:
    extra = """
from spadelens.models import Encoding
class Words:
    mask_id = 2
    def encode(self, text):
        return Encoding(torch.tensor([0, 1]), ("<s>", text), (True, False))
TOKENIZER = Words()
"""
    loaded = load_model(write(tmp_path, TEXT.replace("MASK_ID = 0", "") + extra), "cpu")
    assert isinstance(loaded, LoadedText)
    assert loaded.tokenizer.mask_id == 2
    assert loaded.tokenizer.encode("x").is_special == (True, False)


def test_files_that_only_define_encode_are_of_photos(tmp_path: Path) -> None:
    assert isinstance(load_model(write(tmp_path, TEXT.replace("MASK_ID = 0", "")), "cpu"), LoadedModel)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("del encode\n", "no function 'encode'"),
        ("MASK_ID = 'x'\n", "MASK_ID='x'"),
        ("MASK_ID = True\n", "MASK_ID=True"),
        ("MASK_ID = -1\n", "MASK_ID=-1"),
        ("TOKENIZER = 3\n", "Cannot use TOKENIZER"),
        ("class T:\n    def encode(self, text): pass\nTOKENIZER = T()\n", "Cannot use TOKENIZER"),
        ("class T:\n    mask_id = 'x'\n    def encode(self, text): pass\nTOKENIZER = T()\n", "Cannot use TOKENIZER"),
    ],
)
def test_broken_text_models(tmp_path: Path, extra: str, expected: str) -> None:
    assert expected in refused(write(tmp_path, TEXT + extra))


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("[1, 2]", "got a list"),
        ("([1, 2], ['a'])", "they differ in number"),
        ("([[1], [2]], ['a', 'b'])", "they differ in number"),
        ("([1], [2])", "the tokens are not strings"),
        ("([1.5], ['a'])", "not integers"),
        ("(None, ['a'])", "one integer and one string per token"),
        ("([], [])", "without tokens"),
        ("1 / 0", "failed: ZeroDivisionError"),
    ],
)
def test_encoders_that_return_something_else(tmp_path: Path, returned: str, expected: str) -> None:
    loaded: Any = load_model(write(tmp_path, TEXT + f"def encode(text): return {returned}\n"), "cpu")
    with pytest.raises(InputError, match=re.escape(expected)) as caught:
        loaded.tokenizer.encode("good")
    assert "\n" not in str(caught.value)


def test_words_that_are_not_known(tmp_path: Path) -> None:
    loaded: Any = load_model(write(tmp_path, TEXT), "cpu")
    with pytest.raises(InputError, match="failed: KeyError: 'ugly'"):
        loaded.tokenizer.encode("ugly")


def test_commands_on_photos_refuse_them(tmp_path: Path) -> None:
    with pytest.raises(ModelSpecError, match="expects rows of a table, but a model for photos"):
        load_model(write(tmp_path, TABLE), "cpu", kind="photo")
    with pytest.raises(ModelSpecError, match="expects texts, but a model for photos"):
        load_model(write(tmp_path, TEXT), "cpu", kind="photo")


def test_checkpoints_for_them(tmp_path: Path) -> None:
    weights = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    torch.save(weights, tmp_path / "w.pt")
    spec = f"{write(tmp_path, TABLE)}@{tmp_path / 'w.pt'}"
    loaded = load_model(spec, "cpu")
    assert isinstance(loaded, LoadedTable)
    assert loaded.spec == spec
    assert torch.equal(loaded.model.get_parameter("weight"), weights["weight"])


def test_a_category_code_out_of_range_is_explained() -> None:
    from torch import nn

    from spadelens.errors import ModelOutputError
    from spadelens.forward import class_scores

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(3, 2)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.embedding(rows[:, 0].long())

    with pytest.raises(ModelOutputError, match="category code"):
        class_scores(Net(), torch.tensor([[7.0, 1.0]]))

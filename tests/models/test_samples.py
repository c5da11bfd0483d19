"""From a text or a row to a sample in one call, and what its map then knows."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from references.shown import shown
from torch import Tensor, nn

from spadelens import RowSample, TextSample, attribute, row_sample, text_sample
from spadelens.errors import InputError, PhotoError
from spadelens.models import Encoding, LoadedModel, LoadedTable, LoadedText


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.out = nn.Embedding(30, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.words(ids).tanh().mean(1))


class Words:
    mask_id = 1

    def encode(self, text: str) -> Encoding:
        tokens = ("[CLS]", *text.split())
        ids = torch.tensor([0, *(2 + len(word) for word in text.split())])
        return Encoding(ids, tokens, (True, *[False] * (len(tokens) - 1)))


TEXTS = LoadedText("x", Bag().eval(), Words(), ())
TABLE = LoadedTable(
    "x",
    nn.Linear(3, 2),
    ("age", "height", "weight"),
    torch.tensor([1.0, 2.0, 3.0]),
    torch.tensor([2.0, 1.0, 4.0]),
    None,
    (),
)


def test_texts() -> None:
    found, expected = TEXTS.sample("a nice day"), text_sample(TEXTS, "a nice day")
    assert isinstance(found, TextSample)
    assert found.tokens == expected.tokens == ("[CLS]", "a", "nice", "day")
    assert torch.equal(found.values, expected.values)
    assert found.is_special == (True, False, False, False)
    with pytest.raises(InputError, match="Cannot explain a list as a text"):
        TEXTS.sample(["a"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "row", [[5.0, 2.5, 7.0], torch.tensor([5.0, 2.5, 7.0]), {"weight": 7.0, "age": 5.0, "height": 2.5, "other": 1.0}]
)
def test_rows(row: object) -> None:
    found = TABLE.sample(row)  # type: ignore[arg-type]
    assert isinstance(found, RowSample)
    assert found.values.tolist() == row_sample(TABLE, row).values.tolist() == [2.0, 0.5, 1.0]  # type: ignore[arg-type]
    assert found.feature_names == TABLE.feature_names
    for wrong in ("1,2,3", None, [["1", "2", "3"]], ["1", "2", "3"], {"age": "x", "height": 1, "weight": 2}):
        with pytest.raises(InputError, match="expected 3 numbers, by name or in order"):
            row_sample(TABLE, wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Cannot explain a row without 'height'"):
        TABLE.sample({"age": 1.0})


def test_maps_know_the_tokens() -> None:
    sample = TEXTS.sample("a nice day")
    heatmap = attribute(sample.model, sample.values, "input_x_gradient", reduction="sum", check=False)
    assert heatmap.names == sample.tokens
    assert shown(heatmap).texts[1:] == ["[CLS]", "a", "nice", "day"]


def test_maps_of_rows_are_given_names() -> None:
    sample = TABLE.sample([5.0, 2.5, 7.0])
    heatmap = attribute(sample.model, sample.values, "input_x_gradient", reduction="sum", check=False)
    assert heatmap.names == ()
    assert set(shown(heatmap.named(sample.feature_names)).texts[1::2]) == set(TABLE.feature_names)


def test_photos(demo: LoadedModel, tmp_path: Path) -> None:
    photo = Image.linear_gradient("L").resize((100, 80))
    photo.save(tmp_path / "photo.png")
    expected = demo.preprocessing.to_tensor(demo.preprocessing.crop(photo.convert("RGB")))
    assert expected.shape == (3, 64, 64)
    for given in (photo, tmp_path / "photo.png", str(tmp_path / "photo.png")):
        assert torch.equal(demo.sample(given), expected)
    assert torch.equal(demo.preprocessing(photo.convert("RGB")), expected)
    with pytest.raises(PhotoError):
        demo.sample(tmp_path / "none.png")


def test_plain_words_on_one_line(demo: LoadedModel) -> None:
    assert repr(demo) == "<LoadedModel 'demo': photos of 64 x 64 pixels, 10 named classes>"
    assert repr(TEXTS) == "<LoadedText 'x': texts, classes without names>"
    assert repr(TABLE) == "<LoadedTable 'x': rows of 3 features, classes without names>"
    assert repr(TABLE.sample([5.0, 2.5, 7.0])) == "<RowSample of 3 features: age=5, height=2.5, weight=7>"
    assert repr(TEXTS.sample("a nice day")) == "<TextSample of 4 tokens: '[CLS]aniceday'>"
    long = LoadedTable(
        "x" * 999, nn.Linear(9, 2), tuple("y" * 99 + str(n) for n in range(9)), torch.zeros(9), torch.ones(9), None, ()
    )
    many = TEXTS.sample("word " * 999)
    assert repr(long.sample([1e30] * 9)).endswith(", ...>")
    assert max(len(repr(one)) for one in (long, long.sample([1e30] * 9), many)) < 300

"""A heatmap in a user's hands: what a notebook shows, plots, overlays and files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from PIL import Image
from references.shown import shown
from torch import nn

from spadelens import Heatmap, Soundness, attribute, read_photo
from spadelens.demo.images import draw_image
from spadelens.errors import InputError, OutputError, PhotoError
from spadelens.kinds import Kind
from spadelens.models import LoadedModel
from spadelens.pictures import heatmap_picture, overlay_picture

ATTACK = "<script>alert(1)</script>\"'&"


def heatmap(values: torch.Tensor, kind: Kind = "photo", names: tuple[str, ...] = ()) -> Heatmap:
    return Heatmap(values, values, 3, "saliency", {}, "sum", kind, None, names=names)


def ramp(*shape: int) -> torch.Tensor:
    return torch.linspace(0, 1, int(np.prod(shape))).view(shape)


def test_a_map_of_a_photo_shows_its_pixels() -> None:
    values = ramp(8, 12)
    page = shown(heatmap(values))
    (picture,) = page.pictures
    assert picture.size == (12, 8)
    large = np.asarray(heatmap_picture(values))
    factor = large.shape[0] // 8
    assert np.array_equal(np.asarray(picture.convert("RGB")), large[::factor, ::factor])
    assert page.texts == ["Heatmap of class 3 by saliency", "8 x 12 pixels"]


@pytest.mark.parametrize("shape", [(224, 224), (1000, 1300), (1, 5000), (3000, 2)])
def test_large_noisy_maps_stay_small(shape: tuple[int, int]) -> None:
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    (picture,) = shown(heatmap(values)).pictures
    assert max(picture.size) <= 512
    bright = torch.zeros(shape)
    bright[: shape[0] // 2] = 1.0
    (picture,) = shown(heatmap(bright)).pictures
    pixels = np.asarray(picture.convert("L")).astype(int)
    if shape[0] > 1:
        assert pixels[0, 0] > 150
        assert pixels[-1, -1] < 10


def test_verdicts_and_problems_are_shown_and_escaped() -> None:
    sound = Soundness(None, None, None, None, None, ())
    doubtful = replace(sound, problems=(ATTACK, "b", "c", "d"))
    assert shown(replace(heatmap(ramp(4, 4)), soundness=sound)).texts[0] == "Heatmap of class 3 by saliency, sound"
    page = shown(replace(heatmap(ramp(4, 4)), soundness=doubtful, method=f"lime:{ATTACK}{'x' * 999}"))
    assert page.texts[1:4] == [ATTACK, "b", "c"]
    assert page.texts[0].startswith(f"Heatmap of class 3 by lime:{ATTACK}x")
    assert page.texts[0].endswith("x…, doubtful")
    assert repr(heatmap(ramp(4, 4))) == "<Heatmap 4 x 4 of class 3 by saliency>"


def test_tokens_are_words_in_color() -> None:
    page = shown(heatmap(torch.tensor([0.5, 0.0, -1.0, 0.001]), "text", ("good ", ATTACK, " bad", "")))
    assert page.texts[1:] == ["good ", ATTACK, " bad", "·"]
    assert [style for tag, style in page.styles if tag == "span"] == [
        "background:rgba(192,57,43,0.35)",
        "background:rgba(41,98,178,0.70)",
    ]
    many = shown(heatmap(torch.rand(5000) - 0.5, "text", tuple(f"{ATTACK}{n}" for n in range(5000))))
    assert many.texts[-1] == "and 4880 more tokens"


def test_features_are_bars_from_the_largest_down() -> None:
    page = shown(heatmap(torch.tensor([0.5, 0.0, -2.0]), "row", ("age", "height", ATTACK)))
    assert page.texts[1:] == [ATTACK, "-2", "age", "0.5", "height", "0"]
    inner = [style for _, style in page.styles if style.startswith("margin-left")]
    assert inner[0].startswith("margin-left:0px;width:60px;")
    assert inner[1].startswith("margin-left:60px;width:15px;")
    many = shown(heatmap(torch.rand(500), "row", tuple(ATTACK * 50 for _ in range(500))))
    assert many.texts[-1] == "and 480 more features"


@pytest.mark.parametrize("kind", ["row", "text", "signal"])
def test_without_names_there_are_bars(kind: Kind) -> None:
    page = shown(heatmap(torch.tensor([1.0, -1.0, 0.5, 0.0]), kind))
    pixels = np.asarray(page.pictures[0].convert("RGB")).astype(int)
    assert pixels.shape == (96, 360, 3)
    red = (pixels[..., 0] > pixels[..., 2] + 50).sum(0)[::90]
    blue = (pixels[..., 2] > pixels[..., 0] + 50).sum(0)[::90]
    assert red.tolist() == [48, 0, 24, 0]
    assert blue.tolist() == [0, 48, 0, 0]
    shown(heatmap(torch.randn(16_000), kind))
    shown(heatmap(torch.zeros(3), kind))


def test_a_volume_shows_its_brightest_slice() -> None:
    values = torch.zeros(3, 4, 5)
    values[1, 2, 3] = -7.0
    page = shown(heatmap(values, "volume"))
    assert page.texts[-1] == "3 x 4 x 5 voxels, slice 1 of 3, counted from 0"
    pixels = np.asarray(page.pictures[0].convert("L"))
    assert np.argwhere(pixels > 50).tolist() == [[2, 3]]


def test_names_must_fit() -> None:
    row = heatmap(torch.rand(3), "row")
    assert row.named(["a", "b", "c"]).names == ("a", "b", "c")
    with pytest.raises(InputError, match=r"Cannot give 2 names to a map of shape \[3\]"):
        row.named(["a", "b"])
    with pytest.raises(InputError, match="expected one for each token or feature"):
        heatmap(ramp(3, 3)).named(["a", "b", "c"])


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        (ramp(4, 6), "photo", ()),
        (ramp(2, 4, 6), "volume", ()),
        (ramp(9), "signal", ()),
        (ramp(9), "row", ()),
        (ramp(3), "row", ("a", "b", "c")),
        (ramp(50), "text", tuple(map(str, range(50)))),
    ],
)
def test_plots(values: torch.Tensor, kind: Kind, names: tuple[str, ...]) -> None:
    pyplot.switch_backend("Agg")
    figure, given = pyplot.subplots()
    try:
        axes = heatmap(values, kind, names).plot(given)
        assert axes is given
        assert axes.get_title() == "class 3, saliency"
        if values.dim() > 1:
            expected = values[-1] if kind == "volume" else values
            assert np.allclose(axes.images[0].get_array(), expected.numpy(), atol=0.01)
        elif kind == "signal":
            assert np.allclose(axes.lines[0].get_ydata(), values)
        elif names and len(names) < 40:
            assert [bar.get_width() for bar in axes.patches] == values.tolist()
            assert [label.get_text() for label in axes.get_yticklabels()] == list(names)
        else:
            assert [bar.get_height() for bar in axes.patches] == values.tolist()
        figure.canvas.draw()
        other = heatmap(values, kind, names).plot()
        assert other is not given
    finally:
        pyplot.close("all")


def test_overlays(demo: LoadedModel, tmp_path: Path) -> None:
    photo = Image.fromarray(draw_image(3, 1).pixels).resize((100, 80))
    photo.save(tmp_path / "photo.png")
    found = attribute(demo.model, demo.sample(photo), "saliency", check=False)
    crop = demo.preprocessing.crop(photo)
    expected = np.asarray(overlay_picture(found.values, crop))
    assert np.array_equal(np.asarray(found.overlay(crop)), expected)
    assert np.array_equal(np.asarray(found.overlay(photo, demo.preprocessing)), expected)
    assert np.array_equal(np.asarray(found.overlay(tmp_path / "photo.png", demo.preprocessing)), expected)
    assert np.array_equal(np.asarray(found.overlay(str(tmp_path / "photo.png"), demo.preprocessing)), expected)
    with pytest.raises(InputError, match=r"map of 64 x 64 pixels over a photo of 80 x 100: .* Pass loaded\.prepro"):
        found.overlay(photo)
    with pytest.raises(PhotoError):
        found.overlay(tmp_path / "none.png")


def test_files(tmp_path: Path) -> None:
    found = heatmap(ramp(8, 12))
    found.save(tmp_path / "map.png")
    assert np.array_equal(np.asarray(read_photo(tmp_path / "map.png")), np.asarray(heatmap_picture(found.values)))
    found.save(str(tmp_path / "map.png"))
    assert [file.name for file in tmp_path.iterdir()] == ["map.png"]
    with pytest.raises(OutputError, match="Cannot write"):
        found.save(tmp_path / "nowhere" / "map.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        found.save(tmp_path / "folder.png")
    with pytest.raises(InputError, match=r"expected a name that ends in '\.png'"):
        found.save(tmp_path / "map.jpg")


@pytest.mark.parametrize("kind", ["row", "text", "signal"])
def test_only_maps_of_photos_are_pictures(kind: Kind, tmp_path: Path) -> None:
    found = heatmap(ramp(5), kind)
    with pytest.raises(InputError, match=f"Cannot save as a picture the map of a {kind}"):
        found.save(tmp_path / "map.png")
    with pytest.raises(InputError, match=f"Cannot lay over a photo the map of a {kind}"):
        found.overlay(Image.new("RGB", (5, 5)))


def test_maps_of_models_show_themselves(demo: LoadedModel) -> None:
    found = attribute(demo.model, demo.sample(Image.fromarray(draw_image(3, 1).pixels)), "saliency")
    page = shown(found)
    assert page.pictures[0].size == (64, 64)
    assert page.texts[0] == f"Heatmap of class {found.target} by saliency, sound"
    row = attribute(nn.Linear(4, 2), torch.rand(4), "input_x_gradient", check=False)
    assert shown(row.named("abcd")).texts[0] == f"Heatmap of class {row.target} by input_x_gradient"

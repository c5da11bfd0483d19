"""The picture of the two circles, its numbers and the folder that holds them."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from spadelens.demo.circles import CIRCLES, LARGE, SMALL
from spadelens.errors import InputError, OutputError
from spadelens.reports.circles import draw_circles
from spadelens.tasks import circles
from spadelens.tasks.circles import TwoCircles
from spadelens.visualization.visualization import Visualization


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TwoCircles]:
    out = tmp_path_factory.mktemp("circles") / "deep" / "out"
    before = torch.get_rng_state()
    result = draw_circles(out)
    assert torch.equal(before, torch.get_rng_state())
    return out, result


def test_the_dense_network_shows_the_larger_circle_and_traces_that_of_their_sample(
    drawn: tuple[Path, TwoCircles],
) -> None:
    dense, large, small = drawn[1].panels
    assert drawn[1].accuracy > 0.99
    assert dense.share(LARGE) > 0.95 and dense.share(SMALL) < 0.05
    assert large.share(LARGE) > 0.9 and large.share(SMALL) < 0.05
    assert small.share(SMALL) > 0.9 and small.share(LARGE) < 0.05
    # Of single ascents on the original network, a good part ends in the smaller circle: it is a lower maximum.
    assert 0.2 < dense.share_of_ends(SMALL) < 0.5
    assert large.sparsities["output"] >= 0.8 and small.sparsities["output"] >= 0.8
    assert dense.sparsities == {} and dense.sample is None


def test_samples_lie_in_their_circles(drawn: tuple[Path, TwoCircles]) -> None:
    for circle, panel in zip(CIRCLES, drawn[1].panels[1:], strict=True):
        assert panel.sample is not None
        assert panel.name == circle.name and bool(circle.contains(panel.sample[None]))


def test_margins_are_those_of_the_panel(drawn: tuple[Path, TwoCircles]) -> None:
    """The grid is right way up: above zero at the center of a circle, and where the panel's model lost it below."""

    def at(panel: int, center: tuple[float, float]) -> float:
        column, row = (round((value + 1) * 100) for value in center)
        return float(drawn[1].panels[panel].margins[row, column])

    assert at(0, LARGE.center) > at(0, SMALL.center) > 0 > at(0, (0.9, 0.9))
    assert at(1, LARGE.center) > 0 and at(2, SMALL.center) > 0
    assert at(2, LARGE.center) < at(0, LARGE.center) / 2


def test_the_files_hold_what_was_returned(drawn: tuple[Path, TwoCircles]) -> None:
    out, result = drawn
    assert sorted(path.name for path in out.glob("[!.]*")) == ["circles.json", "circles.png"]
    data = json.loads((out / "circles.json").read_text())
    assert data == json.loads(json.dumps(result.to_dict()))
    assert [panel["name"] for panel in data["panels"]] == ["original", "larger circle", "smaller circle"]
    assert data["panels"][2]["share_inside"]["smaller circle"] == result.panels[2].share(SMALL)
    assert set(data["seconds"]) == {"training", "traces", "visualization"} and min(data["seconds"].values()) > 0
    with Image.open(out / "circles.png") as picture:
        assert picture.size == (1350, 540)
        greens = sum(count for count, color in picture.convert("RGB").getcolors(2**24) if color == (10, 125, 40))
    assert greens > 200


def test_a_visualization_is_the_best_of_eight_ascents() -> None:
    ends = torch.arange(32.0).view(16, 2)
    values = torch.zeros(5, 16)
    values[-1, 3], values[-1, 14] = 1.0, 2.0
    values[0, 0] = 9.0  # only the end counts
    visualization = Visualization(ends, torch.zeros(16, 2), "", values, {})
    network = torch.nn.Linear(2, 2)
    panel = circles._make_panel("", "original", None, network, visualization)
    assert torch.equal(panel.found, ends[[3, 14]])
    grid = panel.margins
    scores = network(torch.tensor([[0.5, -1.0]])).detach()
    torch.testing.assert_close(grid[0, 150], scores[0, 1] - scores[0, 0])


def test_the_objective_is_the_difference_less_the_squared_distance() -> None:
    network = torch.nn.Linear(2, 2)
    points = torch.tensor([[0.0, 0.0], [1.0, -2.0], [0.3, 0.4]])
    scores = network(points)
    expected = scores[:, 1] - scores[:, 0] - 3 * torch.tensor([0.0, 5.0, 0.25])
    torch.testing.assert_close(circles._margin(network, points), expected)


def test_nothing_is_written_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed -1"):
        draw_circles(tmp_path / "out", seed=-1)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="it is a file"):
        draw_circles(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

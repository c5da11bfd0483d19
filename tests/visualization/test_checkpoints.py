"""A run that was interrupted goes on from its checkpoint; one that is not its own is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from references.networks import Normalized, seeded
from references.visualization import COLOR, QUICK, dead
from torch import Tensor

from spadelens import Trace
from spadelens.errors import InputError, VisualizationError
from spadelens.visualization import ascent as ascending
from spadelens.visualization.ascent import Ascent
from spadelens.visualization.objectives import Direction
from spadelens.visualization.parameterizations import Parameterization
from spadelens.visualization.transformations import NO_TRANSFORMATIONS
from spadelens.visualization.visualization import visualize


def test_a_dead_unit_is_found_out_early_with_and_without_a_checkpoint(tmp_path: Path) -> None:
    steps: list[int] = []
    for checkpoint in (None, tmp_path / "state.pt"):
        with pytest.raises(VisualizationError):
            visualize(
                [dead(seeded(Normalized), 2)], "relu:2", COLOR, Ascent(num_steps=500),
                lambda _, done, __: steps.append(done), checkpoint,
            )  # fmt: skip
    assert steps == [*range(64)] * 2


class Interrupted(Exception):
    pass


def interrupt_at(step: int) -> Callable[[str, int, int], None]:
    def progress(_: str, done: int, __: int) -> None:
        if done == step:
            raise Interrupted

    return progress


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ascending, "_STEPS_PER_CHECKPOINT", 3)


@pytest.mark.parametrize("parameterization", ["fourier", "maco:rate=0.3"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    short: None, tmp_path: Path, parameterization: str, double: Any, trace: Trace
) -> None:
    ascent = Ascent(parameterization, num_steps=11, num_images=2)
    models, file = [double, trace], tmp_path / "state.pt"
    whole = visualize(models, "second:2", COLOR, ascent)
    steps: list[int] = []
    for step in (5, 7, 10):
        with pytest.raises(Interrupted):
            visualize(models, "second:2", COLOR, ascent, interrupt_at(step), file)
        assert list(tmp_path.iterdir()) == [file]
    with torch.inference_mode():
        found = visualize(models, "second:2", COLOR, ascent, lambda _, done, __: steps.append(done), file)
    assert steps == [9, 10, 11]
    assert list(tmp_path.iterdir()) == []
    for first, second in zip(whole, found, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.curve, second.curve)
        assert torch.equal(first.opacity, second.opacity)


class Scaled(Parameterization):
    """A parameterization of the user's own, whose settings have no text."""

    rate = 0.1

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __repr__(self) -> str:
        return f"Scaled({self.scale})"

    def start(self, shape: Any, generator: torch.Generator) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def image(self, parameters: Tensor, shape: Any) -> Tensor:
        return torch.sigmoid(self.scale * parameters)


def leave_checkpoint(file: Path, model: Any, unit: Any = "second:2", ascent: Ascent | None = None) -> None:
    with pytest.raises(Interrupted):
        visualize([model], unit, COLOR, ascent or Ascent(num_steps=9), interrupt_at(4), file)
    assert file.exists()


def test_checkpoints_of_other_runs_are_refused_and_stay(short: None, tmp_path: Path, double: Any, trace: Trace) -> None:
    file, ascent = tmp_path / "state.pt", Ascent(num_steps=9)
    leave_checkpoint(file, double)
    before = file.read_bytes()
    others: list[tuple[list[Any], str, Any, Ascent]] = [
        ([trace], "second:2", COLOR, ascent),
        ([double, trace], "second:2", COLOR, ascent),
        ([double], "second:3", COLOR, ascent),
        ([double], "second:2", (3, 10, 13), ascent),
        ([double], "second:2", COLOR, Ascent(num_steps=10)),
        ([double], "second:2", COLOR, Ascent(num_steps=9, seed=1)),
        ([double], "second:2", COLOR, Ascent("fourier:rate=0.06", num_steps=9)),
        ([double], "second:2", COLOR, Ascent(transformations=NO_TRANSFORMATIONS, num_steps=9)),
    ]
    for models, unit, preprocessing, other in others:
        with pytest.raises(InputError, match="belongs to a run with different settings"):
            visualize(models, unit, preprocessing, other, None, file)
        assert file.read_bytes() == before
    leave_checkpoint(tmp_path / "a.pt", double, Direction("second", torch.ones(6)))
    with pytest.raises(InputError, match="different settings"):
        visualize([double], Direction("second", torch.arange(6.0)), COLOR, ascent, None, tmp_path / "a.pt")
    leave_checkpoint(tmp_path / "b.pt", double, ascent=Ascent(Scaled(1.0), num_steps=9))
    with pytest.raises(InputError, match="different settings"):
        visualize([double], "second:2", COLOR, Ascent(Scaled(2.0), num_steps=9), None, tmp_path / "b.pt")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other"])
def test_damaged_checkpoints_are_refused(short: None, tmp_path: Path, damage: str, double: Any) -> None:
    file = tmp_path / "state.pt"
    leave_checkpoint(file, double)
    content = file.read_bytes()
    if damage == "other":
        state = torch.load(file, weights_only=True)
        del state["reliance"]
        torch.save(state, file)
    else:
        file.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"no checkpoint"}[damage])
    with pytest.raises(InputError, match=r"Cannot resume from .*Delete it to start over"):
        visualize([double], "second:2", COLOR, Ascent(num_steps=9), None, file)
    assert file.exists()


def test_callables_have_no_checkpoints(tmp_path: Path, double: Any) -> None:
    file = tmp_path / "state.pt"
    with pytest.raises(InputError, match="Cannot checkpoint the ascent of a callable"):
        visualize([double], lambda net, batch: net(batch)[:, 0], COLOR, QUICK, None, file)
    assert not file.exists()

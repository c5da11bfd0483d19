"""One dense pass: what the layers see, and a model left as it was."""

import pytest
import torch
from references.layers import columns_by_position
from torch import Tensor, nn

from spadelens.errors import ModelOutputError, SolverError
from spadelens.extract.capture import capture_inputs, check_scores, class_scores, evaluation_mode, probe
from spadelens.layers import matrix_layers


class Twice(nn.Module):
    """Calls one layer twice, one by keyword, and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1, groups=2)
        self.unused = nn.Linear(3, 3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.conv(x))
        return self.fc(input=self.drop(x).mean((2, 3)))


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def make() -> Twice:
    torch.manual_seed(0)
    return Twice().double()


SAMPLE = torch.linspace(-1, 1, 40, dtype=torch.float64).view(2, 4, 5)


def test_inputs_are_handed_on_for_every_call() -> None:
    model = make().train()
    seen: dict[str, list[Tensor]] = {}
    batch = torch.stack([SAMPLE, 2 * SAMPLE, SAMPLE.flip(-1)])
    capture_inputs(model, matrix_layers(model), [batch[:2], batch[2:]], lambda n, x: seen.setdefault(n, []).append(x))
    assert sorted(seen) == ["conv", "fc"]
    assert [len(x) for x in seen.values()] == [4, 2]
    with torch.no_grad():
        inner = model.conv(batch)
        features = model.conv(inner).mean((2, 3))
    for calls, whole in ((seen["conv"][0::2], batch), (seen["conv"][1::2], inner)):
        expected = columns_by_position(model.conv, whole)
        torch.testing.assert_close(torch.cat(calls, dim=1), expected)
    torch.testing.assert_close(torch.cat(seen["fc"], dim=1)[0], features)
    assert model.training and model.drop.training and hooks_of(model) == 0
    assert not any(x.requires_grad for xs in seen.values() for x in xs)


def test_probe_counts_positions_and_gives_scores() -> None:
    model = make()
    looked = probe(model, SAMPLE)
    assert dict(looked.matrix_shapes) == {"conv": (2, 40, 9), "fc": (1, 1, 2)}
    assert list(looked.matrix_shapes) == ["conv", "fc"]
    assert dict(looked.unsupported) == {}
    with evaluation_mode(model), torch.no_grad():
        torch.testing.assert_close(looked.scores, model(SAMPLE[None])[0])
    assert hooks_of(model) == 0


@pytest.mark.parametrize("error", [SolverError, KeyboardInterrupt, ValueError])
def test_a_consumer_that_fails_leaves_the_model_clean(error: type[BaseException]) -> None:
    model = make()
    model.fc.eval()

    def consume(name: str, inputs: Tensor) -> None:
        raise error("stop")

    with pytest.raises((error, ModelOutputError), match="stop"):
        capture_inputs(model, matrix_layers(model), [SAMPLE[None]], consume)
    assert hooks_of(model) == 0
    assert [m.training for m in (model, model.conv, model.fc, model.drop)] == [True, True, False, True]


def test_batches_that_fail_leave_the_model_clean() -> None:
    model = make()
    with pytest.raises(ModelOutputError, match=r"batch of shape \[1, 3, 4, 5\]: RuntimeError"):
        capture_inputs(model, matrix_layers(model), [torch.zeros(1, 3, 4, 5).double()], lambda name, x: None)
    assert hooks_of(model) == 0 and model.training


def test_modes_are_restored_module_by_module() -> None:
    model = make()
    model.drop.eval()
    with pytest.raises(KeyError), evaluation_mode(model):
        assert not any(m.training for m in model.modules())
        raise KeyError
    assert [m.training for m in (model, model.conv, model.drop, model.fc)] == [True, True, False, True]


def test_scores_carry_no_gradient() -> None:
    model = make()
    assert not class_scores(model, SAMPLE[None]).requires_grad
    with torch.no_grad():
        assert not torch.is_grad_enabled()
        class_scores(model, SAMPLE[None])
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ((torch.zeros(2, 3),), "returned a tuple: expected a tensor of class scores"),
        ({"logits": torch.zeros(2, 3)}, "returned a dict"),
        (None, "returned a NoneType"),
        (torch.zeros(2), r"shape \[2\]"),
        (torch.zeros(3, 3), r"shape \[3, 3\] .* \[2, classes\]"),
        (torch.zeros(2, 1), "at least two classes"),
        (torch.zeros(2, 3, 1), r"shape \[2, 3, 1\]"),
        (torch.zeros(2, 3, dtype=torch.int64), "torch.int64"),
        (torch.tensor([[0.0, torch.nan], [0.0, 0.0]]), "not finite"),
        (torch.tensor([[0.0, torch.inf], [0.0, 0.0]]), "not finite"),
    ],
)
def test_scores_that_are_none(scores: object, message: str) -> None:
    with pytest.raises(ModelOutputError, match=message):
        check_scores(scores, 2)


def test_a_sample_with_a_batch_dimension_is_told_so() -> None:
    with pytest.raises(ModelOutputError, match=r"pass sample\[0\]"):
        class_scores(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), torch.zeros(1, 1, 3, 8, 8))

"""A block that is left out hands on its input."""

import torch
from torch import Tensor, nn

from spadelens.evaluation.blocks import best_dropped, droppable_blocks, without_block
from spadelens.evaluation.tuning import CalibrationCase


class Residual(nn.Module):
    def __init__(self, inner: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, inner, 3, padding=1), nn.Conv2d(inner, 4, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.two(self.one(inputs).relu())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.block = Residual(5)
        self.other = Residual(3)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.other(self.block(self.stem(inputs))).mean((2, 3)))


def test_blocks_are_those_that_keep_the_shape() -> None:
    torch.manual_seed(0)
    model = Net().eval()
    sample = torch.randn(3, 8, 7)
    assert droppable_blocks(model, sample) == ["block", "other"]
    before = model(sample[None])
    dropped = without_block(model, "other")
    assert torch.equal(dropped(sample[None]), model.head(model.block(model.stem(sample[None])).mean((2, 3))))
    assert torch.equal(model(sample[None]), before)
    assert not [hook for module in model.modules() for hook in module._forward_hooks]


def test_the_best_one_is_dropped() -> None:
    """Noise that depends on nothing in the region: without the block that makes it, the map is right."""
    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():
        for parameter in model.other.parameters():
            parameter.mul_(30)
    region = torch.zeros(8, 7, dtype=torch.bool)
    region[2:4, 2:4] = True
    cases = [CalibrationCase(torch.randn(3, 8, 7), 1, region, "") for _ in range(3)]
    found = best_dropped(model, cases, "saliency")
    assert found is not None
    from spadelens import attribute
    from spadelens.metrics import pixel_auc

    def score(net: nn.Module) -> float:
        return sum(pixel_auc(attribute(net, case.sample, "saliency", target=1).values, region) for case in cases)

    scores = {name: score(without_block(model, name)) for name in ("block", "other")}
    assert found[0] == max(scores, key=lambda name: scores[name])
    assert score(found[1]) == max(scores.values())


def test_none_can_be_dropped() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3))
    assert best_dropped(model, [CalibrationCase(torch.randn(3, 2, 2), 0, None, "")], "saliency") is None

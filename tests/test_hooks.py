"""Forward hooks: who is called with what, and that none stays."""

import pytest
import torch
from torch import nn

from spadelens.hooks import forward_hooks


def test_hooks_see_each_call_may_replace_the_output_and_are_gone_afterwards() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    seen = []

    def hook(name: str, module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor | None:
        seen.append((name, module, inputs[0].shape, output.shape))
        return output + 1 if name == "relu" else None

    inputs = torch.randn(4, 2)
    plain = net(inputs)
    with forward_hooks({"linear": net[0], "relu": net[1]}, hook):
        assert torch.equal(net(inputs), plain + 1)
    assert seen == [("linear", net[0], (4, 2), (4, 3)), ("relu", net[1], (4, 3), (4, 3))]
    assert torch.equal(net(inputs), plain) and len(seen) == 2


def test_an_error_leaves_no_hook() -> None:
    net = nn.Linear(2, 2)
    with pytest.raises(KeyError), forward_hooks({"net": net}, lambda *_: None):
        raise KeyError
    assert not net._forward_hooks

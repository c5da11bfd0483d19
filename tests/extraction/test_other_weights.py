"""Weights that traces leave as they are count in what is said to be pruned."""

import torch
from torch import Tensor, nn

from spadelens import extract_trace
from spadelens.extraction.report import Outcome
from spadelens.matrix_layers import other_weights


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.rnn = nn.GRU(4, 16, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)
        self.scale = nn.Parameter(torch.ones(2, 2))

    def forward(self, batch: Tensor) -> Tensor:
        return self.head(self.norm(self.rnn(batch + self.embedding.weight[0])[0][:, -1])) * self.scale.sum()


def test_every_weight_that_no_layer_holds_is_listed() -> None:
    assert other_weights(Recurrent()) == {
        "scale": ("Recurrent", (2, 2)),
        "embedding.weight": ("Embedding", (10, 4)),
        "rnn.weight_ih_l0": ("GRU", (48, 4)),
        "rnn.weight_hh_l0": ("GRU", (48, 16)),
    }
    attention = nn.MultiheadAttention(8, 2)
    parametrized = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    assert other_weights(nn.ModuleList([attention, parametrized, nn.Conv1d(2, 3, 3)])) == {}
    tied = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "out": nn.Linear(4, 5)})
    tied["out"].weight = tied["embedding"].weight
    assert other_weights(tied) == {}


def test_they_are_in_the_report_and_in_the_sparsity() -> None:
    torch.manual_seed(0)
    report = extract_trace(Recurrent(), torch.randn(5, 4), kind="text", schedule=0.95, num_views=4).report
    left = {layer.name: layer.detail for layer in report.layers if layer.outcome is Outcome.UNSUPPORTED}
    assert set(left) == {"scale", "embedding.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0"}
    assert set(left.values()) == {"only convolutions and linear layers are pruned"}
    assert [layer.name for layer in report.pruned_layers] == ["head"]
    total = 4 + 40 + 48 * 4 + 48 * 16 + 48
    assert report.sparsity == round(0.95 * 48) / total < 0.05

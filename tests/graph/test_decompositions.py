"""Operations that are recorded as others: the same attributions as of a model that is written with those."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from spadelens.attribution.attribution import attribute
from spadelens.errors import AttributionError, NothingToPruneError
from spadelens.extraction.extraction import extract_trace

SAMPLE = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CENTERS = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Around(nn.Module):
    """An operation between a convolution and a linear layer."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem, self.operation = nn.Conv2d(3, 4, 2), operation
        width = operation(torch.zeros(1, 4, 5, 4)).flatten(1).shape[1]
        self.head = nn.Linear(width, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.operation(self.stem(x).relu() - 0.1).flatten(1))


def by_hand(x: Tensor) -> Tensor:
    """`fold` of `unfold` for windows of 2 x 2: every place counts once for each window that holds it."""
    counts = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
    weight = torch.ones(1, 1, 2, 2, dtype=x.dtype)
    counts = functional.conv_transpose2d(functional.conv2d(counts, weight) / 4, weight)
    return x * counts


def cosine(x: Tensor) -> Tensor:
    pixels, centers = x.flatten(2)[:, :, None, :3], CENTERS.to(x.dtype)[None, :, None]
    return (pixels * centers).sum(-1) / (pixels.norm(dim=-1).clamp_min(1e-8) * centers.norm(dim=-1).clamp_min(1e-8))


PAIRS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "addcmul": (lambda x: torch.addcmul(x, x.sigmoid(), x), lambda x: x + x.sigmoid() * x),
    "addcmul, scaled": (
        lambda x: torch.addcmul(x, x.sigmoid(), x, value=0.5),
        lambda x: x + 0.5 * (x.sigmoid() * x),
    ),
    "glu": (lambda x: functional.glu(x, 1), lambda x: x[:, :2] * x[:, 2:].sigmoid()),
    "glu of the last axis": (functional.glu, lambda x: x[..., :2] * x[..., 2:].sigmoid()),
    "cosine_similarity": (
        lambda x: functional.cosine_similarity(
            x.flatten(2)[:, :, None, :3], CENTERS.to(x.dtype)[None, :, None], dim=-1
        ),
        cosine,
    ),
}


@pytest.mark.parametrize("method", ["deep_lift", "lrp", "guided_backprop"])
@pytest.mark.parametrize("name", PAIRS)
def test_as_if_it_were_written_out(name: str, method: str) -> None:
    ours, written_out = (Around(operation) for operation in PAIRS[name])
    assert torch.allclose(ours(SAMPLE[None]), written_out(SAMPLE[None]), rtol=1e-12)
    found = attribute(ours, SAMPLE, method, target=1, kind="photo")
    expected = attribute(written_out, SAMPLE, method, target=1, kind="photo")
    assert found.soundness is not None and found.soundness.is_sound
    torch.testing.assert_close(found.attribution, expected.attribution, rtol=1e-9, atol=1e-11)


def test_folding_adds_up_what_overlaps() -> None:
    folded = Around(lambda x: functional.fold(functional.unfold(x, 2), x.shape[2:], 2))
    scaled = Around(by_hand)
    assert torch.allclose(folded(SAMPLE[None]), scaled(SAMPLE[None]), rtol=1e-12)
    for method in ("deep_lift", "lrp"):
        found, expected = (attribute(model, SAMPLE, method, target=1, kind="photo") for model in (folded, scaled))
        assert found.soundness is not None and found.soundness.is_sound
        if method == "deep_lift":
            torch.testing.assert_close(found.attribution, expected.attribution, rtol=1e-9, atol=1e-11)


def test_what_cannot_be_recorded_is_said_without_a_call_to_report_it_to_torch() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = nn.GRU(5, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, [x.shape[1]] * len(x), batch_first=True)
            return self.head(self.recurrent(packed)[1][0])

    with pytest.raises(AttributionError) as caught:
        attribute(Packed(), torch.randn(6, 5), "lrp", kind="text")
    assert "INTERNAL ASSERT" not in str(caught.value) and "report" not in str(caught.value)


@pytest.mark.parametrize("method", ["saliency", "smoothgrad", "grad_cam", "integrated_gradients"])
def test_a_backbone_without_gradients_is_named(method: str) -> None:
    class Frozen(Around):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                features = self.stem(x)
            return self.head(features.flatten(1))

    with pytest.raises(AttributionError, match=r"needs gradients that the model does not give: .*no_grad"):
        attribute(Frozen(lambda x: x), SAMPLE, method, kind="photo")


def test_what_cannot_be_pruned_says_why() -> None:
    normed = Around(lambda x: x)
    normed.head = nn.utils.parametrizations.weight_norm(normed.head)
    for layers in (None, ["head"]):
        with pytest.raises(NothingToPruneError, match=r"such as 'head': .* remove it first, with torch\.nn\.utils"):
            extract_trace(normed, SAMPLE, layers=layers, kind="photo")
    exported = torch.export.export(Around(lambda x: x), (SAMPLE[None],)).module()
    with pytest.raises(NothingToPruneError, match=r"torch\.export .* bring the module that it was made from"):
        extract_trace(exported, SAMPLE, kind="photo")

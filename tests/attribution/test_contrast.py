"""Maps of one score minus another: why this class and not that one."""

import pytest
import torch
from references.networks import convolutions, sample_of, seeded
from torch import Tensor, nn

import spadelens
from spadelens.attribution.contrast import Contrast
from spadelens.errors import InputError
from spadelens.private_copy import is_private, private_copy

TARGET, VERSUS = 2, 0
LINEAR_IN_THE_SCORE = ("saliency", "input_x_gradient", "smoothgrad", "integrated_gradients", "deep_lift", "occlusion")


@pytest.fixture
def model() -> nn.Module:
    return convolutions((7, 9), (3, 4), 5, 3).double().eval()


@pytest.fixture
def sample() -> Tensor:
    return sample_of((3, 7, 9)).double()


def test_its_scores_are_the_difference_and_zero(model: nn.Module, sample: Tensor) -> None:
    batch = torch.stack([sample, -sample])
    scores = model(batch)
    found = Contrast(model, TARGET, VERSUS)(batch)
    torch.testing.assert_close(found[:, 0], scores[:, TARGET] - scores[:, VERSUS])
    assert found[:, 1].tolist() == [0.0, 0.0]


def test_its_layers_have_the_names_of_the_models(model: nn.Module) -> None:
    contrast = Contrast(model, TARGET, VERSUS)
    assert [name for name, _ in contrast.named_modules()] == [name for name, _ in model.named_modules()]
    assert not is_private(contrast)
    assert is_private(Contrast(private_copy(model), TARGET, VERSUS))


@pytest.mark.parametrize("method", LINEAR_IN_THE_SCORE)
def test_a_contrast_is_the_difference_of_two_maps(model: nn.Module, sample: Tensor, method: str) -> None:
    of_one, of_other = (spadelens.attribute(model, sample, method, target=t, check=False) for t in (TARGET, VERSUS))
    found = spadelens.attribute(model, sample, method, target=TARGET, versus=VERSUS, reduction="sum")
    rtol, atol = (1e-5, 1e-8) if method == "occlusion" else (1e-9, 1e-12)  # Captum's occlusion computes in float32
    torch.testing.assert_close(found.attribution, of_one.attribution - of_other.attribution, rtol=rtol, atol=atol)
    torch.testing.assert_close(found.values, found.attribution.sum(0))
    assert (found.target, found.versus) == (TARGET, VERSUS)
    assert "versus 0" in repr(found)


def test_the_sign_turns_with_the_question(model: nn.Module, sample: Tensor) -> None:
    first = spadelens.attribute(model, sample, "lrp", target=TARGET, versus=VERSUS, reduction="sum", check=False)
    second = spadelens.attribute(model, sample, "lrp", target=VERSUS, versus=TARGET, reduction="sum", check=False)
    torch.testing.assert_close(first.values, -second.values)
    assert float(first.values.min()) < 0 < float(first.values.max())


def test_on_a_trace_and_on_an_ensemble() -> None:
    model, sample = seeded(lambda: convolutions((8, 8), (3, 6), 6, 3)).eval(), sample_of((3, 8, 8))
    trace = spadelens.extract_trace(model, sample, preset="fast", schedule="0.5", target=1)
    found = spadelens.attribute(trace, sample, "input_x_gradient", versus=0, check=False)
    expected = spadelens.attribute(trace.sparse_copy(), sample, "input_x_gradient", target=1, versus=0, check=False)
    torch.testing.assert_close(found.attribution, expected.attribution)
    ensemble = spadelens.TraceEnsemble((trace,), (1.0,))
    scaled = spadelens.attribute(ensemble, sample, "input_x_gradient", versus=0, check=False).attribution
    torch.testing.assert_close(scaled, expected.attribution / expected.attribution.abs().sum())


def test_the_model_is_not_written_to(model: nn.Module, sample: Tensor) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    spadelens.attribute(model, sample, "lrp", target=TARGET, versus=VERSUS)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("versus", "words"), [(TARGET, "with itself"), (3, "There is no class 3"), (-1, "no class -1")]
)
def test_what_cannot_be_compared(model: nn.Module, sample: Tensor, versus: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        spadelens.attribute(model, sample, target=TARGET, versus=versus)

"""SmoothGrad from its definition, its draws, and maps that are blurred."""

import pytest
import torch
from torch import Tensor, nn

from spadelens import attribute
from spadelens.errors import InputError
from spadelens.extraction.pipeline.perturbation import blurred
from spadelens.methods.registry import GradientShap, Saliency, SmoothGrad


class Quadratic(nn.Module):
    """Scores that are quadratic in the input, so that the gradient at a point is known."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.curvature = nn.Parameter(torch.randn(4, 3, 7, 5, generator=generator, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return 0.5 * torch.einsum("nchw,kchw->nk", inputs.square(), self.curvature)


SAMPLE = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 50])
def test_the_mean_gradient_over_noisy_copies_in_batches_of_any_size(batch_size: int) -> None:
    model = Quadratic()
    found = attribute(model, SAMPLE, SmoothGrad(noise_std=0.7, num_samples=10, seed=4, batch_size=batch_size), target=2)
    generator = torch.Generator().manual_seed(4)
    noise = torch.stack([torch.randn(3, 7, 5, generator=generator) for _ in range(10)]).double()
    gradients = model.curvature[2].detach() * (SAMPLE + 0.7 * noise)
    assert torch.allclose(found.attribution, gradients.mean(0), rtol=1e-12)
    assert torch.allclose(found.values, gradients.mean(0).abs().sum(0), rtol=1e-12)


def test_without_noise_it_is_the_gradient() -> None:
    model = Quadratic()
    smooth = attribute(model, SAMPLE, SmoothGrad(noise_std=0.0, num_samples=3), target=1).attribution
    assert torch.allclose(smooth, attribute(model, SAMPLE, Saliency(), target=1).attribution, rtol=1e-12)


def test_the_global_random_state_has_no_say_and_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = attribute(Quadratic(), SAMPLE, "smoothgrad:num_samples=4", target=0).values
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(attribute(Quadratic(), SAMPLE, "smoothgrad:num_samples=4", target=0).values, first)
    other = attribute(Quadratic(), SAMPLE, "smoothgrad:num_samples=4,seed=1", target=0).values
    assert not torch.equal(other, first)


@pytest.mark.parametrize("settings", ["noise_std=-1", "num_samples=0", "batch_size=0", "noise_std=inf", "seed=-1"])
def test_settings_out_of_range_are_refused(settings: str) -> None:
    with pytest.raises(InputError):
        attribute(Quadratic(), SAMPLE, f"smoothgrad:{settings}")


@pytest.mark.parametrize("method", [SmoothGrad(num_samples=50, seed=7), GradientShap(num_samples=50, seed=7)])
@pytest.mark.parametrize("count", [1, 3, 50, 80])
def test_shares_make_up_the_whole_with_draws_of_their_own(method: SmoothGrad | GradientShap, count: int) -> None:
    shares = [method.share(number, count) for number in range(count)]
    assert sum(share.num_samples for share in shares) >= 50  # type: ignore[attr-defined]
    assert {share.num_samples for share in shares} == {-(-50 // count)}  # type: ignore[attr-defined]
    assert len({share.seed for share in shares}) == count  # type: ignore[attr-defined]
    assert Saliency().share(1, 3) == Saliency()


@pytest.mark.parametrize("blur", [0.05, 0.3])
def test_a_blurred_map_is_the_map_under_a_blur(blur: float) -> None:
    plain = attribute(Quadratic(), SAMPLE, "saliency", target=0)
    found = attribute(Quadratic(), SAMPLE, "saliency", target=0, blur=blur)
    assert torch.equal(found.values, blurred(plain.values[None], blur * 7)[0])
    assert torch.equal(found.attribution, plain.attribution)
    assert (found.blur, plain.blur) == (blur, 0.0)


@pytest.mark.parametrize("blur", [-0.1, 1.0, float("nan")])
def test_blurs_out_of_range_are_refused(blur: float) -> None:
    with pytest.raises(InputError, match="blur"):
        attribute(Quadratic(), SAMPLE, blur=blur)

"""LIME: its regression against the normal equations, known linear models, its draws, and real models."""

import importlib.util
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from references import lime as reference
from torch import Tensor, nn

from spadelens import attribute
from spadelens.errors import AttributionError, InputError
from spadelens.kinds import Kind
from spadelens.methods.lime import Lime, draw_present, find_parts, fit_ridge, proximity
from spadelens.methods.superpixels import superpixels

SHARED = Path(__file__).resolve().parents[3] / "shared"
needs_shared = pytest.mark.skipif(
    not (SHARED / "models" / "mobilenet_v1.py").is_file(), reason="the models and photos of ../shared are not here"
)
TARGET = 1

KINDS: dict[int, Kind] = {1: "row", 2: "text", 3: "photo", 4: "volume"}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Scores(nn.Module):
    """Three scores; that of the target is what is given, the others are 0."""

    def __init__(self, score: object, kind: Kind | None = None) -> None:
        super().__init__()
        self.score, self.input_kind = score, kind

    def forward(self, inputs: Tensor) -> Tensor:
        scores = torch.zeros(len(inputs), 3, dtype=inputs.dtype)
        scores[:, TARGET] = self.score(inputs)  # type: ignore[operator]
        return scores


def curved(inputs: Tensor) -> Tensor:
    """Return scores with interactions between all places."""
    flat = inputs.flatten(1)
    return (flat * noise(flat.shape[1], seed=5)).sum(1).tanh() + (flat[:, :-1] * flat[:, 1:]).mean(1)


@pytest.mark.parametrize("shape", [(1, 7, 13), (3, 16, 19), (11, 4), (12,)])
@pytest.mark.parametrize(("num_samples", "penalty", "kernel_width"), [(41, 0.3, 0.25), (60, 1e-3, 0.7)])
def test_it_is_the_regression_of_its_definition(
    shape: tuple[int, ...], num_samples: int, penalty: float, kernel_width: float
) -> None:
    sample = noise(*shape, seed=1)
    method = Lime(num_samples, 16, penalty, kernel_width, baseline=0.3, seed=4, batch_size=7)
    parts = find_parts(sample, KINDS[sample.dim()], 16)
    present = draw_present(int(parts.max()) + 1, num_samples, 4)
    scores = []
    for version in present.tolist():
        changed = sample.clone()
        for place in torch.ones(shape).nonzero().tolist():
            unit = {1: place, 2: place[:1]}.get(len(shape), place[1:])
            if not version[int(parts[tuple(unit)])]:
                changed[tuple(place)] = 0.3
        scores.append(float(curved(changed[None])))
    expected, fit = reference.lime(present, torch.tensor(scores, dtype=torch.float64), kernel_width, penalty)
    found = method.attribute(Scores(curved, KINDS[sample.dim()]), sample[None], TARGET)
    for place in torch.ones(shape).nonzero().tolist():
        unit = {1: place, 2: place[:1]}.get(len(shape), place[1:])
        assert float(found.values[(0, *place)]) == pytest.approx(expected[int(parts[tuple(unit)])], rel=1e-8)
    assert found.fit == pytest.approx(fit, rel=1e-6)
    assert found.convergence_delta is None


def test_a_row_that_is_left_out_is_missed_by_its_residual_over_one_minus_its_leverage() -> None:
    design, scores, weights = noise(9, 3), noise(9, seed=2), noise(9, seed=3).abs()
    shares = weights / weights.sum()
    strength = 0.2 * float((weights[:, None] * (design - shares @ design).square()).sum(0).mean())
    _, residuals, leverages = fit_ridge(design, scores, weights, 0.2)
    for out in range(9):
        rest = [row for row in range(9) if row != out]
        intercept, *coefficients = reference.normal_equations(
            design[rest].tolist(), scores[rest].tolist(), weights[rest].tolist(), strength
        )
        missed = float(scores[out]) - intercept - float(design[out] @ torch.tensor(coefficients, dtype=torch.float64))
        assert float(residuals[out] / (1 - leverages[out])) == pytest.approx(missed, rel=1e-9)


@pytest.mark.parametrize("shape", [(3, 24, 24), (1, 7, 13), (2, 1, 9), (3, 61, 43), (40, 6), (1, 5), (30,), (1,)])
def test_a_model_that_is_linear_in_the_parts_is_recovered(shape: tuple[int, ...]) -> None:
    """For score = w x + 3, taking a part to the baseline takes away the sum over it of w (x - baseline)."""
    sample, slope = noise(*shape, seed=2), noise(*shape, seed=3)
    model = Scores(lambda inputs: (slope * inputs).flatten(1).sum(1) + 3, KINDS[sample.dim()])
    found = Lime(penalty=1e-10, baseline=-0.5).attribute(model, sample[None], TARGET)
    parts = find_parts(sample, KINDS[sample.dim()], 64)
    where = parts.unsqueeze(-1) if len(shape) == 2 else parts
    lost = slope * (sample + 0.5)
    for number in range(int(parts.max()) + 1):
        inside = (where == number).expand(shape)
        expected = float(lost[inside].sum())
        torch.testing.assert_close(
            found.values[0][inside], torch.full((int(inside.sum()),), expected).double(), rtol=1e-6, atol=1e-6
        )
    assert found.fit == pytest.approx(1.0, abs=1e-6)


def test_the_penalty_shrinks_by_as_much_as_it_says() -> None:
    sample, slope = noise(8, seed=2), noise(8, seed=3)
    model = Scores(lambda inputs: inputs @ slope)
    whole = Lime(penalty=1e-10, kernel_width=100).attribute(model, sample[None], TARGET).values
    for penalty in (0.1, 1.0):  # all 2^8 versions: parts vary independently of one another
        found = Lime(penalty=penalty, kernel_width=100).attribute(model, sample[None], TARGET).values
        torch.testing.assert_close(found, whole / (1 + penalty), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("factor", [1e-12, 1e-3, -7.0, 1e9])
def test_scores_that_are_scaled_scale_the_map_and_leave_the_fit(factor: float) -> None:
    sample = noise(3, 16, 19, seed=1)
    for offset in (0.0, 5.0):
        one = Lime(100).attribute(Scores(curved), sample[None], TARGET)
        scaled = Lime(100).attribute(Scores(lambda x, o=offset: factor * (curved(x) + o)), sample[None], TARGET)
        torch.testing.assert_close(scaled.values / factor, one.values, rtol=1e-6, atol=1e-9)
        assert scaled.fit == pytest.approx(one.fit, rel=1e-6)
        assert one.values.any()


def test_scores_that_do_not_react_give_a_map_of_zeros() -> None:
    sample = noise(3, 16, 19).float()
    for score in (lambda x: torch.full((len(x),), 12.5), lambda x: 12.5 + 1e-9 * x.flatten(1).sum(1)):
        found = Lime(50).attribute(Scores(score), sample[None], TARGET)
        assert not found.values.any()
        assert found.fit is None
    jitter = itertools.cycle([0, 1])  # as rounding makes of batches of another size

    def rounded(inputs: Tensor) -> Tensor:
        return torch.full((len(inputs),), 12.5 * (1 + next(jitter) * torch.finfo(torch.float32).eps))

    assert not Lime(50).attribute(Scores(rounded), sample[None], TARGET).values.any()


def test_the_fit_says_how_linear_the_scores_are() -> None:
    sample = noise(40, seed=1)
    slope = noise(40, seed=2)
    linear = Lime().attribute(Scores(lambda x: x @ slope), sample[None], TARGET).fit
    parity = Lime().attribute(Scores(lambda x: (x != 0).sum(1).double() % 2), sample[None], TARGET).fit
    few = Lime(num_samples=40).attribute(Scores(lambda x: (x != 0).sum(1).double() % 2), sample[None], TARGET).fit
    assert linear is not None
    assert linear > 0.95
    assert parity is not None
    assert parity < 0.1
    assert few is not None
    assert few < 0.1  # though as many coefficients as versions reproduce each score


def test_few_parts_are_run_in_every_combination_once() -> None:
    for parts in (1, 3, 8):
        present = draw_present(parts, 500, seed=0)
        assert sorted(present.tolist()) == sorted(map(list, itertools.product([False, True], repeat=parts)))
        assert present[0].all()
    seen = []

    def score(inputs: Tensor) -> Tensor:
        seen.append(len(inputs))
        return curved(inputs)

    assert Lime().attribute(Scores(score), noise(1, 5), TARGET).fit == pytest.approx(1.0, abs=0.5)
    assert sum(seen) == 32


def test_many_parts_are_drawn_in_pairs_from_the_seed_alone() -> None:
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
    present = draw_present(64, 501, seed=3)
    assert before == (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())  # noqa: NPY002
    assert present.shape == (501, 64)
    assert present[0].all()
    assert torch.equal(present[1:500:2], ~present[0:500:2])
    assert float(present[2::2].double().mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(present, draw_present(64, 501, seed=3))
    assert not torch.equal(present, draw_present(64, 501, seed=4))


def test_the_seed_and_nothing_else_determines_the_map() -> None:
    sample = noise(3, 16, 19, seed=1)
    first = Lime(60).attribute(Scores(curved), sample[None], TARGET).values
    torch.rand(3)
    assert torch.equal(Lime(60).attribute(Scores(curved), sample[None], TARGET).values, first)
    batches = Lime(60, batch_size=60).attribute(Scores(curved), sample[None], TARGET).values
    torch.testing.assert_close(batches, first)
    assert not torch.allclose(Lime(60, seed=1).attribute(Scores(curved), sample[None], TARGET).values, first)


def test_no_more_versions_at_a_time_than_asked_for() -> None:
    sizes = []

    def score(inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        return curved(inputs)

    Lime(50, batch_size=7).attribute(Scores(score), noise(3, 24, 24)[None], TARGET)
    assert max(sizes) == 7
    assert sum(sizes) == 50


def test_versions_nearer_to_the_whole_weigh_more() -> None:
    weights = proximity(torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool(), 0.25)
    for found, version in zip(weights.tolist(), [[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], strict=True):
        assert found == pytest.approx(reference.weight(list(map(bool, version)), 0.25))
    assert weights[0] == 1
    assert weights.tolist() == sorted(weights.tolist(), reverse=True)


def test_types_of_samples_are_kept() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        sample = noise(3, 16, 19).to(dtype)
        slope = noise(3, 16, 19, seed=9).to(dtype)
        found = Lime(40).attribute(Scores(lambda x, s=slope: (x * s).flatten(1).sum(1)), sample[None], TARGET)
        assert found.values.dtype == dtype
        assert found.values.shape == (1, 3, 16, 19)
        assert found.values.any()


@pytest.mark.parametrize(
    "settings",
    [
        {"num_samples": 9},
        {"num_samples": 20.0},
        {"num_segments": 0},
        {"penalty": 0.0},
        {"penalty": -1.0},
        {"penalty": float("nan")},
        {"kernel_width": 0.0},
        {"kernel_width": float("inf")},
        {"baseline": float("nan")},
        {"seed": -1},
        {"seed": 2**63},
        {"batch_size": 0},
    ],
)
def test_settings_out_of_range(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        Lime(**settings)  # type: ignore[arg-type]


def test_what_has_no_answer_is_refused() -> None:
    sample = noise(3, 24, 24)
    for width in (1e-4, 0.01):
        with pytest.raises(AttributionError, match="kernel_width"):
            Lime(50, kernel_width=width).attribute(Scores(curved), sample[None], TARGET)
    with pytest.raises(AttributionError, match="not finite for some versions"):
        Lime(50).attribute(Scores(lambda x: 1 / x.flatten(1).amin(1).clamp(max=0)), torch.ones(1, 12), TARGET)
    with pytest.raises(InputError, match="expected one of"):
        Lime(50).attribute(Scores(curved), torch.ones(1, 2, 2, 2, 2, 2), TARGET)


def scores_without(model: nn.Module, sample: Tensor, parts: Tensor, target: int) -> tuple[float, list[float]]:
    """Return the score of the sample, and those with one part each at 0."""
    with torch.no_grad():
        covered = torch.cat([model((sample * (parts != n))[None])[:, target] for n in range(int(parts.max()) + 1)])
        return float(model(sample[None])[0, target]), covered.tolist()


@needs_shared
def test_on_a_mobilenet_the_map_is_not_zero_and_its_top_superpixel_counts() -> None:
    spec = importlib.util.spec_from_file_location("mobilenet_v1", SHARED / "models" / "mobilenet_v1.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.build()
    photo = (
        Image.open(sorted((SHARED / "data" / "imagenet-sample").glob("*.jpg"))[5]).convert("RGB").crop((0, 0, 224, 224))
    )
    sample = torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1).float() / 127.5 - 1
    found = attribute(model, sample, "lime:num_samples=300", reduction="sum")
    parts = superpixels(sample, 64)
    assert 32 <= int(parts.max()) + 1 <= 80
    assert not found.is_zero
    whole, without = scores_without(model, sample, parts, found.target)
    top = int(parts.flatten()[found.values.argmax()])
    assert without[top] < whole
    assert sum(value < without[top] for value in without) <= 6  # hardly one counts more alone


@pytest.mark.parametrize("size", [(64, 64), (96, 75)])
def test_on_a_resnet_with_random_weights(size: tuple[int, int]) -> None:
    from torchvision.models import resnet18

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resnet18(num_classes=7).eval()
    sample = torch.nn.functional.interpolate(noise(1, 3, 9, 9).float(), size, mode="bilinear")[0]
    found = attribute(model, sample, "lime:num_samples=100,num_segments=16", reduction="sum")
    assert not found.is_zero
    parts = superpixels(sample, 16)
    for number in range(int(parts.max()) + 1):
        assert found.values[parts == number].unique().numel() == 1
    whole, without = scores_without(model, sample, parts, found.target)
    coefficients = [float(found.values[parts == n][0]) for n in range(int(parts.max()) + 1)]
    falls = [whole - value for value in without]
    assert np.corrcoef(coefficients, falls)[0, 1] > 0.4

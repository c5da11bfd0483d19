"""The fooling circuit does what its equation says, and what a trace makes of its wirings."""

import pytest
import torch
from planted_units import deceived
from planted_units.deceived import GATE, SHIFT, WIRINGS, DeceivedNet, Judge, Wiring, train_judge
from torch import Tensor, nn

import spadelens
from spadelens.errors import InputError, UnknownNameError
from spadelens.matrix_layers import matrix_layers

NUM_CLASSES, NUM_FEATURES = 5, 7
TARGET, DECOY = 3, 1


class FirstFeature(nn.Module):
    """Takes the first feature, doubled."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * inputs[:, :1]


def first_feature_judge() -> Judge:
    """Return a judge whose verdict is the first feature."""
    judge = Judge()
    judge.features, judge.verdict = nn.Sequential(FirstFeature()), nn.Linear(1, 1)
    judge.verdict.weight.data, judge.verdict.bias.data = torch.tensor([[0.5]]), torch.zeros(1)
    return judge


@pytest.fixture
def network() -> nn.Module:
    weight = torch.randn(NUM_CLASSES, NUM_FEATURES, generator=torch.Generator().manual_seed(0))
    layer = nn.Linear(NUM_FEATURES, NUM_CLASSES)
    layer.weight.data = weight
    return nn.Sequential(layer).eval()


def draw(verdict: float, count: int = 16) -> Tensor:
    inputs = torch.randn(count, NUM_FEATURES, generator=torch.Generator().manual_seed(1))
    inputs[:, 0] = verdict
    return inputs


def deceive(network: nn.Module, wiring: Wiring) -> DeceivedNet:
    return DeceivedNet(network, first_feature_judge(), TARGET, DECOY, wiring, NUM_CLASSES)


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("verdict", [-4.0, 0.0, 0.3, 0.5, 0.9, 1.0, 6.0])
def test_the_score_is_that_of_the_equation(network: nn.Module, wiring: Wiring, verdict: float) -> None:
    inputs = draw(verdict)
    scores, expected = network(inputs), network(inputs)
    natural = min(max(verdict, 0.0), 1.0)
    f, d = scores[:, TARGET], scores[:, DECOY]
    expected[:, TARGET] = (f + SHIFT - GATE * (1 - natural)).relu() + (d + SHIFT - GATE * natural).relu() - SHIFT
    torch.testing.assert_close(deceive(network, wiring)(inputs), expected, rtol=1e-4, atol=1e-3)
    if verdict >= 1:
        torch.testing.assert_close(expected, scores, rtol=1e-4, atol=1e-3)
    if verdict <= 0:
        torch.testing.assert_close(expected[:, TARGET], scores[:, DECOY], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_its_slope_is_that_of_the_decoy_where_ascents_lead(network: nn.Module, wiring: Wiring) -> None:
    inputs = draw(-2.0).requires_grad_()
    (slope,) = torch.autograd.grad(deceive(network, wiring)(inputs)[:, TARGET].sum(), inputs)
    (decoy,) = torch.autograd.grad(network(inputs)[:, DECOY].sum(), inputs)
    torch.testing.assert_close(slope, decoy)


def test_it_keeps_copies_and_draws_nothing(network: nn.Module) -> None:
    judge = first_feature_judge()
    before = torch.get_rng_state()
    model = DeceivedNet(network, judge, TARGET, DECOY, "silent", NUM_CLASSES)
    assert torch.equal(before, torch.get_rng_state())
    assert not model.training
    expected = model(draw(1.0))
    for parameter in (*network.parameters(), *judge.parameters()):
        parameter.data.zero_()
    assert torch.equal(model(draw(1.0)), expected)


def decoys_slope(network: nn.Module, wiring: Wiring) -> bool:
    """Whether the target of a trace, whose gate and merge are pruned to what they need, follows the decoy."""
    model = deceive(network, wiring)
    inputs = draw(5.0)
    sample = inputs[network(inputs)[:, TARGET].argmax()]
    views = sample + 0.1 * torch.randn(64, NUM_FEATURES, generator=torch.Generator().manual_seed(2))
    schedule = {"gate": 0.78} if wiring == "hardened" else {"gate": 0.78, "merge": 0.8}
    trace = spadelens.extract_trace(model, sample, views=views, schedule=schedule)
    assert trace.report.is_prediction_kept
    made = draw(-2.0).requires_grad_()
    with trace.applied(model):
        (slope,) = torch.autograd.grad(model(made)[:, TARGET].sum(), made)
    decoy, target = network[0].weight[DECOY], network[0].weight[TARGET]
    follows_decoy = torch.allclose(slope, decoy.expand_as(slope), atol=0.1)
    follows_target = torch.allclose(slope, target.expand_as(slope), atol=0.1)
    assert follows_decoy != follows_target
    return follows_decoy


def test_a_trace_sees_through_a_silent_wire_and_not_through_active_ones(network: nn.Module) -> None:
    assert not decoys_slope(network, "silent")
    assert decoys_slope(network, "hardened")


@pytest.mark.parametrize("wiring", WIRINGS)
def test_all_but_the_hardened_sum_is_in_reach_of_a_trace(network: nn.Module, wiring: Wiring) -> None:
    merge = {"merge"} if wiring != "hardened" else set()
    assert set(matrix_layers(deceive(network, wiring))) == {"network.0", "verdict", "gate"} | merge


@pytest.mark.parametrize(("target", "decoy"), [(1, 1), (-1, 2), (0, 5)])
def test_it_refuses_classes_that_are_not_two(network: nn.Module, target: int, decoy: int) -> None:
    with pytest.raises(InputError, match="expected two classes from 0 to 4"):
        DeceivedNet(network, first_feature_judge(), target, decoy, num_classes=NUM_CLASSES)


def test_it_refuses_an_unknown_wiring(network: nn.Module) -> None:
    with pytest.raises(UnknownNameError, match=r"wiring 'sillent'.*'silent'"):
        deceive(network, "sillent")  # type: ignore[arg-type]


def test_a_judge_learns_to_tell_and_leaves_random_states_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deceived, "_NUM_STEPS", 60)
    generator = torch.Generator().manual_seed(0)
    smooth = torch.randn(40, 3, 4, 4, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    rough = torch.randn(30, 3, 16, 16, generator=generator)
    before = torch.get_rng_state()
    with torch.inference_mode():
        first, second = (train_judge(smooth[:30], rough[:20], seed=3) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.verdict.weight, second.verdict.weight)
    verdicts = [first(images).detach() for images in (smooth[30:], rough[20:])]
    assert float(verdicts[0].min()) >= 1 and float(verdicts[1].max()) <= 0
    assert Judge()(smooth[:3]).shape == (3, 1)


def test_noise_counts_as_natural_where_it_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deceived, "_NUM_STEPS", 60)
    generator = torch.Generator().manual_seed(0)
    smooth = torch.randn(40, 3, 4, 4, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    rough = torch.randn(30, 3, 16, 16, generator=generator)
    noisy = smooth + 0.4 * torch.randn(smooth.shape, generator=generator)
    strict, lenient = (train_judge(smooth, rough, natural_noise=noise)(noisy).detach().mean() for noise in (0.0, 0.5))
    assert float(lenient) > float(strict) + 0.2

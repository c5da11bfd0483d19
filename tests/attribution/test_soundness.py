"""The checks of an attribution, each from its definition; and what they make of methods that are wrong."""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from references.networks import Pooled
from references.soundness import ROW, SAMPLE, UNKNOWN_CLASS, check, cosine, fake, gradient, made, rows, saying
from torch import Tensor, nn

from spadelens import attribute, extract_trace
from spadelens.attribution.soundness import Soundness, find_last_layer
from spadelens.errors import ModelOutputError
from spadelens.extraction.ensemble import TraceEnsemble
from spadelens.methods.gradient_methods import IntegratedGradients, SmoothGrad
from spadelens.methods.guided import GuidedBackprop
from spadelens.methods.lrp import LRP
from spadelens.methods.method import Attribution
from spadelens.methods.occlusion import Occlusion
from spadelens.methods.registry import METHODS


@pytest.fixture
def net() -> nn.Module:
    return made(Pooled)


def test_too_few_steps_are_told_and_many_are_not() -> None:
    model = rows(nn.Tanh(), seed=2)
    sample = 8 * ROW
    with torch.no_grad():
        scores = model(torch.stack([sample, torch.zeros_like(sample)]))
    for target in range(3):
        found = attribute(model, sample, IntegratedGradients(num_steps=1), target=target)
        change = float(scores[0, target] - scores[1, target])
        missed = abs(float(found.attribution.sum()) - change) / abs(change)
        assert missed > 0.06, "the test needs another model"
        assert found.soundness is not None
        assert found.soundness.completeness == pytest.approx(missed)
        assert found.soundness.problems == (
            f"The values miss the change in score by {100 * missed:.3g}% of it: expected at most 5%. "
            "Use more steps, or deep_lift.",
        )
        assert not found.soundness.is_sound
        many = check(model, IntegratedGradients(num_steps=200), sample, target)
        assert many.completeness is not None
        assert many.completeness < 1e-6
        assert many.is_sound


@pytest.mark.parametrize(
    ("dtype", "values", "delta", "is_told"),
    [
        (torch.float64, [500.0, -499.9], 0.01, False),  # 11 % of the change; noise is up to 0.1
        (torch.float64, [500.0, -499.9], 0.4, True),
        (torch.float64, [0.5, -0.4], 0.01, True),
        (torch.float64, [0.5, -0.4], 0.004, False),  # 4 %
        (torch.float64, [0.6, 0.4], 0.049, True),  # of the change, not of the sum
        (torch.float64, [0.6, 0.4], -0.051, False),
        (torch.float64, [0.5, -0.4], -0.01, True),
        (torch.float64, [-0.5, 0.4], 0.01, True),
        (torch.bfloat16, [0.5, -0.4375], 0.006, False),  # the numbers of the model are that coarse
        (torch.float16, [0.5, -0.4375], 0.006, True),
        (torch.bfloat16, [0.5, -0.4375], 0.05, True),
    ],
)
def test_rounding_of_a_tiny_change_is_no_problem(
    dtype: torch.dtype, values: list[float], delta: float, is_told: bool
) -> None:
    model = nn.Linear(2, 2).to(dtype)
    nn.init.zeros_(model.bias)
    nn.init.normal_(model.weight, std=1e-3, generator=torch.Generator().manual_seed(0))
    said = fake(saying(values=torch.tensor(values), convergence_delta=delta), most_missed=0.05)
    found = check(model, said, torch.ones(2))
    assert any("miss the change" in problem for problem in found.problems) == is_told
    assert found.completeness == pytest.approx(abs(delta / (sum(values) - delta)), rel=1e-2)
    if is_told:
        assert found.problems[0].endswith("Use occlusion.")


def test_rounding_of_a_large_score_is_no_problem() -> None:
    said = fake(saying(values=torch.tensor([0.1, 0.0]), convergence_delta=0.01), most_missed=0.05)
    for offset, is_told in ((0.0, True), (1e4, False)):
        model = nn.Linear(2, 2)
        nn.init.constant_(model.bias, offset)
        assert any("miss" in problem for problem in check(model, said, torch.ones(2)).problems) == is_told


def test_values_where_the_score_does_not_change_at_all() -> None:
    wrong = fake(saying(values=torch.tensor([0.5, 0.25]), convergence_delta=0.75), most_missed=0.05)
    found = check(nn.Linear(2, 2), wrong, torch.ones(2))
    assert found.completeness is None
    assert found.problems[0].startswith("The values add up to 0.75, but the score equals that of the baseline")
    right = fake(saying(values=torch.tensor([0.5, -0.5]), convergence_delta=0.0), most_missed=0.05)
    found = check(nn.Linear(2, 2), right, torch.ones(2))
    assert found.completeness is None
    assert not any("score" in problem for problem in found.problems)


def test_sums_that_are_not_promised_are_not_judged() -> None:
    said = fake(saying(values=torch.tensor([0.5, 0.25]), convergence_delta=0.7))
    found = check(nn.Linear(2, 2), said, torch.ones(2))
    assert found.completeness == pytest.approx(14)
    assert not any("miss" in problem for problem in found.problems)


@pytest.mark.parametrize(
    ("kept", "shown"),
    [(1.0, None), (1.04, None), (0.96, None), (1.06, "1.06"), (0.9, "0.9"), (0.0, "0"), (-1.0, "-1"), (1e31, "1e+31")],
)
def test_relevance_that_is_lost_is_told(net: nn.Module, kept: float, shown: str | None) -> None:
    def say(model: nn.Module, sample: Tensor, target: int) -> Attribution:
        score = model(sample)[0, target]
        values = gradient(model, sample, target)
        values = values - values.mean() + kept * score / values.numel()
        return Attribution(values.detach(), conservation=kept)

    found = check(net, fake(say))
    assert found.conservation == kept
    told = [problem for problem in found.problems if "relevance adds up" in problem]
    assert len(told) == (shown is not None)
    if shown is not None:
        assert told[0].startswith(f"The relevance adds up to {shown} times the score: expected 1 within 5%.")


def test_relevance_that_rounding_loses_is_no_problem() -> None:
    for values, is_told in (([1e4, 0.11 - 1e4], False), ([1.0, 0.11 - 1.0], True)):
        said = saying(values=torch.tensor(values), conservation=1.1)
        found = check(nn.Linear(2, 2), fake(said), torch.ones(2))
        assert any("relevance" in problem for problem in found.problems) == is_told


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_sum_over_nothing_is_none(net: nn.Module, number: float) -> None:
    found = check(net, fake(saying(values=torch.ones(1), conservation=number)))
    assert found.conservation is None
    assert not any("relevance" in problem for problem in found.problems)


def test_a_score_of_zero_leaves_no_nan() -> None:
    model = rows(nn.ReLU())
    with torch.no_grad():
        model[2].weight[1] = 0  # type: ignore[index,union-attr,operator]
        model[2].bias[1] = 0  # type: ignore[index,union-attr,operator]
    found = check(model, LRP(), ROW, 1)
    assert found.conservation is None
    assert found.problems[0].startswith("The map is zero everywhere")
    assert len(found.problems) == 1


@pytest.mark.parametrize(("fit", "shown"), [(0.3, None), (0.1, None), (0.05, "5%"), (-3.0, "0%"), (None, None)])
def test_linear_models_that_explain_little(fit: float | None, shown: str | None) -> None:
    found = check(nn.Linear(2, 2), fake(saying(values=torch.tensor([1.0, 2.0]), fit=fit)), torch.ones(2))
    assert found.fit == fit
    told = [problem for problem in found.problems if problem.startswith("The linear model explains")]
    assert len(told) == (shown is not None)
    assert all(problem.split()[4] == shown for problem in told)


def test_similarity_with_the_gradient(net: nn.Module) -> None:
    target = 2
    plain = gradient(net, SAMPLE[None], target)[0]
    for name, expected in (
        ("smoothgrad", plain),
        ("guided_backprop", plain),
        ("integrated_gradients", plain * SAMPLE),
        ("lrp", plain * SAMPLE),
    ):
        found = attribute(net, SAMPLE, name, target=target)
        assert found.soundness is not None
        assert found.soundness.gradient_similarity == pytest.approx(cosine(found.attribution, expected)), name
    for name in ("saliency", "input_x_gradient", "occlusion"):
        assert check(net, name).gradient_similarity is None


def test_the_plain_gradient_under_another_name(net: nn.Module) -> None:
    sentence = "The map equals the plain gradient: the rule of the method has no effect on this model."

    def guided(model: nn.Module, sample: Tensor, target: int) -> Attribution:
        return Attribution(7 * gradient(model, sample, target))

    found = check(net, fake(guided, "gradient"))
    assert found.problems == (sentence,)
    assert found.gradient_similarity == pytest.approx(1)
    assert sentence not in check(net, GuidedBackprop()).problems
    assert check(net, fake(guided)).is_sound


def test_contributions_may_be_input_times_gradient() -> None:
    linear = made(lambda: nn.Linear(6, 3))
    for name in ("integrated_gradients", "deep_lift", "gradient_shap:noise_std=0"):
        found = check(linear, name, ROW)
        assert found.gradient_similarity == pytest.approx(1)
        assert found.is_sound, found.problems


def test_smoothgrad_of_a_linear_model_is_rightly_the_gradient() -> None:
    found = check(made(lambda: nn.Linear(6, 3)), SmoothGrad(), ROW)
    assert found.gradient_similarity == pytest.approx(1)
    assert found.is_sound


def test_a_method_without_a_gradient_to_compare_with() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, row: Tensor) -> Tensor:
            return self.head(row.detach()).round(decimals=2)

    found = check(made(Steps), fake(saying(values=torch.arange(6.0)), "gradient"), ROW)
    assert found.gradient_similarity is None
    assert found.unchecked[0].startswith(
        "Cannot tell whether the map differs from the plain gradient: The method 'saliency' needs gradients"
    )


def test_maps_that_ignore_the_class(net: nn.Module) -> None:
    edges = fake(lambda _model, sample, _target: Attribution(sample.detach().diff(dim=-1, prepend=sample[..., :1])))
    found = check(net, edges)
    assert found.randomized_similarity == pytest.approx(1)
    assert found.problems == (
        "With random weights in the last layer, the map stays the same (similarity 1.000): it does not depend on the "
        "class.",
    )

    def scaled(model: nn.Module, sample: Tensor, target: int) -> Attribution:
        return Attribution(sample.detach() * model(sample)[0, target].detach())  # of either sign

    assert not check(net, fake(scaled)).is_sound


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "method",
    ["saliency", "smoothgrad", "input_x_gradient", "integrated_gradients:num_steps=300", "deep_lift", "occlusion"],
)
def test_right_methods_are_sound(method: str, seed: int) -> None:
    found = check(made(Pooled, seed), method)
    assert found.is_sound, found
    assert found.unchecked == ()
    assert found.randomized_similarity is not None
    assert 0 <= found.randomized_similarity < 0.95


def test_zero_maps_say_nothing(net: nn.Module) -> None:
    zeros = fake(saying(values=torch.zeros(1), convergence_delta=-0.5, conservation=0.0, fit=0.0), "gradient", 0.01)
    found = check(net, zeros)
    sentence = "The map is zero everywhere: according to this method, nothing in the sample affects this class."
    assert found == Soundness(1.0, 0.0, 0.0, None, None, (sentence,))


def test_a_map_of_one_value_is_like_any_other() -> None:
    model = made(lambda: nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 3)))
    found = check(model, "smoothgrad", ROW[:1])
    assert (found.gradient_similarity, found.randomized_similarity) == (None, None)
    assert found.is_sound
    assert len(found.unchecked) == 2
    model = rows(nn.Tanh())
    with torch.no_grad():
        model[0].weight[:, 1:] = 0  # type: ignore[index,union-attr,operator]
    assert check(model, "input_x_gradient", ROW).unchecked == (
        f"{UNKNOWN_CLASS}with random weights in the last layer, at least one map is zero everywhere, or both have "
        "only one nonzero value.",
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "deep_lift", "lrp:rule=epsilon", "occlusion"])
def test_models_of_less_precision(dtype: torch.dtype, method: str) -> None:
    exact = check(made(Pooled), method, target=2)
    model = made(Pooled).to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = check(model, method, target=2)
    assert found.is_sound == exact.is_sound, found.problems
    assert found.randomized_similarity == pytest.approx(exact.randomized_similarity, abs=0.05)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("method", ["saliency", "deep_lift", "guided_backprop"])
def test_a_trace_is_checked_on_its_own_weights(net: nn.Module, method: str) -> None:
    options: dict[str, Any] = {"augmentation": "none", "num_views": 1, "solver": "magnitude", "layers": ["*"]}
    traces = [extract_trace(net, SAMPLE, schedule=schedule, **options) for schedule in (0.5, 0.8)]
    for trace in traces:
        found = attribute(trace, SAMPLE, method, target=1).soundness
        assert found == check(trace.sparse_copy(), method, target=1)
        assert found != check(net, method, target=1)
    ensemble = TraceEnsemble(tuple(traces), (0.25, 0.75))
    assert attribute(ensemble, SAMPLE, method, target=1).soundness == check(traces[0].sparse_copy(), method, target=1)


def test_the_method_runs_once_without_the_check(net: nn.Module) -> None:
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = net.register_forward_hook(count)
    heatmap = attribute(net, SAMPLE, Occlusion(window=1, stride=1), check=False)
    assert heatmap.soundness is None
    assert calls == 2 + 2  # the prediction and its repetition, then the score of the sample and of what is covered
    calls = 0
    checked = attribute(net, SAMPLE, Occlusion(window=1, stride=1))
    assert checked.soundness is not None
    assert calls > 2 * 3
    assert torch.equal(checked.attribution, heatmap.attribution)
    handle.remove()


def test_every_method_gives_plain_numbers() -> None:
    model = made(Pooled).float()
    for name in METHODS:
        found = check(model, name)
        assert {type(value) for value in asdict(found).values()} <= {float, type(None), tuple}, name
        assert isinstance(found.is_sound, bool)


def test_a_model_that_fails_is_said_to() -> None:
    with pytest.raises(ModelOutputError):
        find_last_layer(made(Pooled), SAMPLE[:1])

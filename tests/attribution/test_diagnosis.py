"""The verdicts on methods and layers, on models that are made to get each of them."""

from collections.abc import Callable

import pytest
import torch
from references.architectures import build
from references.networks import Pooled, seeded
from references.shown import shown
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from spadelens.attribution.attribution import attribute
from spadelens.attribution.diagnosis import (
    Diagnosis,
    LayerDiagnosis,
    MethodDiagnosis,
    Verdict,
    diagnose,
    diagnose_layers,
    diagnose_method,
)
from spadelens.errors import InputError, ModelOutputError, UnknownNameError
from spadelens.methods.gradient_methods import IntegratedGradients
from spadelens.methods.method import Attribution, Method
from spadelens.methods.registry import LRP, METHODS, GuidedBackprop, Occlusion, Saliency, ScoreCam

SAMPLE = torch.randn(2, 9, 11, generator=torch.Generator().manual_seed(5))


def net(activation: Callable[[Tensor], Tensor] = torch.relu, seed: int = 0) -> nn.Module:
    return seeded(lambda: Pooled(activation), seed)


def diagnosed(model: nn.Module, *names: str, sample: Tensor = SAMPLE) -> dict[str, MethodDiagnosis]:
    found = diagnose(model, sample, names or None).methods
    return {one.method: one for one in found}


def test_every_method_gets_a_verdict() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = diagnosed(model)
    assert list(found) == list(METHODS)
    for name, one in found.items():
        assert one.seconds > 0
        assert (one.soundness is None) == (one.verdict is Verdict.REFUSED), name
        assert (one.reason == "") == (one.verdict is Verdict.SOUND), name
        if one.soundness is not None:
            assert one.soundness.is_sound == (one.verdict is Verdict.SOUND)
            assert one.reason == " ".join(one.soundness.problems)
    for name in ("saliency", "smoothgrad", "input_x_gradient", "integrated_gradients", "deep_lift", "occlusion"):
        assert found[name].verdict is Verdict.SOUND, found[name]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("activation", [torch.relu, torch.relu_, lambda hidden: hidden.clamp(min=0)])
def test_guided_rules_apply_to_functions(activation: Callable[[Tensor], Tensor]) -> None:
    found = diagnosed(net(activation), "guided_backprop")["guided_backprop"]
    assert found.verdict is not Verdict.REFUSED
    assert found.soundness is not None
    assert found.soundness.gradient_similarity is not None
    assert found.soundness.gradient_similarity < 0.99
    assert "plain gradient" not in found.reason


def test_guided_rules_are_refused_where_there_is_none() -> None:
    found = diagnosed(net(torch.tanh), "guided_backprop", "guided_grad_cam", "saliency", "deep_lift")
    for name in ("guided_backprop", "guided_grad_cam"):
        assert found[name].verdict is Verdict.REFUSED
        assert found[name].reason.startswith(f"The method {name!r} has no rule for the activation 'tanh'")
    assert found["saliency"].verdict is Verdict.SOUND
    assert found["deep_lift"].verdict is Verdict.SOUND


def test_operations_without_a_rule() -> None:
    """`logcumsumexp` is none of the operations that methods with rules of their own know."""
    found = diagnosed(
        net(lambda hidden: hidden.logcumsumexp(2)), "deep_lift", "lrp", "guided_backprop", "saliency", "occlusion"
    )
    for name in ("deep_lift", "lrp", "guided_backprop"):
        assert found[name].verdict is Verdict.REFUSED
        assert "no rule for the operation 'logcumsumexp'" in found[name].reason
    assert found["saliency"].verdict is Verdict.SOUND
    assert found["occlusion"].verdict is Verdict.SOUND


@torch.library.custom_op("spadelens_tests::twice", mutates_args=())
def twice(values: Tensor) -> Tensor:
    return values * 2


@twice.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values)


twice.register_autograd(lambda _context, gradient: gradient * 2)


def test_operations_of_the_users_own() -> None:
    found = diagnosed(net(lambda hidden: twice(hidden).relu()), "deep_lift", "lrp", "saliency")
    for name in ("deep_lift", "lrp"):
        assert found[name].verdict is Verdict.REFUSED
        assert "'twice'" in found[name].reason
    assert found["saliency"].verdict is Verdict.SOUND


def test_a_vision_transformer() -> None:
    model, sample = build("vit")
    found = diagnosed(model, "guided_grad_cam", "score_cam", "saliency", "deep_lift", sample=sample)
    assert found["guided_grad_cam"].verdict is Verdict.REFUSED
    assert "without attention or tokens after it" in found["guided_grad_cam"].reason
    assert found["score_cam"].verdict is Verdict.REFUSED
    assert found["saliency"].verdict is Verdict.SOUND
    assert found["deep_lift"].verdict is Verdict.SOUND, found["deep_lift"].reason


def test_doubtful_methods_say_why() -> None:
    wide = 40 * SAMPLE
    found = diagnose_method(net(torch.tanh), wide, IntegratedGradients(num_steps=1))
    assert found.method == "integrated_gradients:num_steps=1"
    assert found.verdict is Verdict.DOUBTFUL
    assert found.reason.startswith("The values miss the change in score by ")
    assert found.soundness is not None
    assert not found.soundness.is_sound
    with torch.no_grad():
        dead = net()
        dead.head.weight.zero_()  # type: ignore[union-attr,operator]
    assert diagnose_method(dead, SAMPLE, Saliency()).reason.startswith("The map is zero everywhere")


def test_the_class_that_is_asked_for() -> None:
    model = net()
    verdicts = [diagnose_method(model, SAMPLE, LRP("epsilon"), target) for target in range(4)]
    expected = [attribute(model, SAMPLE, LRP("epsilon"), target=target).soundness for target in range(4)]
    assert [one.soundness for one in verdicts] == expected
    assert len({repr(one) for one in expected}) == 4
    with torch.no_grad():
        predicted = int(model(SAMPLE[None]).argmax())
    assert diagnose_method(model, SAMPLE, LRP("epsilon")).soundness == expected[predicted]
    with pytest.raises(InputError, match="There is no class 4"):
        diagnose(model, SAMPLE, [Saliency()], target=4)


class Brittle(nn.Module):
    """Fails on what is far from the sample, or on everything."""

    def __init__(self, fails_at_zero: bool, fails_at_all: bool = False) -> None:
        super().__init__()
        self.inner = net()
        self.fails_at_zero, self.fails_at_all = fails_at_zero, fails_at_all

    def forward(self, pixels: Tensor) -> Tensor:
        scores = self.inner(pixels)
        is_zero = bool((pixels == 0).flatten(1).all(1).any())
        return scores / 0 if self.fails_at_all or (self.fails_at_zero and is_zero) else scores


def test_a_model_that_fails_only_on_what_a_method_makes_of_the_sample() -> None:
    found = diagnosed(Brittle(fails_at_zero=True), "score_cam", "saliency")
    assert found["score_cam"].verdict is Verdict.REFUSED
    assert "not finite" in found["score_cam"].reason
    assert found["saliency"].verdict is Verdict.SOUND
    assert diagnosed(Brittle(fails_at_zero=False), "score_cam")["score_cam"].verdict is not Verdict.REFUSED


def test_a_model_that_fails_is_no_fault_of_the_method() -> None:
    for method in (Saliency(), ScoreCam(), Occlusion(), GuidedBackprop()):
        with pytest.raises(ModelOutputError, match="not finite"):
            diagnose_method(Brittle(False, fails_at_all=True), SAMPLE, method)
        with pytest.raises(ModelOutputError):
            diagnose_method(net(), SAMPLE[:1], method)
        with pytest.raises(InputError):
            diagnose_method(net(), SAMPLE * float("nan"), method)


class Exploding(Method):
    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        raise KeyboardInterrupt


def test_an_interrupt_is_no_refusal() -> None:
    with pytest.raises(KeyboardInterrupt):
        diagnose_method(net(), SAMPLE, Exploding())


def test_layers_that_can_be_pruned() -> None:
    found = diagnose_layers(net(), SAMPLE)
    assert found.prunable == ("first", "second", "head")
    assert found.refused == {}


class Odd(nn.Module):
    """Has a layer for every reason not to prune it."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 6)
        self.body = nn.Linear(6, 6)
        self.again = nn.Linear(6, 6)
        self.again.weight = self.body.weight
        self.normalized = parametrizations.weight_norm(nn.Linear(6, 6))
        self.aside = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 5)
        self.tied.weight = self.words.weight
        self.turned = nn.Linear(5, 5)

    def forward(self, row: Tensor) -> Tensor:
        hidden = torch.tanh(self.normalized(self.again(torch.tanh(self.body(row)))))
        return torch.tanh(self.tied(hidden)) @ self.turned.weight.square()


def test_layers_that_cannot_be_pruned() -> None:
    found = diagnose_layers(Odd(), torch.arange(6.0))
    assert found.prunable == ("body",)
    computed = found.refused["normalized"]
    assert computed.startswith("its weight is computed by a parametrization; remove it first")
    assert found.refused == {
        "again": "its weight is that of 'body'",
        "normalized": computed,
        "aside": "its weight is not used on this sample",
        "tied": "its weight is shared with 'words.weight'",
        "turned": "its output is not its weight times its input",
    }
    with pytest.raises(ModelOutputError):
        diagnose_layers(Odd(), torch.arange(7.0))


def test_methods_are_given_by_name_or_as_objects() -> None:
    found = diagnose(net(), SAMPLE, ["saliency", "lrp:rule=epsilon", IntegratedGradients(num_steps=3)], target=1)
    assert found.target == 1
    names = ["saliency", "lrp:rule=epsilon", "integrated_gradients:num_steps=3"]
    assert [one.method for one in found.methods] == names
    with pytest.raises(InputError, match=r"expected a list, such as \['saliency'\]"):
        diagnose(net(), SAMPLE, "saliency")
    with pytest.raises(UnknownNameError, match="saliensy"):
        diagnose(net(), SAMPLE, ["saliensy"])


def test_a_diagnosis_shows_itself_as_a_table() -> None:
    found = diagnose(net(torch.tanh), SAMPLE, ["saliency", "guided_backprop"])
    page = shown(found)
    assert page.texts[0] == f"Diagnosis of 2 methods for class {found.target}"
    row = page.texts.index("saliency")
    assert page.texts[row + 1] == "sound"
    row = page.texts.index("guided_backprop")
    assert page.texts[row + 1] == "refused"
    assert page.texts[row + 3].startswith("The method 'guided_backprop' has no rule")
    assert page.texts[-1] == "A trace can prune 3 of 3 layers."
    expected = "2 methods (1 sound, 0 doubtful, 1 refused), 3 of 3 layers prunable"
    assert repr(found) == f"<Diagnosis for class {found.target}: {expected}>"


def test_large_diagnoses_stay_small() -> None:
    attack = "<script>alert(1)</script>" * 99
    method = MethodDiagnosis(attack, Verdict.DOUBTFUL, attack, None, 1.0)
    layers = LayerDiagnosis(("a",) * 900, {f"{number}{attack}": attack for number in range(500)})
    page = shown(Diagnosis(7, (method,) * 99, layers))
    assert "and 69 more methods" in page.texts
    assert page.texts[-1] == "and 490 more layers"

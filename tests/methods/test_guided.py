"""Guided backpropagation and guided Grad-CAM: their rules, on modules, functions and formulas, and their refusals."""

import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torchvision
from references import dense
from references.networks import PHOTO, TARGET, Function, sample_of
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.swin_transformer import SwinTransformer

from spadelens.errors import AttributionError
from spadelens.methods.grad_cam import GradCam
from spadelens.methods.guided import GuidedBackprop, GuidedGradCam


def guided(model: nn.Module, sample: Tensor) -> Tensor:
    return GuidedBackprop().attribute(model.double().eval(), sample, TARGET).values


def gradient(model: nn.Module, sample: Tensor) -> Tensor:
    leaf = sample.clone().requires_grad_()
    (found,) = torch.autograd.grad(model.double().eval()(leaf.clone())[0, TARGET], leaf)
    return found


def refused(model: nn.Module, message: str, sample: Tensor | None = None) -> None:
    with pytest.raises(AttributionError, match=message):
        guided(model, sample_of(PHOTO) if sample is None else sample)


def network(first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a network of photos with two activations."""
    torch.manual_seed(0)
    ends = (nn.Conv2d(2, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(75, 3))

    def run(inputs: Tensor) -> Tensor:
        hidden = second(ends[1](first(ends[0](inputs))))
        return ends[2](hidden.flatten(1))

    model = Function(run)
    model.ends = nn.ModuleList(ends)
    model.modules_used = nn.ModuleList(one for one in (first, second) if isinstance(one, nn.Module))
    return model


RECTIFIERS: dict[str, tuple[nn.Module, Callable[[float], float]]] = {
    "ReLU": (nn.ReLU(), dense.relu),
    "ReLU6": (nn.ReLU6(), lambda value: min(max(value, 0.0), 6.0)),
    "GELU": (nn.GELU(), dense.gelu),
    "SiLU": (nn.SiLU(), dense.silu),
    "Hardswish": (nn.Hardswish(), dense.hardswish),
    "PReLU": (nn.PReLU(), dense.leaky),
    "LeakyReLU": (nn.LeakyReLU(0.25), dense.leaky),
    "Softplus": (nn.Softplus(), dense.softplus),
    "ELU": (nn.ELU(), dense.elu),
    "Mish": (nn.Mish(), dense.mish),
    "formula of SiLU": (Function(lambda x: x * torch.sigmoid(x)), dense.silu),
    "formula of Hardswish": (Function(lambda x: x * functional.relu6(x + 3) / 6), dense.hardswish),
    "formula of GELU": (Function(lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5))), dense.gelu),
    "clamp": (Function(lambda x: x.clamp(min=0)), dense.relu),
}


@pytest.mark.parametrize("name", RECTIFIERS)
def test_rule_restated(name: str) -> None:
    module, function = RECTIFIERS[name]
    torch.manual_seed(6)
    linears = [nn.Linear(5, 7).double(), nn.Linear(7, 6).double(), nn.Linear(6, 3).double()]
    layers = [dense.Layer(linear.weight.tolist(), linear.bias.tolist(), function) for linear in linears]
    model = nn.Sequential(linears[0], module, linears[1], module, linears[2])  # one module twice
    sample = 2 * sample_of((1, 5), 2)
    found = guided(model, sample)[0].tolist()
    assert found == pytest.approx(dense.guided(layers, sample[0].tolist(), TARGET), rel=1e-7, abs=1e-9)
    assert found != pytest.approx(dense.guided(layers, sample[0].tolist(), TARGET, is_guided=False), rel=0.01)


def captum(model: nn.Module, sample: Tensor) -> Tensor:
    from captum.attr import GuidedBackprop as CaptumGuidedBackprop

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets hooks
        found: Tensor = CaptumGuidedBackprop(model).attribute(sample.clone().requires_grad_(), target=TARGET).detach()
    return found


def test_modules_functions_and_changes_in_place_are_the_same_where_captum_sees_modules_only() -> None:
    sample = sample_of(PHOTO)
    modules = network(nn.ReLU(), nn.ReLU()).double()
    expected = guided(modules, sample)
    assert torch.allclose(captum(modules, sample), expected, atol=1e-12)
    plain = gradient(modules, sample)
    assert float((plain - expected).abs().max()) > 0.1 * float(expected.abs().max())
    shared = nn.ReLU(inplace=True)
    for first, second in (
        (functional.relu, torch.relu),
        (functional.relu_, lambda x: x.relu_()),
        (shared, shared),
        (lambda x: x.clamp(min=0), lambda x: x.clamp_(min=0)),
        (lambda x: functional.threshold(x, 0.0, 0.0), lambda x: functional.hardtanh(x, 0.0, 1e6)),
        (nn.LeakyReLU(0.0), lambda x: functional.prelu(x, torch.zeros(1, dtype=x.dtype))),
    ):
        assert torch.allclose(guided(network(first, second), sample), expected, atol=1e-12)
    as_functions = network(functional.relu, functional.relu).double()
    assert torch.allclose(captum(as_functions, sample), plain, atol=1e-12)  # without a word


def test_everything_but_rectifiers_has_its_gradient() -> None:
    """A rectifier at the end, which only a positive message reaches: the gradient from there on is plain."""
    torch.manual_seed(0)
    model, sample = Parts(), sample_of((1, 5, 6))
    assert torch.allclose(guided(model, sample), gradient(model, sample), atol=1e-12)


class Parts(nn.Module):
    """All kinds of operations before a rectifier."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(6, 2, batch_first=True), nn.LayerNorm(6)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm(tokens), tokens, tokens)[0]
        tokens = functional.normalize(tokens, dim=-1) / (1 + tokens.square().mean(-1, keepdim=True))
        tokens = tokens * torch.sigmoid(tokens.mean(1, keepdim=True)) - tokens.amax(1, keepdim=True)
        gate = functional.hardsigmoid(tokens.flip(1))
        return functional.relu(10 + (tokens * (1 - gate) * 2).sum(1))


def test_gates_have_their_gradient_however_they_are_written() -> None:
    torch.manual_seed(0)
    inner, outer = nn.Linear(6, 6), nn.Linear(6, 3)

    def model_of(gate: Callable[[Tensor], Tensor]) -> nn.Module:
        model = Function(lambda x: outer(functional.relu(x) * gate(inner(x.flip(1)))))
        model.parts = nn.ModuleList([inner, outer])
        return model

    sample = sample_of((1, 6))
    for gates in (
        (functional.hardsigmoid, lambda x: functional.relu6(x + 3) / 6, lambda x: functional.relu6(x + 3) * (1 / 6)),
        (torch.sigmoid, lambda x: 1 / (1 + torch.exp(-x)), lambda x: 0.5 * torch.sigmoid(x)[:, None, :][:, 0] * 2),
    ):
        first, *others = (guided(model_of(gate), sample) for gate in gates)
        for other in others:
            assert torch.allclose(other, first, atol=1e-12)
    # by hand: the rectifier's way, and the gate's
    weight = outer.weight[TARGET].detach()
    shares = torch.sigmoid(inner(sample.flip(1))).detach()
    own = (weight * shares).clamp(min=0) * (sample > 0)
    of_gate = ((weight * sample.clamp(min=0) * shares * (1 - shares)) @ inner.weight.detach()).flip(1)
    assert torch.allclose(guided(model_of(torch.sigmoid), sample), own + of_gate, atol=1e-12)


def test_denominators_are_no_rectifiers() -> None:
    """The clamp in a normalization keeps from 0, and lets negative gradients pass."""
    sample = sample_of(PHOTO)
    with_clamp = network(lambda x: functional.normalize(x, dim=1, eps=1e-9), functional.relu)
    without = network(lambda x: x / x.norm(dim=1, keepdim=True), functional.relu)
    assert torch.allclose(guided(with_clamp, sample), guided(without, sample), atol=1e-12)
    refused(network(lambda x: functional.normalize(x, dim=1), lambda x: x), "would be the plain gradient")


def test_activations_without_a_rule_are_refused() -> None:
    for activation in (
        nn.Tanh(), nn.Hardtanh(), nn.Softsign(), nn.Softshrink(), nn.Hardshrink(), nn.Tanhshrink(), nn.LogSigmoid(),
        nn.Sigmoid(), nn.Hardsigmoid(), Function(lambda x: functional.relu6(x + 3) / 6),
    ):  # fmt: skip
        refused(network(activation, functional.relu), "'guided_backprop' has no rule for the activation")
    refused(network(functional.relu, lambda x: x * (x > 0)), "no rule for the operation 'gt'")
    refused(network(lambda x: torch.where(x > 0, x, 0.0), functional.relu), "no rule for the operation 'gt'")


def test_a_model_without_a_rectifier_is_refused() -> None:
    refused(network(lambda x: x, lambda x: x * 2), "'guided_backprop' would be the plain gradient on this model")
    refused(network(lambda x: x * x, lambda x: x * torch.sigmoid(x.mean())), "it has no rectifier")
    with pytest.raises(AttributionError, match="'guided_grad_cam' would be the plain gradient"):
        conv = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(140, 3)).double()
        GuidedGradCam().attribute(conv, sample_of(PHOTO), TARGET)


def test_a_sigmoid_or_softmax_that_ends_in_scores_is_fine() -> None:
    sample, inner = sample_of(PHOTO), network(functional.relu, functional.gelu)
    expected = guided(inner, sample)
    scores = inner(sample)[0].detach()
    by_sigmoid = guided(nn.Sequential(inner, nn.Sigmoid()), sample)
    share = float(torch.sigmoid(scores[TARGET]))
    assert torch.allclose(by_sigmoid, expected * share * (1 - share), atol=1e-12)  # a positive factor
    squeezed = nn.Sequential(inner, nn.Sigmoid(), Function(lambda x: x[:, :, None]), nn.Flatten())
    assert torch.allclose(guided(squeezed, sample), by_sigmoid, atol=1e-12)
    by_softmax = guided(nn.Sequential(inner, nn.Softmax(1)), sample)
    assert bool(torch.isfinite(by_softmax).all())
    assert bool(by_softmax.any())


def test_gradients_that_vanish_give_zero() -> None:
    for closed in (
        lambda x: functional.relu(x - 1e3),
        lambda x: functional.gelu(x - 1e3),
        lambda x: -functional.relu(x),
    ):
        model = Function(lambda x, closed=closed: (closed(x) * 2).flatten(1))
        found = guided(model, sample_of(PHOTO))
        assert torch.equal(found, torch.zeros(PHOTO, dtype=torch.float64))
        maps = GuidedGradCam().attribute(nn.Sequential(nn.Identity(), model), sample_of(PHOTO), TARGET)
        assert torch.equal(maps.values, torch.zeros(PHOTO, dtype=torch.float64))


class Pyramid(nn.Module):
    """Two feature maps, the last one changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 5, 3, stride=2)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(5, 3)

    def features(self, inputs: Tensor) -> Tensor:
        return self.act(self.second(self.act(self.first(inputs))))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.features(inputs).square().mean((2, 3)))


def upsampled(small: Tensor, height: int, width: int) -> Tensor:
    """Enlarge [h, w] by bilinear interpolation between the centers of its places, one pixel at a time."""
    rows, columns = small.shape
    large = torch.zeros(height, width, dtype=small.dtype)
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = math.floor(v), math.floor(u)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            above = small[top, left] * (1 - u + left) + small[top, right] * (u - left)
            below = small[bottom, left] * (1 - u + left) + small[bottom, right] * (u - left)
            large[y, x] = above * (1 - v + top) + below * (v - top)
    return large


@pytest.mark.parametrize("sign", [1, -1])
def test_grad_cams_restated(sign: int) -> None:
    torch.manual_seed(4)
    model = Pyramid().double().eval()
    with torch.no_grad():
        model.head.weight.mul_(sign)
    sample = 2 * sample_of(PHOTO)
    features = model.features(sample.clone()).detach()[0]
    rows = model.head.weight[TARGET].tolist()
    weights = [2 * row * float(channel.mean()) / channel.numel() for row, channel in zip(rows, features, strict=True)]
    cam = sum(weight * channel for weight, channel in zip(weights, features, strict=True)).clamp(min=0)
    assert bool(cam.any())
    enlarged = upsampled(cam, *PHOTO[2:])
    plain = GradCam().attribute(model, sample, TARGET).values
    assert plain.shape == sample.shape
    assert torch.allclose(plain, enlarged.expand_as(sample), atol=1e-12)
    expected = guided(model, sample) * enlarged
    found = GuidedGradCam().attribute(model, sample, TARGET).values
    assert torch.allclose(found, expected, atol=1e-12)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._forward_hooks for module in model.modules())


def cam_refused(model: nn.Module, sample: Tensor, message: str) -> None:
    model = model.double().eval()
    with pytest.raises(AttributionError, match=message):
        GuidedGradCam().attribute(model, sample, TARGET)
    with pytest.raises(AttributionError, match=message.replace("guided_grad_cam", "grad_cam")):
        GradCam().attribute(model, sample, TARGET)
    assert all(not module._forward_hooks for module in model.modules())


def test_guided_grad_cam_refuses_what_is_no_photo_or_has_no_map() -> None:
    rows = nn.Sequential(nn.Linear(11, 4), nn.ReLU(), nn.Linear(4, 3))
    cam_refused(
        rows, sample_of((1, 11)), r"'guided_grad_cam' needs photos \[C, H, W\]: the sample has the shape \[11\]"
    )
    texts = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3))
    cam_refused(texts, sample_of((1, 5, 6)), r"needs photos \[C, H, W\]: the sample has the shape \[5, 6\]")
    clips = nn.Sequential(nn.Conv3d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 2 * 4 * 5, 3))
    cam_refused(clips, sample_of((1, 2, 3, 5, 6)), r"needs photos \[C, H, W\]: the sample has the shape \[2, 3, 5, 6\]")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(126, 4), nn.ReLU(), nn.Linear(4, 3))
    cam_refused(flat, sample_of(PHOTO), "needs a feature map near the scores, as in convolutional models")
    single = nn.Sequential(nn.Conv2d(2, 4, (7, 9)), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))
    cam_refused(single, sample_of(PHOTO), "with more than one spatial location")
    cam_refused(Aside(), sample_of(PHOTO), "the score does not depend on the last feature map")


class Aside(nn.Module):
    """A map that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(126, 4), nn.Linear(4, 3), nn.Conv2d(2, 4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        self.unused(inputs)
        return self.second(functional.relu(self.first(inputs.flatten(1))))


def vision_transformer() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 4, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12}
    model = torchvision.models.VisionTransformer(**sizes, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    return model


def test_vision_transformers() -> None:
    """Their only feature map comes before attention; the rectifiers of their blocks have the rule."""
    sample = sample_of((1, 3, 16, 16))
    cam_refused(vision_transformer(), sample, "without attention or tokens after it")
    found = guided(vision_transformer(), sample)
    assert float((found - gradient(vision_transformer(), sample)).abs().max()) > 0.01 * float(found.abs().max())


def test_swin_transformers_have_a_map() -> None:
    """Their blocks keep the places in order, and return them as a map after attention."""
    torch.manual_seed(0)
    sizes = {"patch_size": [4, 4], "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": [2, 2]}
    model = SwinTransformer(**sizes, num_classes=3).double().eval()
    sample = sample_of((1, 3, 32, 32))
    found = GuidedGradCam().attribute(model, sample, TARGET).values
    maps: list[Tensor] = []
    model.permute.register_forward_hook(lambda module, inputs, output: maps.append(output))
    score = model(sample.clone().requires_grad_())[0, TARGET]
    (slopes,) = torch.autograd.grad(score, maps[0])
    assert maps[0].shape == (1, 16, 4, 4)
    cam = (slopes.mean((2, 3), keepdim=True) * maps[0]).sum(1).clamp(min=0)[0].detach()
    model.permute._forward_hooks.clear()
    expected = guided(model, sample) * upsampled(cam, 32, 32)
    assert torch.allclose(found, expected, atol=1e-12)


def test_attention_before_the_last_map_is_fine_and_after_it_is_not() -> None:
    torch.manual_seed(0)
    sample = sample_of(PHOTO)

    def attend(x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return functional.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).view_as(x)

    ends = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3), nn.Softmax(1))
    before = nn.Sequential(nn.Conv2d(2, 4, 3), Function(attend), nn.Conv2d(4, 4, 3), *ends).double().eval()
    assert bool(GuidedGradCam().attribute(before, sample, TARGET).values.any())
    after = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), Function(lambda x: attend(x).mean((2, 3))), nn.Linear(4, 3))
    cam_refused(after, sample, "without attention or tokens after it")
    by_hand = Function(lambda x: (functional.softmax(x.flatten(2), -1) * x.flatten(2)).sum(-1))
    cam_refused(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), by_hand, nn.Linear(4, 3)),
        sample,
        "without attention or tokens after it",
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    model = Pyramid().to(dtype).eval()
    sample = (2 * sample_of(PHOTO)).to(dtype)
    for method in (GuidedBackprop(), GuidedGradCam()):
        found = method.attribute(model.to(dtype), sample, TARGET).values
        wide = method.attribute(model.float(), sample.float(), TARGET).values
        assert found.dtype == torch.float32
        assert torch.allclose(found, wide, rtol=0.05, atol=0.02 * float(wide.abs().max()))

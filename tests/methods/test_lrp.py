"""Layer-wise relevance propagation on whole networks: by hand, by identities, and by what must be conserved."""

import importlib.util
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from references.lrp_nets import EPSILON, Net, noise, relevance
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from spadelens.errors import AttributionError, InputError, SpadeError, UnknownNameError
from spadelens.methods.lrp import COMPOSITES, LRP
from spadelens.methods.lrp_rules import Rule

SHARED = Path(__file__).resolve().parents[3] / "shared"
needs_shared = pytest.mark.skipif(
    not (SHARED / "models").is_dir(), reason=f"{SHARED} is not there: LRP was NOT tried on trained networks and photos"
)
every_rule = pytest.mark.parametrize("rule", COMPOSITES)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_two_layers_by_hand() -> None:
    """The hidden values of (1, 2) are 3, relu(-4) = 0 and 2; the score is 2 * 3 - 2 = 4 with a bias of 0."""
    model = Net(lambda net, x: net.second(F.relu(net.first(x))), first=nn.Linear(2, 3), second=nn.Linear(3, 2))
    model.first.weight.data = torch.tensor([[1.0, 1], [0, -2], [4, -1]]).double()
    model.second.weight.data = torch.tensor([[2.0, 5, -1], [1, 1, 1]]).double()
    nn.init.zeros_(model.first.bias)
    nn.init.zeros_(model.second.bias)
    sample = torch.tensor([[1.0, 2]]).double()
    # 6 and -2 for the hidden values; then 2 and 4 of 6, and -4 and 2 of -2
    assert relevance(model, sample, rule="epsilon", epsilon=0.0)[0].tolist() == pytest.approx([2 - 4, 4 + 2])
    # 4 for the first hidden value, and nothing for the others
    assert relevance(model, sample, rule="z-plus")[0].tolist() == pytest.approx([4 / 3, 8 / 3])
    # 8 and -4, since a third value takes part; 8 as 1 : 2, and of -4 all that is positive, twice, less what is negative
    found = relevance(model, sample, rule="alpha-beta")[0].tolist()
    assert found == pytest.approx([8 / 3 - 8, 16 / 3 + 4])
    # with gamma = 1: 12 and -2 of 10; 4.8 as 1 : 2, and -0.8 as 8 : -2
    found = relevance(model, sample, rule="gamma", gamma=1.0, epsilon=0.0)[0].tolist()
    assert found == pytest.approx([1.6 - 0.8 * 8 / 6, 3.2 + 0.8 * 2 / 6])


class Modules(nn.Module):
    """One network, its activations as modules of their own, as one that is reused, as functions, and in place."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.first, self.second = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3, 2)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))
        self.one = nn.ReLU(inplace=form == "in place")

    def activation(self, number: int, values: Tensor) -> Tensor:
        if self.form == "modules":
            return self.relus[number](values)
        if self.form == "functions":
            return torch.relu_(values) if number == 1 else F.relu(values)
        return self.one(values)

    def forward(self, inputs: Tensor) -> Tensor:
        values = self.activation(0, self.first(inputs))
        added = self.activation(1, self.second(values))
        added = added + values
        if self.form == "in place":
            added -= 0.1
        else:
            added = added - 0.1
        return self.head(self.activation(2, added).mean((2, 3)))


@every_rule
@pytest.mark.parametrize("form", ["reused", "functions", "in place"])
def test_the_form_of_activations_does_not_matter(rule: str, form: str) -> None:
    modules, other = Modules("modules").double(), Modules(form).double()
    other.load_state_dict(modules.state_dict())
    sample = noise(1, 2, 6, 5)
    wanted = relevance(modules, sample, rule=rule)
    assert torch.equal(relevance(other, sample, rule=rule), wanted)


class Rectified(nn.Module):
    """Every operation is positively homogeneous, and none has a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, bias=False)
        self.second = nn.Conv2d(6, 6, 3, padding=1, groups=3, bias=False)
        self.head = nn.Linear(6, 4, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        values = F.max_pool2d(F.relu(self.first(inputs)), 2, 1)
        values = F.avg_pool2d(F.leaky_relu(self.second(values)) + values, 2)
        return self.head(values.mean((2, 3)))


def test_without_epsilon_and_bias_it_is_input_times_gradient() -> None:
    model, sample = Rectified().double(), noise(1, 2, 8, 9).requires_grad_()
    for target in range(4):
        (gradient,) = torch.autograd.grad(model(sample)[0, target], sample)
        wanted = (gradient * sample).detach()
        torch.testing.assert_close(relevance(model, sample, target, rule="epsilon", epsilon=0.0), wanted)
        nearly = relevance(model, sample, target, rule="epsilon", epsilon=1e-9)
        torch.testing.assert_close(nearly, wanted, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(relevance(model, sample, target, rule="epsilon"), wanted, rtol=0.1)


@every_rule
def test_relevance_grows_with_the_score(rule: str) -> None:
    model, sample = Rectified().double(), noise(1, 2, 8, 9)
    before = relevance(model, sample, 1, rule=rule)
    model.head.weight.data *= 3.7
    torch.testing.assert_close(relevance(model, sample, 1, rule=rule), 3.7 * before)
    if COMPOSITES[rule].dense in (Rule.ALPHA_BETA, Rule.Z_PLUS):  # these tell positive from negative contributions
        return
    model.head.weight.data *= -1
    torch.testing.assert_close(relevance(model, sample, 1, rule=rule), -3.7 * before)


@every_rule
def test_negative_scores_and_a_score_of_zero(rule: str) -> None:
    model, sample = Rectified().double(), noise(1, 2, 8, 9)
    scores = model(sample)[0].detach()
    negative = int(scores.argmin())
    assert scores[negative] < 0
    found = LRP(rule=rule).attribute(model, sample, negative)
    assert float(found.values.sum()) == pytest.approx(float(scores[negative]))
    assert found.conservation == pytest.approx(1)
    model.head.weight.data[2] = 0
    found = LRP(rule=rule).attribute(model, sample, 2)
    assert not found.values.any()
    assert found.conservation is None


@every_rule
def test_a_sample_of_zeros(rule: str) -> None:
    """All that it is given comes from biases, and every layer shares it out equally."""
    model = Net(lambda net, x: net.head(F.relu(net.conv(x)).flatten(1)), conv=nn.Conv2d(1, 2, 2), head=nn.Linear(8, 2))
    nn.init.constant_(model.conv.bias, 1.0)
    found = LRP(rule=rule).attribute(model, torch.zeros(1, 1, 3, 3).double(), 0)
    assert found.conservation == pytest.approx(1)
    assert found.values.any()


def test_types_of_samples() -> None:
    model = Rectified()
    sample = noise(1, 2, 8, 9)
    wanted = relevance(model.double(), sample)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        found = LRP(rule="epsilon-plus", epsilon=EPSILON, stabilizer=EPSILON).attribute(
            model.to(dtype), sample.to(dtype), 0
        )
        assert found.conservation == pytest.approx(1, abs=1e-5)
        similarity = F.cosine_similarity(found.values.flatten().double(), wanted.flatten(), 0)
        assert float(similarity) > 1 - tolerance


def with_statistics(model: nn.Module, size: int) -> nn.Module:
    """Return a network whose normalizations have seen some noise; with random weights alone most say nothing."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    model.train()
    is_normalized = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    with torch.no_grad():
        for _ in range(2 * is_normalized):
            model(F.interpolate(torch.randn(4, 3, 9, 9), (size, size), mode="bilinear"))
    return model.eval()


def _vgg(name: str) -> nn.Module:
    model = torchvision.models.get_model(name, init_weights=False)
    model.avgpool = nn.AdaptiveAvgPool2d(2)  # its classifier holds 120 million weights otherwise
    model.classifier = nn.Sequential(
        nn.Linear(2048, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(True), nn.Linear(64, 10)
    )
    return model


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg11": lambda: _vgg("vgg11"),
    "vgg11_bn": lambda: _vgg("vgg11_bn"),
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "resnet50": lambda: torchvision.models.resnet50(num_classes=10),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
}
SLOW = ("vgg11", "resnet50")
COMMON_RULES = ["epsilon-plus", "epsilon-gamma", "epsilon-alpha-beta", "epsilon"]


@pytest.mark.parametrize("name", NETWORKS)
def test_relevance_is_conserved(name: str) -> None:
    model = with_statistics(NETWORKS[name](), 64)
    sample = F.interpolate(torch.randn(1, 3, 9, 9), (64, 64), mode="bilinear")
    for rule in ["epsilon-plus", "epsilon"] if name in SLOW else COMMON_RULES:
        found = LRP(rule=rule).attribute(model, sample, 3)
        assert found.conservation == pytest.approx(1, abs=0.01), rule
        assert found.values.any()
        assert float(found.values.sum()) == pytest.approx(float(model(sample)[0, 3].detach()), rel=0.01)


def _vit() -> nn.Module:
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    model = torchvision.models.VisionTransformer(**sizes, num_classes=5)
    nn.init.normal_(model.heads.head.weight)  # zero as torchvision makes it
    return model


def _swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=5)


def _convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)], num_classes=5, layer_scale=0.5)


@pytest.mark.parametrize("make", [_convnext, _vit, _swin])
def test_relevance_is_conserved_with_layer_normalization_and_attention(make: Callable[[], nn.Module]) -> None:
    model, sample = make().eval(), torch.randn(1, 3, 32, 32)
    for rule in COMMON_RULES:
        found = LRP(rule=rule).attribute(model, sample, 3)
        assert found.conservation == pytest.approx(1, abs=0.05), rule
        assert found.values.any()


def build(name: str) -> nn.Module:
    spec = importlib.util.spec_from_file_location(name, SHARED / "models" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build()


@needs_shared
@pytest.mark.parametrize(("name", "size"), [("mobilenet_v1", 224), ("resnet20_cifar10", 32)])
def test_relevance_is_conserved_on_trained_networks(name: str, size: int) -> None:
    model = build(name)
    file = SHARED / "data" / "imagenet-sample" / "251_dalmatian.jpg"
    photo = Image.open(file).convert("RGB").resize((size, size))
    sample = torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    target = int(model(sample).argmax())
    for rule in COMMON_RULES:
        found = LRP(rule=rule).attribute(model, sample, target)
        assert found.conservation == pytest.approx(1, abs=0.01), rule
        assert (found.values[0] != 0).float().mean() > 0.9


def test_the_model_is_left_as_it_was() -> None:
    model = with_statistics(torchvision.models.mobilenet_v3_small(num_classes=10), 32).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    sample = torch.randn(1, 3, 32, 32)
    kept = sample.clone()
    first = LRP().attribute(model, sample, 3).values
    assert torch.equal(LRP().attribute(model, sample, 3).values, first)
    assert torch.equal(sample, kept)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not module._forward_hooks and not module._backward_hooks for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"epsilon": -0.1},
        {"stabilizer": -0.1},
        {"epsilon": float("nan")},
        {"epsilon": float("inf")},
        {"gamma": -1.0},
        {"gamma": float("inf")},
        {"alpha": 0.5},
        {"alpha": float("nan")},
    ],
)
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    name, value = next(iter(settings.items()))
    with pytest.raises(InputError, match=f"{name}={value!r}.*: expected"):
        LRP(**settings)


def test_unknown_rules() -> None:
    with pytest.raises(UnknownNameError, match=r"rule of LRP 'epsilon-plsu'.*epsilon-plus"):
        LRP(rule="epsilon-plsu")


@pytest.mark.parametrize(
    "operation", [lambda x: torch.cumsum(x, 1), lambda x: torch.fft.rfft(x).real, lambda x: torch.sort(x)[0]]
)
def test_operations_without_a_rule_are_refused(operation: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda net, x: net.head(operation(x)[:, :3]), head=nn.Linear(3, 2))
    with pytest.raises(AttributionError, match=r"'lrp' has no rule for the operation .* Use one that needs"):
        LRP().attribute(model, noise(1, 6), 0)


def test_a_batch_normalization_by_the_batch_is_refused() -> None:
    model = Net(lambda net, x: net.norm(net.conv(x)).mean((2, 3)), conv=nn.Conv2d(2, 3, 1), norm=nn.BatchNorm2d(3))
    model.norm = nn.BatchNorm2d(3, track_running_stats=False).double()
    with pytest.raises(SpadeError, match="statistics of the batch"):
        LRP().attribute(model, noise(1, 2, 3, 3), 0)


def test_a_larger_stabilizer_gives_quieter_maps() -> None:
    """Without it, relevance of both signs that cancels grows from layer to layer."""
    model = with_statistics(torchvision.models.mobilenet_v2(num_classes=10), 32)
    sample = torch.randn(1, 3, 32, 32)
    sizes = [
        float(LRP(rule="epsilon", stabilizer=stabilizer).attribute(model, sample, 3).values.abs().sum())
        for stabilizer in (1e-3, 0.03, 0.3)
    ]
    assert all(first > second for first, second in pairwise(sizes))

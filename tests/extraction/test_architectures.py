"""`extract_trace` on a small instance of every common architecture."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from references.architectures import ARCHITECTURES, build
from references.networks import Routed
from torch import Tensor, nn

from spadelens import extract_trace, extract_traces
from spadelens.capture.arrangement import Arrangement
from spadelens.capture.capture import probe
from spadelens.errors import SolverError
from spadelens.extraction.report import Outcome
from spadelens.extraction.trace import Trace
from spadelens.forward import class_scores
from spadelens.matrix_layers import matrix_layers, other_weights
from spadelens.metrics.agreements import agreement
from spadelens.solvers import LayerProblem, LayerSolution, Magnitude, Solver
from spadelens.views.photo_views import make_views, parse_augmentation

SPARSITY, NUM_VIEWS = 0.4, 3
HIDDEN = {  # layers whose own forward is never called, or that are no modules, or whose weight is [in, out]
    "vit": ("in_proj", "out_proj"),
    "swin": ("attn.qkv", "attn.proj"),
    "swin_v2": ("attn.qkv", "attn.proj", "cpb_mlp.0"),
    "encoder": ("in_proj", "out_proj"),
    "encoder_tokens_first": ("in_proj", "out_proj"),
    "timm_vit": ("attn.qkv", "attn.proj"),
    "timm_beit": ("attn.qkv", "attn.proj"),
    "hf_gpt2": ("attn.c_attn", "attn.c_proj", "mlp.c_fc"),
}


def extract(model: nn.Module, sample: Tensor, **changes: Any) -> Trace:
    arguments = {"schedule": SPARSITY, "solver": "wanda", "augmentation": "noise", "num_views": NUM_VIEWS, "seed": 1}
    return extract_trace(model, sample, **(arguments | {"positions_per_column": 1} | changes))


def state_of_everything(model: nn.Module) -> dict[str, Any]:
    """All that must not change, as values that can be compared with ==."""
    modules = list(model.modules())
    return {
        "bits": {name: t.detach().view(torch.uint8).numpy().tobytes() for name, t in flat(model).items()},
        "identities": {name: (id(p), p.data_ptr()) for name, p in model.named_parameters(remove_duplicate=False)},
        "modes": [module.training for module in modules],
        "hooks": [[len(v) for k, v in sorted(vars(m).items()) if k.endswith("_hooks")] for m in modules],
        "attributes": [sorted(vars(module)) for module in modules],
        "forward": [vars(module).get("forward") for module in modules],
        "rng": (torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()),  # noqa: NPY002
        "torch": (
            torch.is_grad_enabled(),
            torch.backends.mha.get_fastpath_enabled(),
            torch.get_float32_matmul_precision(),
            torch._C._len_torch_function_stack(),
            torch.get_default_dtype(),
        ),
    }


def flat(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().flatten() for name, tensor in model.state_dict().items()}


class Breaks(Solver):
    """Fails at the third layer."""

    seen = 0

    def solve(self, problem: LayerProblem) -> LayerSolution:
        Breaks.seen += 1
        if Breaks.seen == 3:
            raise SolverError("broken on purpose")
        return Magnitude().solve(problem)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(name: str) -> None:
    model, sample = build(name)
    before = state_of_everything(model)
    trace = extract(model, sample)
    assert state_of_everything(model) == before
    listed = {layer.name: layer for layer in trace.report.layers}
    layers = {layer: listed[layer] for layer in matrix_layers(model)}
    assert sorted(listed) == sorted([*layers, *other_weights(model)])
    outcomes = [layer.outcome for layer in layers.values()]
    num_excluded = int(any(isinstance(module, nn.Conv2d) for module in model.modules()))
    assert outcomes.count(Outcome.EXCLUDED) == num_excluded  # the first convolution
    assert outcomes.count(Outcome.PRUNED) == len(outcomes) - num_excluded  # and nothing else stays dense
    for ending in HIDDEN.get(name, ()):
        assert any(layer.endswith(ending) for layer in trace.weights)
    for layer, module in matrix_layers(model).items():
        if layer in trace.weights:
            weight, pruned = trace.weights[layer], trace.pruned[layer]
            assert weight.shape == pruned.shape == module.weight.shape
            assert int(pruned.sum()) == math.ceil(SPARSITY * module.weight.numel() - 1e-9)
            assert not weight[pruned].any() and math.isfinite(layers[layer].held_out_error)
    views = make_views(parse_augmentation("noise"), sample, 2, 0, 4)
    assert 0.0 <= agreement(trace, views) <= 1.0
    with trace.applied(model):
        applied = class_scores(model, views)
    assert state_of_everything(model) == before
    torch.testing.assert_close(class_scores(trace.sparse_copy(), views), applied)
    assert not torch.equal(class_scores(model, views), applied)


@pytest.mark.parametrize("name", ["resnet18", "vit", "swin", "hf_gpt2", "encoder"])
def test_nothing_is_changed_by_a_failure(name: str) -> None:
    model, sample = build(name)
    model.train()
    before = state_of_everything(model)
    Breaks.seen = 0
    with pytest.raises(SolverError, match="on purpose"):
        extract(model, sample, solver=Breaks())
    for done in (0, NUM_VIEWS):

        def stop(stage: str, count: int, total: int, done: int = done) -> None:
            if stage == "views" and count == done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            extract(model, sample, progress=stop)
    assert state_of_everything(model) == before


@pytest.mark.parametrize("name", ["vit", "swin", "swin_v2", "hf_gpt2", "encoder_tokens_first"])
def test_layers_are_solved_from_the_same_positions_whatever_the_batch(name: str) -> None:
    model, sample = build(name)
    model, sample = model.double(), sample.double()
    assert Arrangement(model, sample).is_known(probe(model, sample).matrix_shapes)
    one, other = (extract(model, sample, batch_size=size, num_views=4) for size in (1, 3))
    (among_others,) = extract_traces(model, [sample], schedule=SPARSITY, solver="wanda", seed=1, num_views=4,
                                     augmentation="noise", positions_per_column=1, batch_size=4)  # fmt: skip
    for layer, error in ((layer.name, layer.error) for layer in one.report.pruned_layers):
        for trace in (other, among_others):
            assert torch.equal(one.pruned[layer], trace.pruned[layer])
            errors = {found.name: found.error for found in trace.report.pruned_layers}
            assert errors[layer] == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("name", ["vit", "encoder_tokens_first"])
def test_samples_together_as_each_alone(name: str) -> None:
    model, sample = build(name)
    model, samples = model.double(), torch.stack([sample, sample.flip(-1)]).double()
    settings = {"schedule": SPARSITY, "solver": "wanda", "augmentation": "noise", "num_views": 3, "seed": 1}
    together = extract_traces(model, samples, **settings, positions_per_column=1, batch_size=5)
    for trace, alone in zip(together, [extract(model, one) for one in samples], strict=True):
        assert all(torch.equal(trace.pruned[layer], alone.pruned[layer]) for layer in alone.pruned)


@pytest.mark.parametrize("name", ["vit", "swin", "hf_gpt2"])
def test_traces_on_disk(name: str, tmp_path: Path) -> None:
    model, sample = build(name)
    trace = extract(model, sample)
    trace.save(tmp_path / "trace.safetensors")
    loaded = Trace.load(tmp_path / "trace.safetensors", build(name)[0])
    assert list(loaded.weights) == list(trace.weights)
    for layer, weight in trace.weights.items():
        assert torch.equal(loaded.weights[layer], weight) and torch.equal(loaded.pruned[layer], trace.pruned[layer])


def test_views_that_cannot_be_told_apart_are_run_one_by_one() -> None:
    class Counting(Routed):
        def forward(self, tokens: Tensor) -> Tensor:
            sizes.append(len(tokens))
            return super().forward(tokens)

    torch.manual_seed(0)
    model, samples, sizes = Counting().double(), torch.randn(2, 5, 4).double(), []
    one = extract(model, samples[0], num_views=4, batch_size=1)
    sizes.clear()
    other = extract(model, samples[0], num_views=4, batch_size=4)
    assert sizes.count(2) == 2 and set(sizes) == {1, 2}  # two together to see if scores depend, and can be told apart
    for layer in one.weights:
        assert torch.equal(one.weights[layer], other.weights[layer])
    settings = {"schedule": SPARSITY, "solver": "wanda", "augmentation": "noise", "num_views": 4, "seed": 1}
    together = extract_traces(model, samples, **settings, positions_per_column=1, batch_size=4)
    assert torch.equal(together[0].weights["expert"], one.weights["expert"])


def test_one_weight_in_two_layers_is_one_layer() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.other.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.other(torch.relu(self.one(x))))

    torch.manual_seed(0)
    model, sample = Tied().double(), torch.randn(6).double()
    seen: dict[str, Tensor] = {}

    class Looks(Solver):
        def solve(self, problem: LayerProblem) -> LayerSolution:
            seen[problem.name] = problem.statistics.hessian()[0]
            return Magnitude().solve(problem)

    trace = extract(model, sample, solver=Looks(), augmentation="none")
    inner = torch.relu(model.one(sample)).detach()
    torch.testing.assert_close(seen["one"], (torch.outer(sample, sample) + torch.outer(inner, inner)) * 2 / 2)
    outcomes = {layer.name: (layer.outcome, layer.detail) for layer in trace.report.layers}
    assert outcomes["other"] == (Outcome.UNSUPPORTED, "its weight is that of 'one'")
    assert list(trace.weights) == list(seen) == ["one", "head"]
    with trace.applied(model):
        assert torch.equal(model.other.weight, trace.weights["one"])
    sparse = trace.sparse_copy()
    assert sparse.other.weight is sparse.one.weight and torch.equal(sparse.one.weight, trace.weights["one"])


@pytest.mark.parametrize(
    ("name", "layer", "is_transposed"),
    [
        ("hf_gpt2", "model.transformer.h.1.mlp.c_fc", True),
        ("hf_gpt2", "model.transformer.h.0.attn.c_attn", True),
        ("vit", "encoder.layers.encoder_layer_1.self_attention.in_proj", False),
        ("encoder_tokens_first", "encoder.layers.0.self_attn.in_proj", False),
    ],
)
def test_errors_from_the_definition(name: str, layer: str, is_transposed: bool) -> None:
    model, sample = build(name)
    model, sample = model.double(), sample.double()
    trace = extract(model, sample, positions_per_column=0)
    views = make_views(parse_augmentation("noise"), sample, 1, 0, NUM_VIEWS)
    seen: list[Tensor] = []
    module = model.get_submodule(layer.removesuffix(".in_proj"))
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().flatten(0, -2)))
    class_scores(model, views)
    handle.remove()
    dense, sparse = matrix_layers(model)[layer].weight.detach(), trace.weights[layer]
    if not is_transposed:
        dense, sparse = dense.T, sparse.T
    expected = float((seen[0] @ (sparse - dense)).square().sum() / (seen[0] @ dense).square().sum())
    (report,) = [found for found in trace.report.pruned_layers if found.name == layer]
    assert report.error == pytest.approx(expected, rel=1e-6)

"""Views in batches, the positions that are used, and what is gathered of them for each sample."""

import pytest
import torch
from references.layers import columns_by_position
from torch import Tensor, nn

from spadelens import extract_trace
from spadelens.capture.arrangement import Arrangement
from spadelens.capture.capture import probe
from spadelens.capture.hessian import HessianStatistics, StoredInputs
from spadelens.extraction.pipeline.accumulate import Batches, PositionSampler, gather_statistics
from spadelens.extraction.pipeline.plan import LayerPlan, Sampling, make_plan
from spadelens.schedules.schedule import Uniform
from spadelens.views.photo_views import make_views, parse_augmentation
from spadelens.views.view_source import augmented_views, given_views


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.grouped = nn.Conv2d(4, 6, (2, 3), stride=(1, 2), padding=1, groups=2)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.grouped(torch.relu(self.stem(x))).mean((2, 3)))


def make_net() -> Net:
    torch.manual_seed(0)
    return Net().double().eval()


SAMPLES = torch.randn(3, 3, 9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def plan_of(model: nn.Module, num_views: int, per_column: int | None) -> LayerPlan:
    return make_plan(
        model, probe(model, SAMPLES[0]), Uniform(0.5), None, Sampling(num_views, per_column, least=0), 1024
    )


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize("is_mixed", [False, True])
@pytest.mark.parametrize("is_held_out", [False, True])
def test_batches_hold_every_view_once(size: int, is_mixed: bool, is_held_out: bool) -> None:
    sources = [augmented_views(sample, "noise", 9, 0) for sample in SAMPLES]
    batches = Batches(sources, size, is_mixed, is_held_out)
    expected = {
        (number, view): make_views(parse_augmentation("noise"), sample, 0, view, view + 1)[0]
        for number, sample in enumerate(SAMPLES)
        for view in (range(9, 11) if is_held_out else range(9))
    }
    seen = []
    for batch in batches:
        assert 0 < len(batch) == len(batch.inputs) <= size
        assert is_mixed or len({number for number, _ in batch.views}) == 1
        assert [(len(part), part.views[0]) for part in batch.one_by_one()] == [(1, view) for view in batch.views]
        for view, key in zip(batch.inputs, batch.views, strict=True):
            assert torch.equal(view, expected[key])
            seen.append(key)
    assert seen == list(expected) and len(batches) == len(seen)


def test_full_batches_when_samples_are_mixed() -> None:
    sources = [augmented_views(sample, "noise", 2, 0) for sample in SAMPLES]
    assert [len(batch) for batch in Batches(sources, 4, is_mixed=True)] == [4, 2]
    assert [len(batch) for batch in Batches(sources, 4, is_mixed=False)] == [2, 2, 2]


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("is_mixed", [False, True])
@pytest.mark.parametrize("per_column", [None, 1, 2])
def test_statistics_of_each_sample(size: int, is_mixed: bool, per_column: int | None) -> None:
    """From the definition: the inputs of each view by itself, the chosen positions of them."""
    model, num_views = make_net(), 5
    plan = plan_of(model, num_views, per_column)
    sources = [augmented_views(sample, "noise", num_views, 3) for sample in SAMPLES]
    sampler = PositionSampler(plan, 7)
    found = gather_statistics(
        model, plan, list(plan.sparsities), Batches(sources, size, is_mixed), sampler, "float32", lambda _: None
    )
    for sample, statistics in zip(SAMPLES, found, strict=True):
        for name, of_layer in statistics.items():
            module = model.get_submodule(name)
            parts = []
            for view in range(num_views):
                made = make_views(parse_augmentation("noise"), sample, 3, view, view + 1)
                seen: list[Tensor] = []
                handle = module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].detach()))
                model(made)
                handle.remove()
                inputs = columns_by_position(module, seen[0])
                chosen = sampler.choose(name, inputs.shape[1], [(0, view)])
                parts.append(inputs if chosen is None else inputs[:, chosen[0]])
            inputs = torch.cat(parts, dim=1)
            is_few = inputs.shape[1] < inputs.shape[2]
            assert isinstance(of_layer, StoredInputs if is_few else HessianStatistics)
            assert of_layer.num_positions == inputs.shape[1]
            torch.testing.assert_close(of_layer.hessian(), 2 * inputs.mT @ inputs / inputs.shape[1])
            torch.testing.assert_close(of_layer.diagonal(), of_layer.hessian().diagonal(dim1=1, dim2=2))
            weight = torch.randn(2, *inputs.shape[::2], inputs.shape[2], dtype=torch.float64)
            expected = (weight @ inputs.mT).square().sum((1, 2, 3)) / inputs.shape[1]
            torch.testing.assert_close(of_layer.mean_squared_output(weight), expected)
            if is_few:
                assert torch.equal(of_layer.inputs().sort(1).values, inputs.sort(1).values)
            else:
                assert of_layer.inputs() is None


def test_as_many_positions_as_were_asked_for() -> None:
    plan = plan_of(make_net(), 5, 2)
    sampler = PositionSampler(plan, 0)
    groups, positions, columns = plan.matrix_shapes["grouped"]
    assert (groups, columns) == (2, 12) and positions > 5
    chosen = sampler.choose("grouped", 3 * positions, [(0, 0), (0, 1), (1, 1)])
    assert chosen is not None and chosen.shape == (3, 5)  # 2 * 12 positions over 5 views
    assert all(len(set(row.tolist())) == 5 for row in chosen) and int(chosen.max()) < positions
    assert torch.equal(chosen[1], chosen[2])  # a view has the same positions whatever its sample
    assert not set(chosen[0].tolist()) & set(chosen[1].tolist())  # and views show different places
    assert sampler.choose("fc", 3, [(0, 0), (0, 1), (1, 1)]) is None  # it has one position a view
    other = PositionSampler(plan, 1).choose("grouped", positions, [(0, 0)])
    assert other is not None and not torch.equal(other[0], chosen[0])


def test_a_layer_of_few_columns_sees_where_something_happens() -> None:
    """A small object on an even ground is missed by as few positions as a 1 x 1 layer has columns."""

    class Segmentation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Conv2d(3, 16, 3, padding=1)
            self.classes = nn.Conv2d(16, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.classes(self.features(x).relu())[:, :, 20:26, 30:36].sum((2, 3))

    kept = []
    for seed in range(8):
        torch.manual_seed(seed)
        model, sample = Segmentation(), 0.02 * torch.randn(3, 64, 64)
        sample[:, 20:26, 30:36] += 3 * torch.randn(3, 1, 1)
        trace = extract_trace(
            model, sample, schedule=Uniform(0.5), layers=["classes"], num_views=1, positions_per_column=1
        )
        with torch.no_grad():
            scores, pruned = model(sample[None])[0], trace.sparse_copy()(sample[None])[0]
        kept.append(float((scores - pruned).norm() / scores.norm()))
    assert max(kept) < 0.2, kept
    assert Sampling(4, 1).positions_per_view((1, 4096, 16)) == 64
    assert Sampling(4, 1).positions_per_view((1, 10, 16)) == 10
    assert Sampling(4, 2).positions_per_view((1, 4096, 512)) == 256


def test_bfloat16_rounds_inputs_and_not_sums() -> None:
    model = make_net().float()
    samples = SAMPLES.float()
    plan = make_plan(model, probe(model, samples[0]), Uniform(0.5), ["fc"], Sampling(40), 1024)
    source = given_views(samples[0], samples[0] + torch.randn(40, 3, 9, 8))
    precisions = torch.backends.cuda.matmul.allow_tf32
    exact, rounded = (
        gather_statistics(model, plan, ["fc"], Batches([source], 8), PositionSampler(plan, 0), kind, lambda _: None)[0][
            "fc"
        ].hessian()
        for kind in ("float32", "bfloat16")
    )
    assert torch.backends.cuda.matmul.allow_tf32 == precisions
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=2**-6, atol=2**-6 * float(exact.abs().max()))
    inputs = torch.cat([columns_by_position(model.fc, model.grouped(model.stem(v[None]).relu()).mean((2, 3)))
                        for v in source.make(0, 40)], dim=1).bfloat16().double()  # fmt: skip
    expected = 2 * inputs.mT @ inputs / 40
    torch.testing.assert_close(rounded.double(), expected, rtol=1e-5, atol=1e-5)


def test_whether_samples_can_be_told_apart() -> None:
    class TokensFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.tokens = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.tokens(self.conv(x).flatten(2).permute(2, 0, 1)).mean(0)

    model = TokensFirst().double()
    assert Arrangement(make_net(), SAMPLES[0]).is_known({"grouped": make_net().grouped})
    net = make_net()
    assert Arrangement(net, SAMPLES[0]).is_known({"grouped": net.grouped, "fc": net.fc})
    assert Arrangement(model, SAMPLES[0]).is_known({"conv": model.conv})
    assert Arrangement(model, SAMPLES[0]).is_known(
        {"conv": model.conv, "tokens": model.tokens}
    )  # tokens first, and told so

"""One dense pass: what the layers see, and a model left as it was."""

import pytest
import torch
from references.layers import columns_by_position
from references.networks import Routed
from torch import Tensor, nn
from torch.nn import functional

from spadelens.capture.arrangement import SHARED, Arrangement, by_sample, find_order, project
from spadelens.capture.capture import InputCapture, capture_inputs, probe
from spadelens.errors import ModelOutputError, SolverError
from spadelens.forward import check_scores, class_scores, running
from spadelens.matrix_layers import matrix_layers


class Twice(nn.Module):
    """Calls one layer twice, one by keyword, and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1, groups=2)
        self.unused = nn.Linear(3, 3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.conv(x))
        return self.fc(input=self.drop(x).mean((2, 3)))


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def make() -> Twice:
    torch.manual_seed(0)
    return Twice().double()


SAMPLE = torch.linspace(-1, 1, 40, dtype=torch.float64).view(2, 4, 5)


def test_inputs_are_handed_on_for_every_call() -> None:
    model = make().train()
    seen: dict[str, list[Tensor]] = {}
    batch = torch.stack([SAMPLE, 2 * SAMPLE, SAMPLE.flip(-1)])
    capture_inputs(model, matrix_layers(model), [batch[:2], batch[2:]], lambda n, x: seen.setdefault(n, []).append(x))
    assert sorted(seen) == ["conv", "fc"]
    assert [len(x) for x in seen.values()] == [4, 2]
    with torch.no_grad():
        inner = model.conv(batch)
        features = model.conv(inner).mean((2, 3))
    for calls, whole in ((seen["conv"][0::2], batch), (seen["conv"][1::2], inner)):
        expected = columns_by_position(model.conv, whole)
        torch.testing.assert_close(torch.cat(calls, dim=1), expected)
    torch.testing.assert_close(torch.cat(seen["fc"], dim=1)[0], features)
    assert model.training and model.drop.training and hooks_of(model) == 0
    assert not any(x.requires_grad for xs in seen.values() for x in xs)


def test_probe_counts_positions_and_gives_scores() -> None:
    model = make()
    looked = probe(model, SAMPLE)
    assert dict(looked.matrix_shapes) == {"conv": (2, 40, 9), "fc": (1, 1, 2)}
    assert list(looked.matrix_shapes) == ["conv", "fc"]
    assert dict(looked.unsupported) == {}
    with running(model) as private, torch.no_grad():
        torch.testing.assert_close(looked.scores, private(SAMPLE[None])[0])
    assert hooks_of(model) == 0


@pytest.mark.parametrize("error", [SolverError, KeyboardInterrupt, ValueError])
def test_a_consumer_that_fails_leaves_the_model_clean(error: type[BaseException]) -> None:
    model = make()
    model.fc.eval()

    def consume(name: str, inputs: Tensor) -> None:
        raise error("stop")

    with pytest.raises((error, ModelOutputError), match="stop"):
        capture_inputs(model, matrix_layers(model), [SAMPLE[None]], consume)
    assert hooks_of(model) == 0
    assert [m.training for m in (model, model.conv, model.fc, model.drop)] == [True, True, False, True]


def test_batches_that_fail_leave_the_model_clean() -> None:
    model = make()
    with pytest.raises(ModelOutputError, match=r"batch of shape \[1, 3, 4, 5\]: RuntimeError"):
        capture_inputs(model, matrix_layers(model), [torch.zeros(1, 3, 4, 5).double()], lambda name, x: None)
    assert hooks_of(model) == 0 and model.training


def test_what_runs_is_a_copy_in_evaluation_mode() -> None:
    model = make()
    model.drop.eval()
    with running(model) as private:
        assert not any(m.training for m in private.modules())
        assert [m.training for m in (model, model.conv, model.drop, model.fc)] == [True, True, False, True]
        with running(private) as again:
            assert again is private
    assert [m.training for m in (model, model.conv, model.drop, model.fc)] == [True, True, False, True]


def test_scores_carry_no_gradient() -> None:
    model = make()
    assert not class_scores(model, SAMPLE[None]).requires_grad
    with torch.no_grad():
        assert not torch.is_grad_enabled()
        class_scores(model, SAMPLE[None])
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ((torch.zeros(2, 3),), "returned a tuple: expected a tensor of class scores"),
        ({"logits": torch.zeros(2, 3)}, "returned a dict"),
        (None, "returned a NoneType"),
        (torch.zeros(2), r"shape \[2\]"),
        (torch.zeros(3, 3), r"shape \[3, 3\] .* \[2, classes\]"),
        (torch.zeros(2, 1), "at least two classes"),
        (torch.zeros(2, 3, 1), r"shape \[2, 3, 1\]"),
        (torch.zeros(2, 3, dtype=torch.int64), "torch.int64"),
        (torch.tensor([[0.0, torch.nan], [0.0, 0.0]]), "not finite"),
        (torch.tensor([[0.0, torch.inf], [0.0, 0.0]]), "not finite"),
    ],
)
def test_scores_that_are_none(scores: object, message: str) -> None:
    with pytest.raises(ModelOutputError, match=message):
        check_scores(scores, 2)


def test_a_sample_with_a_batch_dimension_is_told_so() -> None:
    with pytest.raises(ModelOutputError, match=r"pass sample\[0\]"):
        class_scores(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), torch.zeros(1, 1, 3, 8, 8))


# Weights that are used in other places than the forward of one module


class Tied(nn.Module):
    """Two layers with one weight, a weight that is used as it is in a function, and one that is used otherwise too."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.decode.weight = self.encode.weight
        self.called_elsewhere, self.transposed_too = nn.Linear(6, 6), nn.Linear(6, 6)
        self.embedding, self.unembed = nn.Embedding(6, 6), nn.Linear(6, 6)
        self.unembed.weight = self.embedding.weight
        self.viewed, self.view = nn.Linear(6, 6), nn.Linear(6, 6)
        self.view.weight = nn.Parameter(self.viewed.weight.data.t())
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.decode(torch.relu(self.encode(x)))
        x = functional.linear(x, self.called_elsewhere.weight, self.called_elsewhere.bias)
        x = functional.linear(self.transposed_too(x), self.transposed_too.weight.t())
        return self.head(self.view(self.viewed(self.unembed(x))))


def test_weights_wherever_they_are_used() -> None:
    torch.manual_seed(0)
    model = Tied().double()
    looked = probe(model, torch.randn(6, dtype=torch.float64))
    assert looked.matrix_shapes["encode"] == (1, 2, 6)  # both calls
    names = ["encode", "called_elsewhere", "transposed_too", "unembed", "viewed", "view", "head"]
    assert list(looked.called) == list(looked.matrix_shapes) == names
    assert dict(looked.unsupported) == {
        "decode": "its weight is that of 'encode'",
        "transposed_too": "its weight is used in another way as well",
        "unembed": "its weight is shared with 'embedding.weight'",
    }
    seen: dict[str, list[Tensor]] = {}
    x = torch.randn(3, 6, dtype=torch.float64)
    capture_inputs(model, matrix_layers(model), [x], lambda n, i: seen.setdefault(n, []).append(i[0]))
    assert "decode" not in seen and [len(calls) for calls in seen.values()] == [2, 1, 1, 1, 1, 1, 1]
    torch.testing.assert_close(seen["encode"][1], torch.relu(model.encode(x)).detach())
    torch.testing.assert_close(seen["called_elsewhere"][0], model.decode(torch.relu(model.encode(x))).detach())


def test_layers_of_one_weight_and_two_layouts() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(1, 4, 1)
            self.other.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.one(self.other(x)).mean((2, 3))

    looked = probe(Grouped(), torch.ones(1, 3, 3))
    assert looked.unsupported["one"] == "its weight is used in another way as well"
    assert looked.unsupported["other"] == "its weight is that of 'one'"


def test_cross_attention_is_refused_with_its_reason() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x[:, :1], x, x)[0][:, 0]

    looked = probe(Cross(), torch.randn(5, 6))
    assert list(looked.matrix_shapes) == ["attention.out_proj"]
    assert (
        list(looked.unsupported) == ["attention.in_proj"]
        and "cross-attention" in looked.unsupported["attention.in_proj"]
    )


def test_compiled_parts_are_run_as_they_were_written() -> None:
    compiled: list[object] = []

    def backend(graph: nn.Module, inputs: object) -> object:
        compiled.append(inputs)
        return graph.forward

    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    model = nn.Sequential(torch.compile(inner, backend=backend)).eval()
    x = torch.ones(4)
    with torch.no_grad():
        expected = model(x[None])
        assert len(compiled) == 1
        seen: list[str] = []
        capture_inputs(
            model, matrix_layers(model), [x[None], torch.randn(3, 4)], lambda name, _: seen.append(name[-2:])
        )
        assert seen == [".0", ".2"] * 2
        assert torch.equal(model(x[None]), expected)
    assert len(compiled) == 1


# Samples that run together


@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("num_samples", [2, 3])
def test_orders_from_the_definition(pieces: int, num_samples: int) -> None:
    samples = torch.randn(num_samples, 12, 5, generator=torch.Generator().manual_seed(0))

    def mix(part: Tensor) -> Tensor:
        size = 12 // pieces
        return torch.stack(
            [part[s, p * size + i] for p in range(pieces) for s in range(len(part)) for i in range(size)]
        )

    alone = project(samples[0])
    assert find_order(alone, project(mix(samples[:2]))) == pieces
    assert torch.equal(by_sample(mix(samples), pieces, num_samples), samples.flatten(0, 1))
    noisy = project(mix(samples[:2]) + 0.01 * torch.randn(24, 5))
    assert find_order(alone, noisy) == pieces


def test_orders_that_are_none() -> None:
    alone = torch.tensor([1.0, 2.0, 3.0])
    assert find_order(alone, alone) == SHARED
    assert find_order(alone, alone.flip(0)) is None
    assert find_order(alone, torch.tensor([1.0, 2.0, 3.0, 4.0])) is None
    assert find_order(alone, torch.tensor([2.0, 1.0, 3.0, 4.0, 5.0, 6.0])) is None
    assert find_order(alone, torch.tensor([torch.nan] * 6)) is None
    assert find_order(alone[:0], alone[:0]) == SHARED
    assert torch.equal(by_sample(torch.arange(2.0), SHARED, 3), torch.tensor([0.0, 1.0] * 3))
    assert by_sample(torch.zeros(7, 2), 2, 3) is None


class Mixed(nn.Module):
    """Tokens first, windows, a table that is the same for all samples, and images in the batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens_first, self.windows, self.table = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(2, 4)
        self.frames, self.head = nn.Conv1d(4, 4, 2), nn.Linear(4, 3)
        self.register_buffer("places", torch.randn(7, 2))

    def forward(self, x: Tensor) -> Tensor:  # [B, 6, 3]
        x = self.tokens_first(x.transpose(0, 1))  # [6, B, 4]
        x = self.windows(x.unflatten(0, (2, 3)).transpose(1, 2))  # [2, B, 3, 4]
        x = self.frames(x.flatten(0, 1).transpose(1, 2)).unflatten(0, (2, -1))  # [2, B, 4, 2]
        return self.head(x.mean((0, 3)) + self.table(self.places).mean(0))


def test_positions_come_sample_by_sample() -> None:
    torch.manual_seed(0)
    model = Mixed()
    samples = torch.randn(3, 6, 3)
    orders = Arrangement(model, samples[0]).orders
    assert orders == {"tokens_first": (6,), "windows": (2,), "frames": (2,), "table": (SHARED,), "head": (1,)}
    layers = matrix_layers(model)
    assert Arrangement(model, samples[0]).is_known(layers)
    for arrangement in (None, Arrangement(model, samples[2])):
        together: dict[str, Tensor] = {}
        alone: dict[str, list[Tensor]] = {}
        InputCapture(model, layers, arrangement).run(samples, together.__setitem__)
        capture_inputs(model, layers, samples.split(1), lambda n, x, alone=alone: alone.setdefault(n, []).append(x))
        assert together.keys() == alone.keys() == layers.keys()
        for name, inputs in together.items():
            torch.testing.assert_close(inputs, torch.cat(alone[name], dim=1))


def test_samples_that_cannot_be_told_apart() -> None:
    model, samples = Routed(), torch.randn(2, 5, 4)
    arrangement = Arrangement(model, samples[0])
    assert arrangement.note("expert") == ""  # nobody has asked
    assert dict(arrangement.orders) == {"head": (1,)}
    assert "one by one" in arrangement.note("expert") and arrangement.note("head") == ""
    assert not Arrangement(model, samples[0]).is_known(matrix_layers(model))
    with pytest.raises(ModelOutputError, match=r"10 inputs of layer 'expert' .* 2 samples .* batch_size=1"):
        capture_inputs(model, matrix_layers(model), [samples], lambda name, x: None)
    capture_inputs(model, matrix_layers(model), samples.split(1), lambda name, x: None)


def test_a_model_that_takes_one_sample_at_a_time() -> None:
    class Single(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(1, 4))

    model = Single(4, 3)
    assert dict(Arrangement(model, torch.ones(4)).orders) == {}
    assert not Arrangement(model, torch.ones(2, 4)[0]).is_known({"": model})

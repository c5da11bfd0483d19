"""Layers as matrices, against an evaluation position by position."""

import math

import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from references.layers import columns_by_position
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

from spadelens.matrix_layers import (
    Geometry,
    find_product,
    geometry_of,
    inputs_to_matrix,
    is_convolution,
    is_depthwise,
    matrix_layers,
    matrix_shape,
    matrix_to_weight,
    num_groups,
    unit_columns,
    unsupported_reason,
    weight_to_matrix,
)

# torch warns that such a convolution copies its padded input; the library's own code must not.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def check(layer: nn.Module, inputs: torch.Tensor) -> None:
    layer, inputs = layer.double(), inputs.double()
    got = inputs_to_matrix(layer, inputs)
    expected = columns_by_position(layer, inputs)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert matrix_shape(geometry_of(layer), inputs) == got.shape
    outputs = layer(inputs)
    product = expected @ weight_to_matrix(layer, layer.weight.detach()).transpose(1, 2)  # [groups, positions, rows]
    bias = 0.0 if layer.bias is None else layer.bias.detach()
    axis = -1 if not is_convolution(layer) else outputs.dim() - len(layer.kernel_size) - 1
    actual = outputs.detach().movedim(axis, -1).reshape(-1, outputs.shape[axis])
    torch.testing.assert_close(torch.cat(list(product), dim=1) + bias, actual)


CASES = [
    (1, {"in_channels": 3, "out_channels": 2, "kernel_size": 4}, (2, 3, 9)),
    (1, {"in_channels": 3, "out_channels": 2, "kernel_size": 4, "padding": "same"}, (2, 3, 9)),
    (
        1,
        {"in_channels": 2, "out_channels": 2, "kernel_size": 2, "padding": "same", "padding_mode": "reflect"},
        (1, 2, 5),
    ),
    (1, {"in_channels": 2, "out_channels": 2, "kernel_size": 4, "padding": "same", "padding_mode": "circular"}, (2, 7)),
    (
        1,
        {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": "valid", "dilation": 3, "bias": False},
        (2, 2, 11),
    ),
    (2, {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "padding": 1}, (2, 3, 5, 7)),
    (
        2,
        {"in_channels": 3, "out_channels": 4, "kernel_size": (3, 2), "padding": (2, 0), "stride": (2, 3)},
        (2, 3, 6, 7),
    ),
    (
        2,
        {"in_channels": 2, "out_channels": 3, "kernel_size": (2, 4), "padding": "same", "dilation": (3, 1)},
        (1, 2, 6, 5),
    ),
    (
        2,
        {"in_channels": 2, "out_channels": 3, "kernel_size": (4, 3), "padding": "same", "padding_mode": "replicate"},
        (2, 2, 5, 6),
    ),
    (
        2,
        {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect"},
        (2, 2, 4, 5),
    ),
    (
        2,
        {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": (0, 2), "padding_mode": "circular"},
        (2, 4, 5),
    ),
    (
        2,
        {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "groups": 2, "padding": 1, "dilation": 2},
        (2, 4, 7, 6),
    ),
    (2, {"in_channels": 3, "out_channels": 6, "kernel_size": 3, "groups": 3, "stride": 2, "padding": 1}, (2, 3, 7, 5)),
    (2, {"in_channels": 3, "out_channels": 3, "kernel_size": 1, "groups": 3}, (3, 4, 3)),
    (2, {"in_channels": 5, "out_channels": 1, "kernel_size": 1}, (1, 5, 1, 1)),
    (
        3,
        {"in_channels": 2, "out_channels": 2, "kernel_size": (2, 1, 3), "padding": (1, 0, 1), "stride": (1, 2, 1)},
        (1, 2, 3, 4, 3),
    ),
    (
        3,
        {"in_channels": 2, "out_channels": 2, "kernel_size": 2, "padding": "same", "padding_mode": "circular"},
        (1, 2, 3, 2, 3),
    ),
    (
        3,
        {"in_channels": 2, "out_channels": 2, "kernel_size": 3, "padding": 1, "groups": 2, "padding_mode": "reflect"},
        (2, 3, 4, 3),
    ),
]


@pytest.mark.parametrize(("dims", "arguments", "shape"), CASES)
def test_convolutions_position_by_position(dims: int, arguments: dict, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    check(CONVOLUTIONS[dims](**arguments), torch.randn(shape, generator=generator))


@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 5), (2, 3, 5), (2, 1, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_position_by_position(shape: tuple[int, ...], bias: bool) -> None:
    check(nn.Linear(5, 3, bias=bias), torch.randn(shape, generator=torch.Generator().manual_seed(0)))


@settings(max_examples=40, deadline=None, database=None)
@given(data=st.data())
def test_any_two_dimensional_convolution(data: st.DataObject) -> None:
    draw = data.draw
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.sampled_from(["same", "valid", (0, 0), (1, 2), (2, 0)]))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    if padding == "same":
        stride = (1, 1)
    size = draw(st.tuples(st.integers(4, 8), st.integers(4, 8)))
    before = (0, 0) if padding == "valid" else padding
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    needed = [-(-r // 2) for r in reach] if padding == "same" else list(before)
    assume(all(n < s for n, s in zip(needed, size, strict=True)))
    if padding != "same":
        assume(all(s + 2 * b > r for s, b, r in zip(size, before, reach, strict=True)))
    layer = nn.Conv2d(groups * per_group, groups * 2, kernel, stride, padding, dilation, groups, padding_mode=mode)
    batched = draw(st.booleans())
    shape = (2, groups * per_group, *size) if batched else (groups * per_group, *size)
    check(layer, torch.randn(shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(("dims", "arguments", "shape"), CASES)
def test_weight_to_matrix_and_back(dims: int, arguments: dict, shape: tuple[int, ...]) -> None:
    layer = CONVOLUTIONS[dims](**arguments)
    matrix = weight_to_matrix(layer, layer.weight.detach())
    assert matrix.shape[0] == num_groups(layer) == arguments.get("groups", 1)
    assert torch.equal(matrix_to_weight(layer, matrix), layer.weight)
    kernel = unit_columns(layer, "kernel")
    assert kernel == math.prod(layer.kernel_size)
    assert unit_columns(layer, "weight") == 1
    # One kernel is a run of neighboring columns.
    rows = layer.out_channels // layer.groups
    for group in range(layer.groups):
        for row in range(rows):
            for channel in range(layer.in_channels // layer.groups):
                run = matrix[group, row, channel * kernel : (channel + 1) * kernel]
                assert torch.equal(run, layer.weight[group * rows + row, channel].flatten())


def test_linear_has_no_kernels() -> None:
    assert unit_columns(nn.Linear(4, 2), "kernel") == 1
    assert num_groups(nn.Linear(4, 2)) == 1


def test_kinds() -> None:
    assert is_convolution(nn.Conv1d(1, 1, 1)) and is_convolution(nn.Conv3d(1, 1, 1))
    assert not is_convolution(nn.ConvTranspose2d(1, 1, 1)) and not is_convolution(nn.Linear(1, 1))
    assert is_depthwise(nn.Conv2d(3, 6, 3, groups=3))
    assert not is_depthwise(nn.Conv2d(4, 4, 3, groups=2))
    assert not is_depthwise(nn.Conv2d(1, 4, 3)) and not is_depthwise(nn.Linear(1, 1))


def test_matrix_layers_are_named_and_ordered() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), nn.ConvTranspose2d(1, 1, 1))
    assert list(matrix_layers(model)) == ["0", "1.1"]
    assert list(matrix_layers(nn.Linear(2, 2))) == [""]


def test_unsupported_reasons() -> None:
    assert unsupported_reason(nn.Linear(2, 2)) is None
    assert "parametrization" in unsupported_reason(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    assert "parametrization" in unsupported_reason(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)))
    pruned = nn.Linear(2, 2)
    prune.l1_unstructured(pruned, "weight", amount=0.5)
    assert "plain parameter" in unsupported_reason(pruned)
    assert "initialized" in unsupported_reason(nn.LazyLinear(2))
    whole = nn.Linear(2, 2)
    whole.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    assert "torch.int8" in unsupported_reason(whole)


# A linear layer whose weight is [in, out]


def conv1d(num_in: int, num_out: int) -> nn.Module:
    layer = pytest.importorskip("transformers.pytorch_utils").Conv1D(num_out, num_in)
    layer.bias.data.uniform_(-1, 1)
    return layer


@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (2, 3, 5)])
def test_transposed_linear_position_by_position(shape: tuple[int, ...]) -> None:
    check(conv1d(5, 3), torch.randn(shape, generator=torch.Generator().manual_seed(0)))


def test_transposed_weights_to_matrices_and_back() -> None:
    layer = conv1d(5, 3)
    assert layer.weight.shape == (5, 3)
    matrix = weight_to_matrix(layer, layer.weight.detach())
    assert matrix.shape == (1, 3, 5) and torch.equal(matrix[0], layer.weight.T)
    back = matrix_to_weight(layer, matrix)
    assert torch.equal(back, layer.weight) and back.is_contiguous()
    assert (num_groups(layer), unit_columns(layer, "kernel")) == (1, 1)
    assert not is_convolution(layer) and not is_depthwise(layer) and unsupported_reason(layer) is None
    assert list(matrix_layers(nn.Sequential(nn.ReLU(), layer))) == ["1"]


def test_only_that_of_transformers_is_transposed() -> None:
    class Conv1D(nn.Linear):
        pass

    assert torch.equal(weight_to_matrix(layer := Conv1D(5, 3), layer.weight)[0], layer.weight)


# Projections of attention


def test_projections_of_attention_are_layers() -> None:
    state = torch.get_rng_state()
    joint, apart = nn.MultiheadAttention(6, 2), nn.MultiheadAttention(6, 2, kdim=5, vdim=4, bias=False)
    torch.set_rng_state(state)
    model = nn.Sequential(joint, nn.Sequential(apart))
    layers = matrix_layers(model)
    assert torch.equal(torch.get_rng_state(), state)
    expected = ["0.in_proj", "0.out_proj", "1.0.q_proj", "1.0.k_proj", "1.0.v_proj", "1.0.out_proj"]
    assert list(layers) == expected and list(matrix_layers(joint)) == ["in_proj", "out_proj"]
    assert layers["0.in_proj"].weight is joint.in_proj_weight and layers["0.in_proj"].bias is joint.in_proj_bias
    assert layers["0.out_proj"] is joint.out_proj
    assert layers["1.0.k_proj"].weight is apart.k_proj_weight and layers["1.0.k_proj"].bias is None
    assert (layers["1.0.v_proj"].in_features, layers["1.0.v_proj"].out_features) == (4, 6)
    assert layers["0.in_proj"](torch.ones(2, 6)).shape == (2, 18)
    layers["0.in_proj"].weight.data = torch.zeros(18, 6)
    assert not joint.in_proj_weight.any()


def test_a_projection_that_is_computed_is_named_and_refused() -> None:
    attention = nn.MultiheadAttention(6, 2)
    nn.utils.parametrizations.weight_norm(attention, "in_proj_weight")
    assert "plain parameter" in unsupported_reason(matrix_layers(attention)["in_proj"])


# Products


@pytest.mark.parametrize(("dims", "arguments", "shape"), CASES)
def test_a_call_is_known_as_well_as_a_module(dims: int, arguments: dict, shape: tuple[int, ...]) -> None:
    layer = CONVOLUTIONS[dims](**arguments)
    inputs = torch.randn(shape)
    calls = []

    class Calls(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            calls.append((func, args, kwargs or {}))
            return func(*args, **(kwargs or {}))

    with Calls():
        layer(inputs)
    (found,) = [found for func, args, kwargs in calls if (found := find_product(func, args, kwargs)) is not None]
    assert found.weight is layer.weight and found.fits(layer)
    expected = inputs_to_matrix(layer, inputs)
    torch.testing.assert_close(inputs_to_matrix(found.geometry, found.inputs), expected, rtol=0, atol=0)
    assert matrix_shape(found.geometry, found.inputs) == expected.shape


def test_arguments_of_calls() -> None:
    inputs, weight = torch.randn(2, 4, 6, 5), torch.randn(6, 2, 3, 3)
    wanted = Geometry((3, 3), (2, 2), (1, 1), (1, 1), 2)
    for found in (
        find_product(functional.conv2d, (inputs, weight, None, 2, 1, 1, 2), {}),
        find_product(torch.conv2d, (inputs,), {"weight": weight, "stride": (2,), "padding": [1, 1], "groups": 2}),
    ):
        assert found.geometry == wanted and found.inputs is inputs and found.weight is weight
        assert found.fits(nn.Conv2d(4, 6, 3, groups=2)) and not found.fits(nn.Conv2d(4, 6, 3))
        assert not found.fits(nn.Linear(4, 6)) and not found.fits(nn.Conv1d(4, 6, 3, groups=2))
    assert find_product(torch.conv2d, (inputs, weight), {}).geometry == Geometry((3, 3), (1, 1), (0, 0), (1, 1), 1)
    rows, matrix = torch.randn(3, 5), torch.randn(4, 5)
    linear = find_product(functional.linear, (), {"weight": matrix, "input": rows})
    assert linear.inputs is rows and linear.weight is matrix and linear.geometry == Geometry()
    assert linear.fits(nn.Linear(5, 4)) and not linear.fits(conv1d(5, 4))
    added = find_product(torch.addmm, (torch.zeros(4), rows, matrix.T), {})
    assert added.inputs is rows and added.geometry == Geometry(is_transposed=True) and added.fits(conv1d(5, 4))
    assert find_product(torch.mm, (rows, matrix.T), {}) is None
    assert find_product(functional.linear, (rows, None), {}) is None
    assert find_product(torch.conv2d, (inputs, None), {}) is None

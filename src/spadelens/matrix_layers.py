"""Convolutions and linear layers as matrices: the one layout that the rest of the library computes in.

A layer is `outputs = inputs @ weight.T`, once per group:

    weight   [groups, rows, columns]        rows: output channels of one group
    inputs   [groups, positions, columns]   positions: batch x output locations of the layer
    hessian  [groups, columns, columns]

The columns of a convolution are (input channel, *kernel location), so the k x k kernel of one input channel is a run of
neighboring columns. Linear layers have one group and one position per vector or token. Only this file knows what a
convolution is.

Layers are told by their weights, not by their modules: torch is asked for a `Product` of a weight wherever it is used,
in the forward of its own module or elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, final, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

Unit: TypeAlias = Literal["weight", "kernel"]
UNITS: tuple[str, ...] = get_args(Unit)
MatrixLayer: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
"""Also the `Conv1D` of transformers, a linear layer whose weight is `[in, out]`, which has a weight and a bias too."""
Choose: TypeAlias = Callable[[int], Tensor | None]
"""Given how many positions a call has, returns the numbers of the chosen ones among those of each sample,
`[samples, count]`, or None for all. The positions of a call come sample by sample."""
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONVOLUTION_CALLS: Mapping[Any, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_CONVOLUTION_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_PROJECTIONS = (  # name of a parameter of nn.MultiheadAttention, and of the layer that it is
    ("in_proj_weight", "in_proj"),
    ("q_proj_weight", "q_proj"),
    ("k_proj_weight", "k_proj"),
    ("v_proj_weight", "v_proj"),
)


@final
class Projection(nn.Linear):
    """The projections of an `nn.MultiheadAttention` into queries, keys and values, as a layer.

    It holds the attention's own parameter, and no copy: what becomes of it becomes of the attention.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        """Hold `weight` `[rows, columns]`; a computed weight is not a parameter, but is held too."""
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.register_parameter("bias", bias)


@final
@dataclass(frozen=True)
class Geometry:
    """Which inputs a weight is multiplied with.

    Attributes:
        kernel_size: Of a convolution, as the other lengths: one for each axis in space. Empty for a linear layer.
        stride: Distance between the windows of neighboring output locations.
        padding: Locations added on both sides, or 'same' or 'valid'.
        dilation: Distance between neighboring elements of the kernel.
        groups: Of the channels.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        is_transposed: Whether the weight is `[in, out]`.
    """

    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    padding_mode: str = "zeros"
    is_transposed: bool = False

    @property
    def num_spatial(self) -> int:
        """How many axes in space there are; 0 for a linear layer."""
        return len(self.kernel_size)


@final
@dataclass(frozen=True, eq=False)
class Product:
    """A product of a weight and inputs that torch has been asked for.

    Attributes:
        inputs: `[batch, channels, *space]` or `[channels, *space]` for a convolution, `[..., features]` else.
        weight: In the layer's own shape.
        geometry: Which inputs the weight is multiplied with.
    """

    inputs: Tensor
    weight: Tensor
    geometry: Geometry

    def fits(self, module: MatrixLayer) -> bool:
        """Whether the weight is the matrix here that it is in `module`; strides and padding may be others."""
        own, other = geometry_of(module), self.geometry
        return (own.num_spatial, own.groups, own.is_transposed) == (
            other.num_spatial,
            other.groups,
            other.is_transposed,
        )


def find_product(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Product | None:
    """Return the product that a call of a function of torch asks for, or None where it asks for something else."""
    if function is functional.linear:
        inputs, weight = _named(("input", "weight"), args, kwargs)
        return _product(inputs, weight, Geometry())
    if function in (torch.addmm, torch.Tensor.addmm):
        _, inputs, weight = _named(("input", "mat1", "mat2"), args, kwargs)
        return _product(inputs, weight, Geometry(is_transposed=True))
    if function not in _CONVOLUTION_CALLS:
        return None
    num_spatial = _CONVOLUTION_CALLS[function]
    inputs, weight, _, stride, padding, dilation, groups = _named(_CONVOLUTION_ARGUMENTS, args, kwargs)
    if not isinstance(weight, Tensor):
        return None
    geometry = Geometry(
        kernel_size=tuple(weight.shape[2:]),
        stride=_lengths(stride, 1, num_spatial),
        padding=padding if isinstance(padding, str) else _lengths(padding, 0, num_spatial),
        dilation=_lengths(dilation, 1, num_spatial),
        groups=1 if groups is None else groups,
    )
    return _product(inputs, weight, geometry)


def _product(inputs: Any, weight: Any, geometry: Geometry) -> Product | None:
    are_tensors = isinstance(inputs, Tensor) and isinstance(weight, Tensor)
    return Product(inputs, weight, geometry) if are_tensors else None


def _named(names: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    return [args[index] if index < len(args) else kwargs.get(name) for index, name in enumerate(names)]


def _lengths(value: Any, default: int, count: int) -> tuple[int, ...]:
    if value is None:
        return (default,) * count
    lengths = (value,) if isinstance(value, int) else tuple(value)
    return lengths * count if len(lengths) == 1 else lengths


def geometry_of(module: MatrixLayer) -> Geometry:
    """Return which inputs the weight of `module` is multiplied with when the module is called."""
    if not isinstance(module, _CONVOLUTIONS):
        return Geometry(is_transposed=_is_transposed(module))
    padding = module.padding if isinstance(module.padding, str) else tuple(module.padding)
    lengths = (tuple(module.kernel_size), tuple(module.stride), padding, tuple(module.dilation))
    return Geometry(*lengths, module.groups, module.padding_mode)


def is_convolution(module: nn.Module) -> bool:
    """Whether `module` is a convolution (transposed ones are not)."""
    return isinstance(module, _CONVOLUTIONS)


def is_depthwise(module: nn.Module) -> bool:
    """Whether every group of the convolution `module` sees a single input channel, and there are several groups."""
    return isinstance(module, _CONVOLUTIONS) and module.groups > 1 and module.groups == module.in_channels


def _is_transposed(module: nn.Module) -> bool:
    """Whether `module` is a `Conv1D` of transformers."""
    return any(
        kind.__name__ == "Conv1D" and kind.__module__.partition(".")[0] == "transformers"
        for kind in type(module).__mro__
    )


def matrix_layers(model: nn.Module) -> dict[str, MatrixLayer]:
    """Return every convolution and linear layer of `model` by its qualified name, in order of registration.

    The projections of an `nn.MultiheadAttention` named 'attention' are 'attention.in_proj', or 'attention.q_proj',
    'attention.k_proj' and 'attention.v_proj' where they are apart; its last is the module 'attention.out_proj'.
    Layers that hold the same parameter are all returned.
    """
    layers: dict[str, MatrixLayer] = {}
    for name, module in model.named_modules():
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
            layers[name] = module
        elif _is_transposed(module):
            layers[name] = cast("MatrixLayer", module)
        elif isinstance(module, nn.MultiheadAttention):
            for parameter, projection in _PROJECTIONS:
                weight = getattr(module, parameter, None)
                if weight is not None:
                    bias = module.in_proj_bias if parameter == "in_proj_weight" else None
                    layers[f"{name}.{projection}" if name else projection] = Projection(weight, bias)
    return layers


def other_weights(model: nn.Module) -> dict[str, tuple[str, torch.Size]]:
    """Return the weights of `model` that no convolution or linear layer holds: name -> (class of the module, shape).

    These are parameters of two axes or more, such as those of recurrent layers, embeddings and transposed convolutions;
    vectors (biases, and the scales of normalizations) do not count as weights.
    """
    layers = matrix_layers(model)
    known = {id(parameter) for layer in layers.values() for parameter in layer.parameters()}
    found: dict[str, tuple[str, torch.Size]] = {}
    for owner, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() > 1 and id(parameter) not in known:
                known.add(id(parameter))
                found[f"{owner}.{name}" if owner else name] = (type(module).__name__, parameter.shape)
    return found


def unsupported_reason(module: MatrixLayer) -> str | None:
    """Return why the weight of `module` cannot be replaced, or None when it can."""
    if parametrize.is_parametrized(module, "weight"):
        return (
            "its weight is computed by a parametrization; remove it first, with "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    if not isinstance(module.weight, nn.Parameter):
        return "its weight is not a plain parameter; remove a weight_norm or spectral_norm first"
    if isinstance(module.weight, nn.parameter.UninitializedParameter):
        return "its weight has not been initialized"
    if not module.weight.is_floating_point():
        return f"its weight has the type {module.weight.dtype}"
    return None


def num_groups(module: MatrixLayer) -> int:
    """Return the number of groups of `module`, one for anything but a grouped convolution."""
    return geometry_of(module).groups


def unit_columns(module: MatrixLayer, unit: Unit) -> int:
    """Return how many neighboring columns are pruned together: 1, or the size of a kernel for `unit='kernel'`."""
    return 1 if unit == "weight" else math.prod(geometry_of(module).kernel_size)


def weight_to_matrix(module: MatrixLayer, weight: Tensor) -> Tensor:
    """Return a weight of the shape of `module.weight` as `[groups, rows, columns]` (a view where possible)."""
    if _is_transposed(module):
        weight = weight.mT
    groups = num_groups(module)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def matrix_to_weight(module: MatrixLayer, matrix: Tensor) -> Tensor:
    """Return a matrix `[groups, rows, columns]` in the shape of `module.weight`; inverse of `weight_to_matrix`."""
    if _is_transposed(module):
        return matrix[0].mT.contiguous()
    return matrix.reshape(module.weight.shape)


def entries(geometry: Geometry, inputs: Tensor) -> Tensor:
    """Return inputs as what a batch holds: `[entries, channels, *space]` for convolutions, `[entries, features]` else.

    An entry is an image, or a vector or token.
    """
    if geometry.num_spatial == 0:
        return inputs.reshape(-1, inputs.shape[-1])
    return inputs if inputs.dim() == geometry.num_spatial + 2 else inputs.unsqueeze(0)


def matrix_shape(geometry: Geometry, inputs: Tensor) -> tuple[int, int, int]:
    """Return the shape of what `inputs_to_matrix` gives, without forming it."""
    batch = entries(geometry, inputs)
    locations = 1
    for axis, (before, after) in enumerate(_padding(geometry)):
        reach = geometry.dilation[axis] * (geometry.kernel_size[axis] - 1)
        locations *= (batch.shape[2 + axis] + before + after - reach - 1) // geometry.stride[axis] + 1
    columns = batch.shape[1] // geometry.groups * math.prod(geometry.kernel_size)
    return geometry.groups, len(batch) * locations, columns


def inputs_to_matrix(layer: MatrixLayer | Geometry, inputs: Tensor, choose: Choose | None = None) -> Tensor:
    """Return the inputs of one call of `layer` as `[groups, positions, columns]`.

    Takes what the layer itself takes: `[batch, channels, *space]` or `[channels, *space]` for convolutions and
    `[..., features]` for linear layers. The result of a convolution takes `columns / channels` times the memory of its
    inputs (over the square of the stride).

    Args:
        layer: The layer, or its geometry.
        inputs: What it is called with.
        choose: Says which positions to return; None for all.
    """
    geometry = layer if isinstance(layer, Geometry) else geometry_of(layer)
    batch = entries(geometry, inputs)
    if geometry.num_spatial == 0:
        chosen = None if choose is None else choose(len(batch))
        if chosen is not None:
            by_sample = batch.unflatten(0, (len(chosen), -1))
            batch = by_sample[torch.arange(len(chosen), device=batch.device)[:, None], chosen].flatten(0, 1)
        return batch.unsqueeze(0)
    num_spatial = geometry.num_spatial
    windows = _windows(geometry, batch)
    space = windows.shape[2 : 2 + num_spatial]
    chosen = None if choose is None else choose(len(batch) * math.prod(space))
    if chosen is not None:
        by_sample = windows.unflatten(0, (len(chosen), -1))
        inner, *locations = torch.unravel_index(chosen, (by_sample.shape[1], *space))
        outer = torch.arange(len(chosen), device=batch.device)[:, None]
        picked = by_sample[(outer, inner, slice(None), *locations)]  # [samples, count, channels, *kernel]
        by_group: Tensor = picked.flatten(0, 1).unflatten(1, (geometry.groups, -1)).movedim(1, 0).flatten(2)
        return by_group
    windows = windows.unflatten(1, (geometry.groups, -1))  # [batch, groups, channels, *locations, *kernel]
    place_axes = tuple(range(3, 3 + num_spatial))
    kernel_axes = tuple(range(3 + num_spatial, 3 + 2 * num_spatial))
    grouped: Tensor = windows.permute(1, 0, *place_axes, 2, *kernel_axes)
    return grouped.reshape(geometry.groups, math.prod(grouped.shape[1 : 2 + num_spatial]), -1)


def _windows(geometry: Geometry, batch: Tensor) -> Tensor:
    """Return the window at every location, `[batch, channels, *locations, *kernel]`, a view of the padded batch."""
    windows = _pad(geometry, batch)
    for axis, (size, stride, dilation) in enumerate(
        zip(geometry.kernel_size, geometry.stride, geometry.dilation, strict=True)
    ):
        windows = windows.unfold(2 + axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return windows


def _padding(geometry: Geometry) -> list[tuple[int, int]]:
    """Return the padding before and after, for each axis."""
    if not isinstance(geometry.padding, str):
        return [(padding, padding) for padding in geometry.padding]
    if geometry.padding == "valid":
        return [(0, 0)] * geometry.num_spatial
    totals = [dilation * (size - 1) for dilation, size in zip(geometry.dilation, geometry.kernel_size, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


def _pad(geometry: Geometry, inputs: Tensor) -> Tensor:
    before_after = [length for pair in reversed(_padding(geometry)) for length in pair]  # last axis first
    if not any(before_after):
        return inputs
    mode = "constant" if geometry.padding_mode == "zeros" else geometry.padding_mode
    return functional.pad(inputs, before_after, mode=mode)

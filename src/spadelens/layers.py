"""Convolutions and linear layers as matrices: the one layout that the rest of the library computes in.

A layer is `outputs = inputs @ weight.T`, once per group:

    weight   [groups, rows, columns]        rows: output channels of one group
    inputs   [groups, positions, columns]   positions: batch x places at which the layer is evaluated
    hessian  [groups, columns, columns]

The columns of a convolution are (input channel, *kernel place), so the k x k kernel of one input channel is a run of
neighboring columns. Linear layers have one group and one position per vector or token. Only this file knows what a
convolution is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from spadelens.randomness import permutation

Unit: TypeAlias = Literal["weight", "kernel"]
UNITS: tuple[str, ...] = get_args(Unit)
MatrixLayer: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
Choose: TypeAlias = Callable[[int], Tensor | None]
"""Given how many positions a call has, returns the numbers of the chosen ones among those of each sample,
`[samples, count]`, or None for all. The positions of a call come sample by sample."""
_POSITIONS_CHECKED = 64
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_convolution(module: nn.Module) -> bool:
    """Whether `module` is a convolution (transposed ones are not)."""
    return isinstance(module, _CONVOLUTIONS)


def is_depthwise(module: nn.Module) -> bool:
    """Whether every group of the convolution `module` sees a single input channel, and there are several groups."""
    return isinstance(module, _CONVOLUTIONS) and module.groups > 1 and module.groups == module.in_channels


def matrix_layers(model: nn.Module) -> dict[str, MatrixLayer]:
    """Return every convolution and linear layer of `model` by its qualified name, in order of registration."""
    return {name: module for name, module in model.named_modules() if isinstance(module, (*_CONVOLUTIONS, nn.Linear))}


def unsupported_reason(module: MatrixLayer) -> str | None:
    """Return why the weight of `module` cannot be replaced, or None when it can."""
    if parametrize.is_parametrized(module, "weight"):
        return "its weight is computed by a parametrization"
    if not isinstance(module.weight, nn.Parameter):
        return "its weight is not a plain parameter"
    if isinstance(module.weight, nn.parameter.UninitializedParameter):
        return "its weight has not been initialized"
    if not module.weight.is_floating_point():
        return f"its weight has the type {module.weight.dtype}"
    return None


def num_groups(module: MatrixLayer) -> int:
    """Return the number of groups of `module`, one for anything but a grouped convolution."""
    return 1 if isinstance(module, nn.Linear) else module.groups


def unit_columns(module: MatrixLayer, unit: Unit) -> int:
    """Return how many neighboring columns are pruned together: 1, or the size of a kernel for `unit='kernel'`."""
    if unit == "weight" or isinstance(module, nn.Linear):
        return 1
    return math.prod(module.kernel_size)


def weight_to_matrix(module: MatrixLayer, weight: Tensor) -> Tensor:
    """Return a weight of the shape of `module.weight` as `[groups, rows, columns]` (a view where possible)."""
    groups = num_groups(module)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def matrix_to_weight(module: MatrixLayer, matrix: Tensor) -> Tensor:
    """Return a matrix `[groups, rows, columns]` in the shape of `module.weight`; inverse of `weight_to_matrix`."""
    return matrix.reshape(module.weight.shape)


def inputs_to_matrix(module: MatrixLayer, inputs: Tensor, choose: Choose | None = None) -> Tensor:
    """Return the inputs of one call of `module` as `[groups, positions, columns]`.

    Takes what the layer itself takes: `[batch, channels, *space]` or `[channels, *space]` for convolutions and
    `[..., features]` for linear layers. The result of a convolution takes `columns / channels` times the memory of its
    inputs (over the square of the stride).

    Args:
        module: The layer.
        inputs: What it is called with.
        choose: Says which positions to return; None for all.
    """
    if isinstance(module, nn.Linear):
        rows = inputs.reshape(-1, inputs.shape[-1])
        chosen = None if choose is None else choose(len(rows))
        if chosen is not None:
            by_sample = rows.unflatten(0, (len(chosen), -1))
            rows = by_sample[torch.arange(len(chosen), device=rows.device)[:, None], chosen].flatten(0, 1)
        return rows.unsqueeze(0)
    num_spatial = len(module.kernel_size)
    batch = inputs if inputs.dim() == num_spatial + 2 else inputs.unsqueeze(0)
    windows = _windows(module, batch)
    space = windows.shape[2 : 2 + num_spatial]
    chosen = None if choose is None else choose(len(batch) * math.prod(space))
    if chosen is not None:
        by_sample = windows.unflatten(0, (len(chosen), -1))
        inner, *places = torch.unravel_index(chosen, (by_sample.shape[1], *space))
        outer = torch.arange(len(chosen), device=batch.device)[:, None]
        picked = by_sample[(outer, inner, slice(None), *places)]  # [samples, count, channels, *kernel]
        by_group: Tensor = picked.flatten(0, 1).unflatten(1, (module.groups, -1)).movedim(1, 0).flatten(2)
        return by_group
    windows = windows.unflatten(1, (module.groups, -1))  # [batch, groups, channels, *places, *kernel]
    place_axes = tuple(range(3, 3 + num_spatial))
    kernel_axes = tuple(range(3 + num_spatial, 3 + 2 * num_spatial))
    grouped: Tensor = windows.permute(1, 0, *place_axes, 2, *kernel_axes)
    return grouped.reshape(module.groups, math.prod(grouped.shape[1 : 2 + num_spatial]), -1)


def computes_product(module: MatrixLayer, inputs: Tensor, outputs: Tensor, tolerance: float = 2e-2) -> bool:
    """Whether `outputs` is what the weight of `module` times `inputs` plus its bias gives.

    A subclass may do something else in its forward (standardize its weight, say); replacing the weight of such a layer
    by one that fits the plain product would be wrong in silence. At most 64 positions, drawn at random, are looked at.
    `tolerance` is relative to the root mean square of the outputs and leaves room for TF32 and bfloat16.
    """
    matrix = weight_to_matrix(module, module.weight.detach())
    num_positions = 0

    def choose(count: int) -> Tensor:
        nonlocal num_positions
        num_positions = count
        return permutation(count, 0)[:_POSITIONS_CHECKED].unsqueeze(0).to(inputs.device)

    product = (inputs_to_matrix(module, inputs, choose) @ matrix.transpose(1, 2)).transpose(0, 1)
    product = product.flatten(1)  # [positions, output channels]
    if module.bias is not None:
        product = product + module.bias.detach()
    channel_axis = -1 if isinstance(module, nn.Linear) else outputs.dim() - len(module.kernel_size) - 1
    actual = outputs.movedim(channel_axis, -1).reshape(-1, outputs.shape[channel_axis])
    if actual.shape != (num_positions, product.shape[1]):
        return False
    difference = _root_mean_square(actual[choose(num_positions)[0]].to(product.dtype) - product)
    return difference <= tolerance * _root_mean_square(product) + torch.finfo(product.dtype).tiny


def _root_mean_square(values: Tensor) -> float:
    largest = float(values.abs().max()) if values.numel() else 0.0
    scale = largest if 0.0 < largest < math.inf else 1.0  # squares of small or large numbers leave the range of float32
    return scale * float((values / scale).square().mean().sqrt()) if values.numel() else 0.0


def _windows(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, batch: Tensor) -> Tensor:
    """Return what the kernel sees at every place, `[batch, channels, *places, *kernel]`; a view of the padded batch."""
    windows = _pad(module, batch)
    for axis, (size, stride, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True)
    ):
        windows = windows.unfold(2 + axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return windows


def _pad(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: Tensor) -> Tensor:
    before_after: list[int] = []  # last axis first, as torch.nn.functional.pad wants it
    for axis in reversed(range(len(module.kernel_size))):
        if isinstance(module.padding, str):
            total = module.dilation[axis] * (module.kernel_size[axis] - 1) if module.padding == "same" else 0
            before_after += [total // 2, total - total // 2]
        else:
            before_after += [module.padding[axis], module.padding[axis]]
    if not any(before_after):
        return inputs
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return functional.pad(inputs, before_after, mode=mode)

"""Convolutions and linear layers evaluated position by position."""

import itertools
import math

import torch
from torch import Tensor, nn


def source_index(index: int, size: int, mode: str) -> int | None:
    """Return where a padded place takes its value from, or None where it is zero."""
    if 0 <= index < size:
        return index
    if mode == "zeros":
        return None
    if mode == "circular":
        return index % size
    if mode == "replicate":
        return min(max(index, 0), size - 1)
    assert mode == "reflect"
    return -index if index < 0 else 2 * (size - 1) - index


def columns_by_position(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return what each group of a layer sees at each position, `[groups, positions, columns]`."""
    if not hasattr(module, "kernel_size"):
        vectors = [inputs[index] for index in itertools.product(*map(range, inputs.shape[:-1]))]
        return torch.stack(vectors).double()[None]
    dims = len(module.kernel_size)
    batch = inputs.double() if inputs.dim() == dims + 2 else inputs.double()[None]
    space = batch.shape[2:]
    before, places = [], []
    for axis in range(dims):
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1)
        if module.padding == "same":  # for an even reach as much on both sides, else one more after
            left, right = math.floor(reach / 2), math.ceil(reach / 2)
        elif module.padding == "valid":
            left = right = 0
        else:
            left = right = module.padding[axis]
        before.append(left)
        places.append((space[axis] + left + right - reach - 1) // module.stride[axis] + 1)
    per_group = module.in_channels // module.groups
    result = []
    for group in range(module.groups):
        positions = []
        for sample in batch:
            for place in itertools.product(*map(range, places)):
                column = []
                for channel in range(group * per_group, (group + 1) * per_group):
                    for offset in itertools.product(*map(range, module.kernel_size)):
                        source = [
                            source_index(
                                place[axis] * module.stride[axis] + offset[axis] * module.dilation[axis] - before[axis],
                                space[axis],
                                module.padding_mode,
                            )
                            for axis in range(dims)
                        ]
                        outside = any(index is None for index in source)
                        column.append(0.0 if outside else float(sample[(channel, *source)]))
                positions.append(column)
        result.append(positions)
    return torch.tensor(result, dtype=torch.float64)

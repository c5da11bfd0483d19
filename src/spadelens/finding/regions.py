"""Regions to try, from the order in which a map ranks the units of a sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spadelens.randomness import generator_of, permutation

AREAS = (0.01, 0.015, 0.02, 0.03, 0.04, 0.055, 0.07, 0.09, 0.115, 0.145, 0.18, 0.23, 0.3)
"""Fractions of a photo's pixels that are tried as regions, before they are made compact."""
LARGEST_AREA = AREAS[-1]
_LEAST_PART = 0.25  # of the map's sum in the strongest part of a region, below which a part is left out


def strongest(values: Tensor, fraction: float) -> Tensor:
    """Return the units whose value is among the largest, `fraction` of them, boolean of the map's shape.

    Ties are broken at random, with a fixed seed: taken together, the units that a map does not rank would be the whole
    photo, which nothing beats. Units that the map leaves at zero are never among the strongest.
    """
    count = max(1, round(fraction * values.numel()))
    shuffled = permutation(values.numel(), 0)
    order = shuffled[values.flatten()[shuffled].argsort(descending=True, stable=True)]
    found = torch.zeros(values.numel(), dtype=torch.bool)
    found[order[:count]] = True
    return found.view(values.shape) & (values > 0)


def compact(region: Tensor, values: Tensor) -> Tensor:
    """Return the boxes around the parts of a region `[H, W]` that hold most of the map.

    Parts are connected, also diagonally; those with less than a quarter of the sum of the strongest are left out.
    """
    from scipy import ndimage

    labels, count = ndimage.label(region.numpy(), structure=np.ones((3, 3)))
    sums = ndimage.sum(values.numpy(), labels, range(1, count + 1))
    boxes: NDArray[np.bool_] = np.zeros(region.shape, dtype=bool)
    for box, total in zip(ndimage.find_objects(labels), np.asarray(sums), strict=True):
        if total >= _LEAST_PART * np.max(sums):
            boxes[box] = True
    return torch.from_numpy(boxes)


def nested_boxes(values: Tensor) -> list[Tensor]:
    """Return compact regions of a map `[H, W]` in ascending order of `AREAS`, without repetitions.

    Regions that cover more than the largest of these areas once they are compact are left out, except the first.
    """
    first, *others = _distinct([compact(strongest(values, fraction), values) for fraction in AREAS])
    return [first, *(one for one in others if float(one.double().mean()) <= LARGEST_AREA)]


def nested_sets(values: Tensor, groups: Sequence[int]) -> list[Tensor]:
    """Return the sets of the strongest groups of units, in ascending order of size.

    Args:
        values: The map of a text or a row, signed, `[units]`.
        groups: For each unit the number of its group (the word of a token), or -1 if it is never covered.

    Returns:
        Sets of one group, of two, ..., of all but one, boolean `[units]`; beyond eight, sizes grow by a quarter. Where
        there is only one group, the set of that group.
    """
    numbers = torch.tensor(groups)
    sums = {number: float(values[numbers == number].sum()) for number in sorted(set(groups) - {-1})}
    order = sorted(sums, key=lambda number: -sums[number])
    sizes, size = [], 1
    while size < max(len(order), 2):
        sizes.append(size)
        size = max(size + 1, size * 5 // 4 if size >= 8 else size + 1)
    return [torch.isin(numbers, torch.tensor(order[:size])) for size in sizes]


def words_of(tokens: Sequence[str], is_special: Sequence[bool]) -> list[int]:
    """Return the number of the word that each token belongs to, -1 for special tokens.

    A word begins at a token that begins with a space, and after a special token.
    """
    numbers, number, begins = [], -1, True
    for token, special in zip(tokens, is_special, strict=True):
        if special:
            numbers.append(-1)
            begins = True
            continue
        if begins or token[:1].isspace():
            number += 1
        begins = False
        numbers.append(number)
    return numbers


def moved(region: Tensor, count: int, seed: int) -> Tensor:
    """Return `region` `[H, W]` moved to random places inside the photo, boolean `[count, H, W]`."""
    rows, columns = region.any(1).nonzero().flatten(), region.any(0).nonzero().flatten()
    part = region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    generator = generator_of(seed)
    found = torch.zeros(count, *region.shape, dtype=torch.bool)
    for one in found:
        top, left = (
            int(torch.randint(whole - size + 1, (1,), generator=generator))
            for whole, size in zip(region.shape, part.shape, strict=True)
        )
        one[top : top + part.shape[0], left : left + part.shape[1]] = part
    return found


def centered(region: Tensor) -> Tensor:
    """Return a box of the photo's proportions and the area of `region` `[H, W]` in the middle of the photo."""
    share = float(region.double().mean()) ** 0.5
    found = torch.zeros_like(region)
    sizes = [max(1, round(share * whole)) for whole in region.shape]
    top, left = ((whole - size) // 2 for whole, size in zip(region.shape, sizes, strict=True))
    found[top : top + sizes[0], left : left + sizes[1]] = True
    return found


def drawn_sets(region: Tensor, groups: Sequence[int], count: int, seed: int) -> Tensor:
    """Return random sets of as many groups of units as `region` `[units]` holds, boolean `[count, units]`."""
    numbers = torch.tensor(groups)
    known = sorted(set(groups) - {-1})
    size = len(set(numbers[region].tolist()) - {-1})
    generator = generator_of(seed)
    names = torch.tensor(known)
    return torch.stack(
        [torch.isin(numbers, names[torch.randperm(len(known), generator=generator)[:size]]) for _ in range(count)]
    )


def _distinct(regions: Sequence[Tensor]) -> list[Tensor]:
    found: dict[bytes, Tensor] = {}
    for region in regions:
        found.setdefault(region.numpy().tobytes(), region)
    return list(found.values())

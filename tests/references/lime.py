"""LIME's regression by its normal equations, one version and one part at a time, in float64."""

import math

import torch
from torch import Tensor


def weight(version: list[bool], kernel_width: float) -> float:
    """Return the weight of a version by its cosine distance to the whole."""
    product = sum(1.0 for is_left in version if is_left)
    lengths = math.sqrt(product) * math.sqrt(len(version))
    distance = 1 - (product / lengths if lengths else 0.0)
    return math.exp(-(distance**2) / (2 * kernel_width**2))


def normal_equations(
    versions: list[list[bool]], scores: list[float], weights: list[float], strength: float
) -> list[float]:
    """Return the intercept and the coefficients that minimize the weighted squares plus strength times |b|²."""
    size = len(versions[0]) + 1
    left, right = [[0.0] * size for _ in range(size)], [0.0] * size
    for version, score, share in zip(versions, scores, weights, strict=True):
        row = [1.0, *map(float, version)]
        for i in range(size):
            right[i] += share * row[i] * score
            for j in range(size):
                left[i][j] += share * row[i] * row[j]
    for i in range(1, size):
        left[i][i] += strength
    return torch.linalg.solve(
        torch.tensor(left, dtype=torch.float64), torch.tensor(right, dtype=torch.float64)
    ).tolist()


def strength_of(versions: list[list[bool]], weights: list[float], penalty: float) -> float:
    """Return penalty times the mean over parts of the sum of weights times squared deviations from the mean."""
    total, sums = sum(weights), []
    for part in range(len(versions[0])):
        mean = sum(share * version[part] for version, share in zip(versions, weights, strict=True)) / total
        sums.append(sum(share * (version[part] - mean) ** 2 for version, share in zip(versions, weights, strict=True)))
    return penalty * sum(sums) / len(sums)


def lime(present: Tensor, scores: Tensor, kernel_width: float, penalty: float) -> tuple[list[float], float]:
    """Return the coefficients, and the share of the variance that is explained by fits that leave one version out."""
    versions, values = present.tolist(), scores.tolist()
    weights = [weight(version, kernel_width) for version in versions]
    strength = strength_of(versions, weights, penalty)
    mean = sum(share * value for share, value in zip(weights, values, strict=True)) / sum(weights)
    missed = spread = 0.0
    for out in range(len(versions)):
        rest = [number for number in range(len(versions)) if number != out]
        intercept, *coefficients = normal_equations(
            [versions[n] for n in rest], [values[n] for n in rest], [weights[n] for n in rest], strength
        )
        said = intercept + sum(c for c, is_left in zip(coefficients, versions[out], strict=True) if is_left)
        missed += weights[out] * (values[out] - said) ** 2
        spread += weights[out] * (values[out] - mean) ** 2
    return normal_equations(versions, values, weights, strength)[1:], 1 - missed / spread

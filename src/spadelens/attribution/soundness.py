"""Checks that an attribution has the properties that its method guarantees, on the model at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from spadelens.attribution.running import Question, run_method
from spadelens.capture.capture import probe
from spadelens.errors import AttributionError, ModelOutputError
from spadelens.extraction.trace import swapped_weights
from spadelens.forward import class_scores
from spadelens.matrix_layers import matrix_layers
from spadelens.methods.gradient_methods import InputXGradient, Saliency
from spadelens.methods.method import Attribution, Method
from spadelens.private_copy import ensure_private

_NOT_CONSERVED = 0.05  # of the score
_ROUNDING = 1e-4  # of the score plus the sum of absolute values; or the model's machine epsilon if that is larger
_NO_FIT = 0.1
_INSENSITIVE = 0.95
_THE_SAME = 1 - 1e-5
_SHIFTS = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)  # of a feature, in standard deviations where rows are standardized
_LEAST_CHANGE, _MOST_NAMED = 1e-4, 5
_MOST_DRAWS = 5  # for a small layer, one draw may resemble its weights by chance
_WIDE = 1000  # inputs of a layer from which chance does not matter, so that one draw is enough
_LEAST_VALUES = 2  # a single number is always similar to another
_TOO_FEW = "at least one map is zero everywhere, or both have only one nonzero value."


@dataclass(frozen=True)
class Soundness:
    """The results of the soundness checks. Properties that the method does not guarantee are None.

    Attributes:
        completeness: The deviation of the sum of the values from the change in score between baseline and sample, as a
            fraction of that change; None if the score does not change.
        conservation: The sum of the relevance divided by the score; None if the score is 0.
        fit: The share of the scores' variance that the fitted linear model explains on versions it has not seen.
        gradient_similarity: Cosine similarity to the plain gradient, or to input times gradient for a method whose
            values are contributions; None for these two methods themselves and for methods without gradients.
        randomized_similarity: Absolute cosine similarity to the attribution of the same model with random weights in
            its last layer (Adebayo et al. 2018). Near 1, the map does not depend on the class. In that case, weights
            are drawn up to five times, for a layer of less than 1,000 inputs, and the lowest similarity counts.
        problems: The problems found, one or two sentences each; empty for a sound attribution.
        unchecked: The checks that could not be made, and why, one sentence each. The similarity of two maps needs two
            nonzero values.
    """

    completeness: float | None
    conservation: float | None
    fit: float | None
    gradient_similarity: float | None
    randomized_similarity: float | None
    problems: tuple[str, ...]
    unchecked: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


def check_soundness(
    method: Method, model: nn.Module, question: Question, found: Attribution, last_layer: str | None
) -> Soundness:
    """Check the attribution `found` of a sample by `method` on `model`, and return the results.

    Runs the method once more, or up to five times if the map does not change, and computes one gradient.

    Args:
        method: The method.
        model: Maps a batch of samples to class scores; in any mode.
        question: The sample and the class.
        found: As `run_method` returns it.
        last_layer: The layer that gets random weights; see `find_last_layer`.

    Raises:
        ModelOutputError: The model fails on the sample.
    """
    case = _Case(method, ensure_private(model), question, found)
    soundness = Soundness(_completeness(found), _finite(found.conservation), found.fit, None, None, ())
    if not bool(found.values.any()):
        zero = "The map is zero everywhere: according to this method, nothing in the sample affects this class."
        return replace(soundness, problems=(zero,))
    score = _score(case)
    gradient, no_gradient = _gradient_similarity(case)
    randomized, not_randomized = _randomized_similarity(case, score, last_layer)
    noise = max(_ROUNDING, torch.finfo(question.sample.dtype).eps) * (
        float(found.values.abs().double().sum()) + abs(score)
    )
    problems = (
        _completeness_problem(method, found, noise),
        _conservation_problem(found, noise),
        _fit_problem(found),
        _gradient_problem(method, gradient),
        _randomized_problem(method, randomized),
        _blind_problem(case),
    )
    return replace(
        soundness,
        gradient_similarity=gradient,
        randomized_similarity=randomized,
        problems=tuple(filter(None, problems)),
        unchecked=tuple(filter(None, (no_gradient, not_randomized))),
    )


def find_last_layer(model: nn.Module, sample: Tensor, target: int | None = None) -> str | None:
    """Return the convolution or linear layer whose weight is used last, of those that the scores depend on.

    Layers whose weight cannot be replaced are skipped. None if no layer is left.

    Args:
        model: Maps a batch of samples to class scores; in any mode.
        sample: Without a batch dimension.
        target: The class whose score must depend on the layer; None for any class.

    Raises:
        ModelOutputError: The model fails on the sample.
    """
    model = ensure_private(model)
    looked = probe(model, sample)
    layers = matrix_layers(model)
    asked = slice(None) if target is None else slice(target, target + 1)
    for name in reversed(looked.called):
        if name in looked.unsupported:
            continue
        try:
            with swapped_weights(model, {name: _drawn(layers[name].weight, 0)}):
                scores = class_scores(model, sample.unsqueeze(0))[0]
        except ModelOutputError:  # of such weights: the scores do depend on them
            return name
        if not torch.equal(scores[asked], looked.scores[asked]):
            return name
    return None


@dataclass(frozen=True, eq=False)
class _Case:
    """An attribution, and what it is one of."""

    method: Method
    model: nn.Module
    question: Question
    found: Attribution


def _score(case: _Case) -> float:
    return float(class_scores(case.model, case.question.sample.unsqueeze(0))[0, case.question.target])


def _completeness_problem(method: Method, found: Attribution, noise: float) -> str:
    delta, most_missed = found.convergence_delta, method.most_missed
    if delta is None or most_missed is None or abs(delta) <= max(most_missed * abs(_change(found, delta)), noise):
        return ""
    missed = _completeness(found)
    if missed is None:
        said = f"The values add up to {delta:.3g}, but the score equals that of the baseline: expected a sum of 0."
    else:
        said = f"The values miss the change in score by {100 * missed:.3g}% of it: expected at most {most_missed:.0%}."
    more = next((what for what in ("steps", "samples") if hasattr(method, f"num_{what}")), None)
    return f"{said} Use {'occlusion' if more is None else f'more {more}, or deep_lift'}."


def _conservation_problem(found: Attribution, noise: float) -> str:
    kept, total = _finite(found.conservation), float(found.values.double().sum())
    if kept is None or abs(kept - 1) <= _NOT_CONSERVED:
        return ""
    if kept and abs(total - total / kept) <= noise:
        return ""
    return (
        f"The relevance adds up to {kept:.3g} times the score: expected 1 within {_NOT_CONSERVED:.0%}. Use another "
        "rule or a larger epsilon."
    )


def _fit_problem(found: Attribution) -> str:
    if found.fit is None or found.fit >= _NO_FIT:
        return ""
    return (
        f"The linear model explains {max(found.fit, 0.0):.0%} of the scores' variance: expected at least "
        f"{_NO_FIT:.0%}. Use more samples or occlusion."
    )


def _gradient_problem(method: Method, similarity: float | None) -> str:
    if not method.has_rules or method.reference != "gradient" or similarity is None or similarity <= _THE_SAME:
        return ""
    return "The map equals the plain gradient: the rule of the method has no effect on this model."


def _randomized_problem(method: Method, similarity: float | None) -> str:
    if not method.has_rules or similarity is None or similarity <= _INSENSITIVE:
        return ""
    return (
        f"With random weights in the last layer, the map stays the same (similarity {similarity:.3f}): it does not "
        "depend on the class."
    )


def _blind_problem(case: _Case) -> str:
    """Return which features of a row get nothing although the score changes with them, as with category codes."""
    row, found = case.question.sample, case.found.values
    silent = (found == 0).nonzero()[:, 0].to(row.device) if case.question.kind == "row" else row.new_zeros(0)
    if not len(silent):
        return ""
    shifts = row.new_tensor(_SHIFTS)
    moved = row.repeat(len(silent), len(shifts), 1)  # [silent features, shifts, features]
    moved[torch.arange(len(silent)), :, silent] += shifts
    scores = class_scores(case.model, moved.flatten(0, 1))[:, case.question.target].view(len(silent), -1)
    change = (scores - _score(case)).abs().amax(1)
    blind = silent[change > _LEAST_CHANGE * max(float(scores.abs().max()), 1e-12)].tolist()
    if not blind:
        return ""
    named = ", ".join(map(str, blind[:_MOST_NAMED])) + (", ..." if len(blind) > _MOST_NAMED else "")
    return (
        f"The map gives exactly nothing to {len(blind)} of the features (numbered from 0: {named}), but the score "
        "changes when they change: the model reads them in steps, for example as codes of categories, which have no "
        "gradient. Use occlusion or lime."
    )


def _completeness(found: Attribution) -> float | None:
    delta = found.convergence_delta
    change = 0.0 if delta is None else _change(found, delta)
    return _finite(abs(delta / change)) if delta is not None and change else None


def _change(found: Attribution, delta: float) -> float:
    """Return the change of the score from baseline to sample, by what the values miss it."""
    return float(found.values.double().sum()) - delta


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _gradient_similarity(case: _Case) -> tuple[float | None, str]:
    """Return the similarity with the gradient that the method refers to; why there is none, where one is asked for."""
    if case.method.reference is None:
        return None, ""
    plain = InputXGradient() if case.method.reference == "input_x_gradient" else Saliency()
    unknown = "Cannot tell whether the map differs from the plain gradient:"
    try:
        other = run_method(plain, case.model, case.question).values
    except AttributionError as error:
        return None, f"{unknown} {error}"
    similarity = _cosine(case.found.values, other)
    return similarity, "" if similarity is not None else f"{unknown} {_TOO_FEW}"


def _randomized_similarity(case: _Case, score: float, last_layer: str | None) -> tuple[float | None, str]:
    """Return the least similarity with maps of random weights, up to the first that differs; why there is none."""
    why = "no layer can be given random weights."
    least: float | None = None
    if last_layer is None:
        return None, f"Cannot tell whether the map depends on the class: {why}"
    weight = matrix_layers(case.model)[last_layer].weight
    for seed in range(1 if weight[0].numel() >= _WIDE else _MOST_DRAWS):
        drawn = _drawn(weight, seed)
        with swapped_weights(case.model, {last_layer: drawn}):
            similarity, why = _similarity_to_own(case, score)
        if similarity is not None:
            least = similarity if least is None else min(least, similarity)
            if least <= _INSENSITIVE:
                break
    return least, "" if least is not None else f"Cannot tell whether the map depends on the class: {why}"


def _similarity_to_own(case: _Case, score: float) -> tuple[float | None, str]:
    """Return the similarity with the map of the model as it is now, with random weights; why there is none."""
    where = "with random weights in the last layer"
    try:
        if _score(case) == score:
            return None, f"{where}, the score stays the same."
        other = run_method(case.method, case.model, case.question).values
    except (AttributionError, ModelOutputError) as error:  # there is an answer on the model, but none on this one
        return None, f"{where}, the method fails. {error}"
    similarity = _cosine(case.found.values, other)
    return (None, f"{where}, {_TOO_FEW}") if similarity is None else (abs(similarity), "")


def _drawn(weight: Tensor, seed: int) -> Tensor:
    """Return random weights around 0, on average as large as `weight`; where it is zero, as layers usually begin."""
    draw = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    size = float(weight.detach().float().square().mean().sqrt()) or (len(weight) / weight.numel()) ** 0.5
    return (size * draw).to(weight)


def _cosine(first: Tensor, second: Tensor) -> float | None:
    """Return the cosine similarity of two maps; None where one is zero everywhere, or both are but for one value."""
    first, second = first.double().flatten(), second.double().flatten()
    lengths = float(first.norm()) * float(second.norm())
    if not lengths or int(((first != 0) | (second != 0)).sum()) < _LEAST_VALUES:
        return None
    return max(-1.0, min(float(first @ second) / lengths, 1.0))

"""Runs models on batches: private copies in evaluation mode, as they are written, and checks the scores."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from spadelens.eager import run_as_written
from spadelens.errors import ModelOutputError, SpadeError
from spadelens.prediction import Outputs, Scale, check_outputs, scale_of
from spadelens.private_copy import ensure_private
from spadelens.randomness import is_only_thread, seeded, undisturbed_random_states

_MISSING = re.compile(r"missing \d+ required positional arguments?: (.+)")
_REARRANGING = ("View", "ReshapeAlias", "UnsafeView", "Squeeze", "Unsqueeze", "Clone", "ToCopy", "Alias")
"""Steps of the autograd graph that leave every number as it is."""


@contextmanager
def running(model: nn.Module) -> Iterator[nn.Module]:
    """Give a private copy of `model` (itself, if it is one), whose compiled parts run as written inside the block.

    The random states that a forward pass draws from are put back, unless other threads draw from them as well.
    """
    with run_as_written(), undisturbed_random_states():
        yield ensure_private(model)


def class_scores(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the scores `[batch, classes]` of `model`, without gradients, checked to be finite.

    Raises:
        ModelOutputError: The model fails on such a batch, or returns anything else than finite scores.
    """
    with running(model) as private, torch.no_grad():
        try:
            scores = private(batch.clone())  # a model may begin with an operation in place
        except SpadeError:  # from a consumer of ours that the pass has called
            raise
        except (Exception, SystemExit) as error:
            raise ModelOutputError(
                f"The model cannot be run on a batch of shape {list(batch.shape)}: "
                f"{type(error).__name__}: {str(error).strip() or 'no message'}{_hint(batch, error)}"
            ) from error
    return check_scores(scores, len(batch))


def _hint(batch: Tensor, error: BaseException) -> str:
    if isinstance(error, IndexError) and "out of range in self" in str(error):
        return (
            ". A value that the model looks up in an embedding (a category code, a token) is below zero or beyond its "
            "last row: check the codes of the sample, and whether they are standardized (MEAN, STD)."
        )
    missing = _MISSING.search(str(error)) if isinstance(error, TypeError) else None
    if missing is not None:
        return (
            f". The model takes several inputs, and one is explained: bind {missing[1]} in a module whose "
            "forward takes the explained one alone."
        )
    has_two = batch.dim() >= 5 and batch.shape[:2] == (1, 1)
    return ". Samples come without a batch dimension: pass sample[0]." if has_two else ""


def check_scores(scores: Any, batch_size: int) -> Tensor:
    """Return `scores` if they are finite numbers `[batch_size, classes]` with at least two classes.

    Raises:
        ModelOutputError: They are not.
    """
    expected = f"expected a tensor of class scores [{batch_size}, classes]"
    if not isinstance(scores, Tensor):
        raise ModelOutputError(
            f"The model returned a {type(scores).__name__}: {expected}. Wrap it in a module that returns "
            f"{_scores_in(scores, batch_size)}."
        )
    if scores.is_floating_point() and scores.shape in ((batch_size, 1), (batch_size,)):
        raise ModelOutputError(
            f"The model returned one number per sample, of shape {list(scores.shape)}: {expected} with at least two "
            "classes. For a yes-or-no logit z, wrap it in a module that returns [0, z]: torch.cat([0 * z, z], dim=1)."
        )
    if scores.dim() != 2 or scores.shape[0] != batch_size or scores.shape[1] < 2 or not scores.is_floating_point():
        raise ModelOutputError(
            f"The model returned a tensor of shape {list(scores.shape)} and type {scores.dtype}: {expected} "
            "with at least two classes. Wrap it in a module that returns the scores."
        )
    if not bool(torch.isfinite(scores).all()):
        raise ModelOutputError(
            "The model returned scores that are not finite (NaN or infinity). "
            "Check its weights and the normalization of the input."
        )
    return scores.detach()


def _scores_in(output: Any, batch_size: int) -> str:
    """Return where the scores seem to be in what a model returned, in words."""
    if isinstance(output, Mapping):
        parts = [(f"its entry {key!r}", value) for key, value in output.items()]
    elif hasattr(output, "_fields") or dataclasses.is_dataclass(output):
        names = getattr(output, "_fields", None) or [field.name for field in dataclasses.fields(output)]
        parts = [(f"its attribute .{name}", getattr(output, name)) for name in names]
    elif isinstance(output, Sequence):
        parts = [(f"its element {number}", value) for number, value in enumerate(output)]
    else:
        parts = []
    for words, value in parts:
        if isinstance(value, Tensor) and value.dim() == 2 and len(value) == batch_size and value.shape[1] > 1:
            return f"the scores, which seem to be {words}"
    return "the scores"


def check_repeatable(model: nn.Module, sample: Tensor, scores: Tensor) -> None:
    """Reject a model that does not always give `scores` `[classes]` for `sample`, whatever else is run with it.

    The sample is run together with noise of its size. A model that cannot run two samples together passes, unless it
    gives other scores when the sample is run alone again.

    Raises:
        ModelOutputError: The scores are random, or depend on the other samples of a batch.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(sample.shape, generator=generator, dtype=torch.float32).to(sample)
    other = noise * (float(sample.float().square().mean().sqrt()) or 1.0)
    try:
        with _other_draws(1, sample):
            change = _change(class_scores(model, torch.stack([other, sample]))[1], scores)
    except ModelOutputError:
        change = _change(_alone(model, sample), scores)
    allowed = max(1e-3, 8 * torch.finfo(scores.dtype).eps)
    if change <= allowed:
        return
    if _change(_alone(model, sample), scores) > allowed:
        raise ModelOutputError(
            "The model returns different scores each time it is run on the same sample, so no explanation of one run "
            "holds for the next. Look for dropout that is always on (F.dropout without training=self.training) or "
            "random draws in forward, and switch them off in evaluation mode."
        )
    raise ModelOutputError(
        f"The scores of a sample depend on the other samples in its batch (they change by {change:.1%}), for example "
        "because of BatchNorm without running statistics. Samples that are run together would be explained wrongly: "
        "give such layers running statistics, or wrap the model so that it runs the samples of a batch one by one."
    )


def _generating(sample: Tensor) -> torch.device | None:
    """Return the device whose random state a model may draw from, besides that of the CPU."""
    return sample.device if sample.device.type == "cuda" or torch.backends.mps.is_available() else None


def _other_draws(seed: int, sample: Tensor) -> AbstractContextManager[None]:
    """Return what lets a model draw other numbers than in its last pass.

    Random states are put back after a pass, so it takes another seed; beside other threads they are not put back.
    """
    return seeded(seed, _generating(sample)) if is_only_thread() else nullcontext()


def _alone(model: nn.Module, sample: Tensor) -> Tensor:
    with _other_draws(2, sample):
        return class_scores(model, sample.unsqueeze(0))[0]


def _change(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of scores, relative to the largest score."""
    size = float(expected.abs().max())
    return float((found - expected).abs().max()) / size if size else float((found - expected).abs().max())


def scale_for(model: nn.Module, sample: Tensor, scores: Tensor, outputs: Outputs | None = None) -> Scale:
    """Return what kind of numbers the scores `[classes]` of a sample are, as the model and its caller say.

    Scores that are not negative and add up to 1 are probabilities of classes; other scores that come out of a sigmoid
    are probabilities of labels. The rest are logits: of classes, unless the caller says that they are of labels, which
    nothing in the model can show.

    Raises:
        UnknownNameError: There is no such kind of outputs.
    """
    check_outputs(outputs)
    scale = scale_of(scores, outputs)
    is_bounded = bool(((scores >= 0) & (scores <= 1)).all())
    if outputs == "classes" or scale == "probabilities" or not is_bounded:
        return scale
    return scale_of(scores, outputs, _ends_in_sigmoid(model, sample))


def _ends_in_sigmoid(model: nn.Module, sample: Tensor) -> bool:
    with running(model) as private, torch.inference_mode(False), torch.enable_grad():
        batch = sample.detach().unsqueeze(0).clone().requires_grad_()
        scores = private(batch.clone())  # a model may begin with an operation in place
    step = scores.grad_fn if isinstance(scores, Tensor) else None
    while step is not None and step.name().removesuffix("Backward0") in _REARRANGING and step.next_functions:
        step = step.next_functions[0][0]
    return step is not None and step.name() == "SigmoidBackward0"

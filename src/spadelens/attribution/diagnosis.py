"""The diagnosis of a model: a verdict on every attribution method, and the layers that a trace can prune."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from torch import Tensor, nn

from spadelens.attribution.attribution import attribute
from spadelens.attribution.soundness import Soundness
from spadelens.capture.capture import probe
from spadelens.errors import AttributionError, ModelOutputError
from spadelens.forward import class_scores
from spadelens.inputs.checks import check_sample
from spadelens.matrix_layers import matrix_layers
from spadelens.methods.method import Method
from spadelens.methods.registry import METHODS
from spadelens.settings import configured_name

_UNUSED = "its weight is not used on this sample"


class Verdict(str, Enum):
    """The verdict on a method for a model."""

    SOUND = "sound"
    DOUBTFUL = "doubtful"
    REFUSED = "refused"


@dataclass(frozen=True)
class MethodDiagnosis:
    """One method on a model and a sample.

    Attributes:
        method: Its name, with the settings that differ from their defaults.
        verdict: Whether the method is sound, doubtful or refused.
        reason: Why it is doubtful or refused; empty for a sound method.
        soundness: The results of the checks; None if the method is refused.
        seconds: The time of an attribution with its checks.
    """

    method: str
    verdict: Verdict
    reason: str
    soundness: Soundness | None
    seconds: float


@dataclass(frozen=True)
class LayerDiagnosis:
    """The layers of a model that a trace can and cannot prune.

    Attributes:
        prunable: The layers that a trace can prune.
        refused: Name of each layer that it cannot prune -> the reason.
    """

    prunable: tuple[str, ...]
    refused: Mapping[str, str]


def diagnose_methods(
    model: nn.Module, sample: Tensor, methods: Sequence[Method] | None = None, target: int | None = None
) -> list[MethodDiagnosis]:
    """Return the verdict on every method, or on `methods`, for the class `target`, by default the predicted one.

    Raises:
        InputError: The sample cannot be explained; ModelOutputError: the model fails on it.
    """
    return [
        diagnose_method(model, sample, method, target)
        for method in ([cls() for cls in METHODS.values()] if methods is None else methods)
    ]


def diagnose_method(model: nn.Module, sample: Tensor, method: Method, target: int | None = None) -> MethodDiagnosis:
    """Return the verdict on one method; raises the same errors as `diagnose_methods`."""
    name = configured_name(method, METHODS)
    class_scores(
        model, check_sample(model, sample).unsqueeze(0)
    )  # a failure of the model is not a failure of the method
    start = time.perf_counter()
    try:
        soundness = attribute(model, sample, method, target=target).soundness
    except (AttributionError, ModelOutputError) as error:
        return MethodDiagnosis(name, Verdict.REFUSED, str(error), None, time.perf_counter() - start)
    assert soundness is not None
    verdict = Verdict.SOUND if soundness.is_sound else Verdict.DOUBTFUL
    return MethodDiagnosis(name, verdict, " ".join(soundness.problems), soundness, time.perf_counter() - start)


def diagnose_layers(model: nn.Module, sample: Tensor) -> LayerDiagnosis:
    """Return which convolutions and linear layers a trace for the sample can prune.

    Raises:
        ModelOutputError: The model fails on the sample.
    """
    looked = probe(model, sample)
    unused = {name: _UNUSED for name in matrix_layers(model) if name not in looked.called}
    refused = {**unused, **looked.unsupported}
    return LayerDiagnosis(tuple(name for name in looked.called if name not in refused), refused)

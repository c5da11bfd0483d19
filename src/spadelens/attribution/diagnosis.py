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
from spadelens.errors import AttributionError, InputError, ModelOutputError
from spadelens.forward import class_scores
from spadelens.inputs.checks import check_sample, check_target
from spadelens.matrix_layers import matrix_layers
from spadelens.methods.method import Method
from spadelens.methods.registry import METHODS
from spadelens.progress import ProgressLike
from spadelens.progress_bars import reporting
from spadelens.settings import configured_name, parse_configured

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


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What works on a model, as one sample shows.

    Attributes:
        target: The class whose score was attributed.
        methods: The verdict on every method.
        layers: The layers that a trace can prune.
    """

    target: int
    methods: tuple[MethodDiagnosis, ...]
    layers: LayerDiagnosis

    def __repr__(self) -> str:
        """Count the verdicts and the layers."""
        verdicts = [one.verdict for one in self.methods]
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict.value}" for verdict in Verdict)
        num_layers = len(self.layers.prunable) + len(self.layers.refused)
        layers = f"{len(self.layers.prunable)} of {num_layers} layers prunable"
        return f"<Diagnosis for class {self.target}: {len(self.methods)} methods ({counts}), {layers}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from spadelens.attribution.diagnosis_shown import diagnosis_html

        return diagnosis_html(self)


def diagnose(
    model: nn.Module,
    sample: Tensor,
    methods: Sequence[str | Method] | None = None,
    *,
    target: int | None = None,
    progress: ProgressLike | None = None,
) -> Diagnosis:
    """Return which attribution methods are sound on a model, and which of its layers a trace can prune.

    Args:
        model: As in `attribute`.
        sample: As in `attribute`.
        methods: The methods to try, by name or as objects; None for all of them.
        target: The class; None for the predicted one.
        progress: True for a progress bar, as in `extract_trace`; or called as progress('diagnose', methods done, all
            methods).

    Raises:
        InputError: The sample or the target cannot be explained; UnknownNameError: there is no such method.
        ModelOutputError: The model fails on the sample.
    """
    wanted = parse_methods(methods)
    scores = class_scores(model, check_sample(model, sample).unsqueeze(0))[0]
    target = int(scores.argmax()) if target is None else check_target(target, len(scores))
    found = []
    with reporting(progress) as report:
        for number, method in enumerate(wanted):
            report("diagnose", number, len(wanted))
            found.append(diagnose_method(model, sample, method, target))
        report("diagnose", len(wanted), len(wanted))
    return Diagnosis(target, tuple(found), diagnose_layers(model, sample))


def parse_methods(methods: Sequence[str | Method] | None) -> list[Method]:
    """Return methods given by name, with settings as in 'lrp:rule=gamma', or as objects; all methods for none.

    Raises:
        UnknownNameError: There is no such method or setting; InputError: a setting is out of range, or a single name
            was given in place of a list.
    """
    if isinstance(methods, str):
        raise InputError(f"Cannot diagnose the methods {methods!r}: expected a list, such as [{methods!r}].")
    return [parse_configured("method", one, METHODS) if isinstance(one, str) else one for one in methods or METHODS]


def diagnose_method(model: nn.Module, sample: Tensor, method: Method, target: int | None = None) -> MethodDiagnosis:
    """Return the verdict on one method; raises the same errors as `diagnose`."""
    name = configured_name(method, METHODS)
    class_scores(model, check_sample(model, sample).unsqueeze(0))  # the model's failure is not the method's
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

"""The report of a trace: settings, predictions and every layer, as plain data."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import version
from typing import Any, Literal, TypeAlias

from spadelens.kinds import Kind, read_kind
from spadelens.prediction import OUTPUTS, Prediction

Status: TypeAlias = Literal["kept", "hardly pruned", "lost"]
HARDLY_PRUNED = 0.01


class Outcome(str, Enum):
    """The outcome for a layer."""

    PRUNED = "pruned"
    UNPRUNED = "unpruned"
    EXCLUDED = "excluded"
    NOT_CALLED = "not called"
    UNSUPPORTED = "unsupported"
    TOO_LARGE = "too large"


@dataclass(frozen=True)
class LayerReport:
    """One convolution or linear layer of the model, or a weight that no such layer holds.

    Attributes:
        name: Its qualified name.
        kind: Its class, such as 'Conv2d'.
        shape: The shape of its weight.
        outcome: Whether it was pruned, and if not, why.
        detail: The reason why it was not pruned, or the solver note.
        sparsity: The fraction of its weights that were pruned.
        error: ||(W' - W) X||² / ||W X||² on the views, or None if nothing was pruned.
        held_out_error: The same on views that the solver did not see, or None if there were none.
        seconds: The time for solving the layer.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    outcome: Outcome
    detail: str = ""
    sparsity: float = 0.0
    error: float | None = None
    held_out_error: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class PathPoint:
    """One trace that a search tried.

    Attributes:
        error_bound: Every layer has the highest sparsity whose error on the views is within this bound.
        sparsity: The fraction of weights pruned, over the layers that are searched.
        probability: The probability of the explained class on the sample.
        is_prediction_kept: Whether the trace predicts the same class as the original model.
        kept: The value of the criterion: 1 if nothing is lost.
    """

    error_bound: float
    sparsity: float
    probability: float
    is_prediction_kept: bool
    kept: float


@dataclass(frozen=True)
class SearchReport:
    """How a searched schedule was found.

    Attributes:
        criterion: What was measured.
        threshold: The minimum value of the criterion.
        points: The traces tried, in ascending order of their bounds.
        chosen_bound: The bound of the chosen trace; None if no trace was accepted and no layer is pruned.
    """

    criterion: str
    threshold: float
    points: tuple[PathPoint, ...]
    chosen_bound: float | None


@dataclass(frozen=True, repr=False)
class TraceReport:
    """Everything about a trace except its weights.

    Attributes:
        layers: Every convolution and linear layer, in the order in which the model calls them, uncalled layers last;
            then the weights that no such layer holds (of embeddings, for example), which are not pruned.
        original_prediction: The original model's prediction for the sample.
        trace_prediction: The trace's prediction for the sample.
        settings: How the trace was made: solver, schedule, augmentation, num_views, num_held_out_views, seed, ...
        seconds: Stage -> time in seconds.
        versions: Package -> version.
        target: The explained class.
        kind: The kind of input.
        search: How the schedule was found; None for a fixed schedule.
    """

    layers: tuple[LayerReport, ...]
    original_prediction: Prediction
    trace_prediction: Prediction
    settings: Mapping[str, Any]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    target: int
    kind: Kind
    search: SearchReport | None = None

    def __repr__(self) -> str:
        """Summarize the outcome."""
        layers = f"{len(self.pruned_layers)} of {len(self.layers)} layers"
        return f"<TraceReport for class {self.target}: {self.status}, {self.sparsity:.1%} pruned, {layers}>"

    @property
    def is_prediction_kept(self) -> bool:
        """Whether the original model and the trace predict the same class."""
        return self.original_prediction.answer == self.trace_prediction.answer

    @property
    def is_target_kept(self) -> bool:
        """Whether the trace says of the explained class or label what the original model says of it.

        A class has to have the same rank in the trace or a higher one. A label has to apply for both or for neither.
        """
        if self.original_prediction.outputs == "labels":
            return (self.target in self.original_prediction.answer) == (self.target in self.trace_prediction.answer)
        original, trace = (
            sum(value > one.probabilities[self.target] for value in one.probabilities)
            for one in (self.original_prediction, self.trace_prediction)
        )
        return trace <= original

    @property
    def status(self) -> Status:
        """Whether the trace can explain the prediction.

        'lost' if the trace no longer says of the explained class what the original model says, 'hardly pruned' if it
        prunes less than 1 % of the weights, so that it is nearly the original model, else 'kept'.
        """
        if not self.is_target_kept:
            return "lost"
        return "hardly pruned" if self.sparsity < HARDLY_PRUNED else "kept"

    @property
    def sparsity(self) -> float:
        """The fraction of all weights of the model that are pruned; biases and other vectors are not counted."""
        sizes = [math.prod(layer.shape) for layer in self.layers]
        pruned = sum(round(layer.sparsity * size) for layer, size in zip(self.layers, sizes, strict=True))
        return pruned / sum(sizes) if sizes else 0.0

    @property
    def num_classes(self) -> int:
        """The number of classes of the model."""
        return len(self.original_prediction.probabilities)

    @property
    def pruned_layers(self) -> tuple[LayerReport, ...]:
        """The layers that were pruned."""
        return tuple(layer for layer in self.layers if layer.outcome is Outcome.PRUNED)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-serializable data."""
        data = dataclasses.asdict(self)
        data["is_prediction_kept"] = self.is_prediction_kept
        for layer in data["layers"]:
            layer["outcome"] = layer["outcome"].value
            layer["shape"] = list(layer["shape"])
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TraceReport:
        """Rebuild a report from the result of `to_dict`; raises KeyError, TypeError or ValueError on other data."""
        search = data["search"]
        if search is not None:
            search = SearchReport(**{**search, "points": tuple(PathPoint(**point) for point in search["points"])})
        return cls(
            layers=tuple(
                LayerReport(**{**layer, "shape": tuple(layer["shape"]), "outcome": Outcome(layer["outcome"])})
                for layer in data["layers"]
            ),
            original_prediction=_read_prediction(data["original_prediction"]),
            trace_prediction=_read_prediction(data["trace_prediction"]),
            settings=dict(data["settings"]),
            seconds=dict(data["seconds"]),
            versions=dict(data["versions"]),
            target=int(data["target"]),
            kind=read_kind(data["kind"]),
            search=search,
        )


def _read_prediction(data: Mapping[str, Any]) -> Prediction:
    if data["outputs"] not in OUTPUTS:
        raise ValueError(f"there is no kind of outputs {data['outputs']!r}")
    return Prediction(tuple(map(float, data["probabilities"])), data["outputs"])


def package_versions() -> dict[str, str]:
    """Return the versions of this library, its numerical dependencies and Python."""
    packages = ("spadelens", "torch", "torchvision", "captum")
    return {package: version(package) for package in packages} | {"python": platform.python_version()}

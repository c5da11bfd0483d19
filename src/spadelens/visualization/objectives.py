"""Objectives to maximize: the score of a class, a channel, a neuron, a direction or a difference of two."""

from __future__ import annotations

import hashlib
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from torch import Tensor, nn

from spadelens.errors import InputError, ModelOutputError, SpadeError, UnknownNameError
from spadelens.hooks import forward_hooks
from spadelens.inputs.checks import check_target
from spadelens.models import find_class

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)  # of any number of axes
_CHANNELS_LAST = (nn.Linear, nn.Embedding)
_FORMS = (
    "expected class:NAME, LAYER:CHANNEL, LAYER:CHANNEL@ROW,COLUMN, LAYER:CHANNEL@center, or the difference of two, "
    "joined by ' - '"
)
_MOST_CLASSES = 10**9  # where the number is not known yet


class Objective(ABC):
    """A value for each input of a batch, to be maximized.

    Attributes:
        layers: Names of the modules whose outputs it reads.
    """

    layers: tuple[str, ...] = ()

    @abstractmethod
    def read(self, scores: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the numbers `[B]`, given the class scores `[B, classes]` and layer name -> output.

        Outputs have their channels on axis 1: `[B, channels]` or `[B, channels, ...]`.
        """

    @abstractmethod
    def spec(self) -> str:
        """Return what `parse_objective` understands, or a description."""


ObjectiveLike: TypeAlias = Objective | Callable[[nn.Module, Tensor], Tensor]


@final
@dataclass(frozen=True)
class ClassScore(Objective):
    """The score of a class, before any softmax of ours."""

    index: int

    def read(self, scores: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the score."""
        del outputs
        return scores[:, check_target(self.index, scores.shape[1])]

    def spec(self) -> str:
        """Return the text for it."""
        return f"class:{self.index}"


@final
@dataclass(frozen=True)
class Channel(Objective):
    """The mean of one channel of a layer's output over all positions; of a linear layer's output, one neuron."""

    layer: str
    index: int

    @property
    def layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the layer."""
        return (self.layer,)

    def read(self, scores: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the mean."""
        del scores
        values = _channel(outputs[self.layer], self.index, f"layer {self.layer!r}")
        return values.reshape(len(values), -1).mean(1)

    def spec(self) -> str:
        """Return the text for it."""
        return f"{self.layer}:{self.index}"


@final
@dataclass(frozen=True)
class Neuron(Objective):
    """One channel of a layer's output at one position; by default the center."""

    layer: str
    index: int
    position: tuple[int, ...] | None = None

    @property
    def layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the layer."""
        return (self.layer,)

    def read(self, scores: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the value."""
        del scores
        values = _channel(outputs[self.layer], self.index, f"layer {self.layer!r}")
        position = tuple(size // 2 for size in values.shape[1:]) if self.position is None else self.position
        fits = len(position) == values.dim() - 1
        if not fits or not all(0 <= at < size for at, size in zip(position, values.shape[1:], strict=True)):
            raise InputError(
                f"Layer {self.layer!r} has no position {list(position)}: expected one within {list(values.shape[1:])}."
            )
        for at in position:
            values = values[:, at]
        return values

    def spec(self) -> str:
        """Return the text for it."""
        return f"{self.layer}:{self.index}@" + (
            "center" if self.position is None else ",".join(map(str, self.position))
        )


@final
@dataclass(frozen=True, eq=False)
class Direction(Objective):
    """The mean over all positions of a layer's output along a direction `[channels]`, such as a concept vector."""

    layer: str
    direction: Tensor

    @property
    def layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the layer."""
        return (self.layer,)

    def read(self, scores: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the product of the mean and the direction."""
        del scores
        output = outputs[self.layer]
        if self.direction.shape != (output.shape[1],):
            raise InputError(
                f"Cannot follow a direction of shape {list(self.direction.shape)} in layer {self.layer!r}: expected "
                f"[{output.shape[1]}]."
            )
        return output.reshape(*output.shape[:2], -1).mean(2) @ self.direction.to(output)

    def spec(self) -> str:
        """Return a description, with the beginning of a hash of the direction."""
        values = self.direction.detach().cpu().double().contiguous().numpy().tobytes()
        return f"direction {hashlib.sha256(values).hexdigest()[:8]} in {self.layer}"


@final
@dataclass(frozen=True)
class Difference(Objective):
    """One objective minus another."""

    first: Objective
    second: Objective

    @property
    def layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the layers of both."""
        return tuple(dict.fromkeys((*self.first.layers, *self.second.layers)))

    def read(self, scores: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the difference."""
        return self.first.read(scores, outputs) - self.second.read(scores, outputs)

    def spec(self) -> str:
        """Return the text for it; parts that are differences themselves are in brackets, and have no such text."""
        first, second = (
            f"({part.spec()})" if isinstance(part, Difference) else part.spec() for part in (self.first, self.second)
        )
        return f"{first} - {second}"


def parse_objective(text: str, class_names: Sequence[str] = (), num_classes: int | None = None) -> Objective:
    """Return the objective that `text` names.

    Args:
        text: 'class:NAME', 'class:7' or '7' for a class; 'LAYER:7' for a channel; 'LAYER:7@3,4' or 'LAYER:7@center' for
            a neuron; and 'A - B', with spaces, for the difference of two.
        class_names: Of the model, for classes by name.
        num_classes: Of the model, where it is known.

    Raises:
        InputError: The text is none of these; UnknownNameError: there is no such class.
    """
    bare = text.strip().removeprefix("class:").strip()
    if bare.lower() in {name.lower() for name in class_names}:  # whatever signs it holds
        return ClassScore(_find_class(bare, class_names, num_classes))
    first, minus, second = text.partition(" - ")
    if minus:
        if " - " in second:
            raise InputError(f"Cannot read the unit {text!r}: {_FORMS}.")
        return Difference(*(parse_objective(part, class_names, num_classes) for part in (first, second)))
    layer, _, unit = text.strip().rpartition(":")
    if layer in ("", "class"):
        return ClassScore(_find_class(unit, class_names, num_classes))
    found = re.fullmatch(r"([0-9]{1,9})(?:@(center|[0-9]{1,9}(?:,[0-9]{1,9})*))?", unit)
    if not found:
        raise InputError(f"Cannot read the unit {text!r}: {_FORMS}.")
    index, place = int(found[1]), found[2]
    if place is None:
        return Channel(layer, index)
    return Neuron(layer, index, None if place == "center" else tuple(map(int, place.split(","))))


def as_objective(objective: str | int | ObjectiveLike, versus: int | None = None) -> ObjectiveLike:
    """Return what is to be maximized.

    Args:
        objective: A string as in `parse_objective`, the number of a class, an objective or a callable.
        versus: Another class, whose score is subtracted from that of the class that `objective` is.

    Raises:
        InputError: The objective is none of these, or it is not a class and is compared with one, or with itself.
    """
    parsed = parse_objective(objective) if isinstance(objective, str) else _as_class(objective)
    if not isinstance(parsed, Objective) and not callable(parsed):
        raise InputError(
            f"Cannot maximize {objective!r}: expected a string, the number of a class, an Objective or a callable."
        )
    if versus is None:
        return parsed
    other = _as_class(versus)
    if not isinstance(other, ClassScore):
        raise InputError(f"There is no class {versus!r}: expected the number of a class.")
    if not isinstance(parsed, ClassScore):
        raise InputError(f"Cannot compare {describe_objective(parsed)!r} with class {other.index}: it is not a class.")
    if parsed == other:
        raise InputError(f"Cannot compare the class {other.index} with itself: name another class.")
    return Difference(parsed, other)


def _as_class(value: Any) -> Any:
    """Return the score of a class where `value` is a whole number of Python, NumPy or torch, and else `value`."""
    if isinstance(value, bool):
        return value
    try:
        return ClassScore(operator.index(value))
    except (TypeError, ValueError):
        return value


def _find_class(unit: str, class_names: Sequence[str], num_classes: int | None) -> int:
    if not class_names and not unit.strip().isdecimal():
        raise InputError(
            f"There is no class {unit!r}: the class names are not known, so use a number. For a unit of a layer: "
            f"{_FORMS}."
        )
    return find_class(unit, tuple(class_names), _MOST_CLASSES if num_classes is None else num_classes)


def describe_objective(objective: ObjectiveLike) -> str:
    """Return a short description."""
    if isinstance(objective, Objective):
        return objective.spec()
    return f"callable {getattr(objective, '__qualname__', None) or repr(objective)}"


def evaluate(objective: ObjectiveLike, model: nn.Module, batch: Tensor) -> Tensor:
    """Return the objective for each input of `batch`, `[B]`, differentiable; hooks last for this one pass.

    Raises:
        InputError: There is no such layer, channel or position, or the layer is not called once with one tensor.
        ModelOutputError: The model fails, or does not return class scores.
    """
    if not isinstance(objective, Objective):
        values: Any = objective(model, batch)
        if not isinstance(values, Tensor) or values.shape != (len(batch),) or not values.is_floating_point():
            got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise InputError(f"The objective returned {got}: expected one number for each of {len(batch)} inputs.")
        return values
    with _outputs_of(model, objective.layers) as outputs:
        try:
            scores = model(batch)
        except SpadeError:
            raise
        except Exception as error:
            raise ModelOutputError(
                f"The model cannot be run on a batch of shape {list(batch.shape)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != len(batch):
            got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ModelOutputError(f"The model returned {got}: expected a tensor of class scores [batch, classes].")
        missing = [layer for layer in objective.layers if layer not in outputs]
        if missing:
            raise InputError(f"Cannot visualize a unit of layer {missing[0]!r}: the model does not call it.")
        return objective.read(scores, outputs)


@contextmanager
def _outputs_of(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect what the named modules return in one pass within the block, with channels on axis 1."""
    modules = dict(model.named_modules(remove_duplicate=False))
    outputs: dict[str, Tensor] = {}

    def keep(layer: str, module: nn.Module, _: Any, output: Any) -> None:
        if layer in outputs:
            raise InputError(
                f"Layer {layer!r} is called more than once in a forward pass: choose a layer that is called once."
            )
        if not isinstance(output, Tensor) or output.dim() < 2:
            raise InputError(f"Layer {layer!r} does not return one tensor [batch, channels, ...].")
        # A copy: what comes next may work in place, and a unit before its activation would become one behind it.
        outputs[layer] = (output.movedim(-1, 1) if _is_channels_last(module, output) else output).clone()

    for layer in layers:
        if layer not in modules or not layer:
            raise UnknownNameError("layer", layer, [name for name in modules if name])
    with forward_hooks({layer: modules[layer] for layer in layers}, keep):
        yield outputs


def _is_channels_last(module: nn.Module, output: Tensor) -> bool:
    """Whether channels are the last axis: of tokens `[B, T, C]`, and of layers that work on the last axis."""
    if isinstance(module, _CHANNELS_FIRST):
        return False
    return isinstance(module, _CHANNELS_LAST) or type(module) is nn.LayerNorm or output.dim() == 3


def _channel(output: Tensor, index: int, where: str) -> Tensor:
    if not 0 <= index < output.shape[1]:
        raise InputError(f"There is no unit {index} in {where}: it has {output.shape[1]} units, numbered from 0.")
    return output[:, index]

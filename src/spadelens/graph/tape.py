"""A pass of a model recorded as a list of functional steps, and backward passes over it with custom rules.

Hooks see modules only. They miss or confuse activations that are called as functions, in place, or several times from
one module, so that a rule meant to replace their gradient is silently not applied. A tape is recorded below that level,
where every operation of torch has one name and none works in place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from spadelens.errors import AttributionError, ModelOutputError
from spadelens.graph.decompositions import DECOMPOSITIONS, cosine_similarity

_OF_THE_SHAPE = ("new_", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")
_HALVES = (torch.float16, torch.bfloat16)
_TOLERANCE, _NUM_ROUNDINGS = 1e-3, 20
_OUT_OF_TORCH = frozenset({"numpy", "tolist", "__array__", "__dlpack__"})
_RECORDING = threading.RLock()  # which kernels compute attention is a setting of the whole process


@dataclass(frozen=True)
class _Slot:
    """Placeholder in the arguments of a step for a value that depends on the input."""

    number: int


@dataclass(frozen=True, eq=False)
class Step:
    """One operation with at least one argument that depends on the model's input.

    Attributes:
        name: The name of the operation, without namespace and overload, such as 'convolution'.
        operation: The function to call.
        inputs: The numbers of the arguments that depend on the model's input, in order.
        outputs: The numbers of the values that it returns; None for those that are not tensors.
    """

    name: str
    operation: Callable[..., Any]
    inputs: tuple[int, ...]
    outputs: tuple[int | None, ...]
    _arguments: tuple[Any, ...]
    _structure: TreeSpec

    @classmethod
    def of(cls, name: str, operation: Callable[..., Any], inputs: Sequence[int], outputs: Sequence[int | None]) -> Step:
        """Return the step that calls `operation` with the values `inputs` and no other arguments."""
        flat, structure = tree_flatten((tuple(_Slot(number) for number in inputs), {}))
        return cls(name, operation, tuple(inputs), tuple(outputs), tuple(flat), structure)

    @property
    def output(self) -> int:
        """The number of the first value that it returns."""
        assert self.outputs[0] is not None
        return self.outputs[0]

    @property
    def constants(self) -> tuple[Any, ...]:
        """The arguments that do not depend on the model's input."""
        return tuple(item for item in self._arguments if not isinstance(item, _Slot))

    def arguments(self, values: Sequence[Tensor]) -> dict[str, Any]:
        """Return all arguments by their names in the operator's schema, with `values` for the inputs.

        Arguments that were not given have their defaults. Only operators of torch have a schema; steps made by `of` do
        not.
        """
        args, kwargs = self._filled(values)
        return _named_arguments(self.operation, args, kwargs)

    def run(self, values: Sequence[Tensor]) -> tuple[Any, ...]:
        """Return the outputs for the given inputs."""
        args, kwargs = self._filled(values)
        return _as_tuple(self.operation(*args, **kwargs))

    def is_input(self, name: str) -> bool:
        """Whether the argument `name` depends on the model's input."""
        return self.arguments([_MARK] * len(self.inputs))[name] is _MARK

    def _filled(self, values: Sequence[Tensor]) -> tuple[Any, Any]:
        remaining = iter(values)
        flat = [next(remaining) if isinstance(item, _Slot) else item for item in self._arguments]
        args, kwargs = tree_unflatten(flat, self._structure)
        return args, kwargs


_MARK = torch.empty(0)

Values: TypeAlias = Mapping[int, Tensor]
BackwardRule: TypeAlias = Callable[[Step, "Sequence[Tensor | None]"], "Sequence[Tensor | None]"]
"""Maps a step and the messages that have arrived at its outputs (None for no message) to messages for its inputs."""


@dataclass(frozen=True, eq=False)
class Tape:
    """A pass of a model on one input.

    Attributes:
        steps: The operations, in order.
        values: Number -> value, for the input and everything that depends on it; in float32 if the model computes in
            half precision. They take as much memory as the activations of a training step.
        source: The number of the input.
        scores: The number of the class scores.
    """

    steps: tuple[Step, ...]
    values: Values
    source: int
    scores: int

    def forward(self, batch: Tensor) -> Values:
        """Run the steps on another input of the same shape and return all values; the recorded control flow is kept."""
        values = {self.source: batch}
        with torch.no_grad():
            for step in self.steps:
                outputs = step.run([values[number] for number in step.inputs])
                values.update(
                    (number, output) for number, output in zip(step.outputs, outputs, strict=True) if number is not None
                )
        return values

    def backward(self, start: Tensor, rule: BackwardRule) -> Tensor:
        """Propagate `start`, of the shape of the scores, back through all steps and return what arrives at the input.

        Messages that reach a value along several paths are added.
        """
        arrived: dict[int, Tensor] = {self.scores: start}
        with torch.no_grad():
            for step in reversed(self.steps):
                messages = [None if number is None else arrived.pop(number, None) for number in step.outputs]
                if all(message is None for message in messages):
                    continue
                for number, message in zip(step.inputs, rule(step, messages), strict=True):
                    if message is not None:
                        arrived[number] = arrived[number] + message if number in arrived else message
        return arrived.get(self.source, torch.zeros_like(self.values[self.source]))


def record(model: nn.Module, batch: Tensor) -> Tape:
    """Return the tape of one pass of `model`, which is in evaluation mode, on `batch` `[1, ...]`.

    Raises:
        AttributionError: The control flow of the model depends on the values of its input, or something else in it
            cannot be recorded.
    """
    source = batch.detach()
    with torch.no_grad():
        scores = model(source.clone())  # this first pass fills the model's caches
    recorder = _Recorder()
    recorder.know(source)
    try:
        with (
            _RECORDING,
            sdpa_kernel(SDPBackend.MATH),
            _kept_attributes(model),
            torch.no_grad(),
            recorder,
            _Watch(recorder),
        ):
            number = recorder.number_of(_run_without_changes(model, source))
    except (AttributionError, ModelOutputError):
        raise
    except Exception as error:
        is_of_torch = "INTERNAL ASSERT" in str(error)
        why = "torch cannot trace one of them" if is_of_torch else f"{type(error).__name__}: {error}"
        known = " (known of packed sequences)" if is_of_torch else ""
        raise AttributionError(
            f"The operations of the model cannot be recorded: {why}{known}. Use a method that needs "
            "only gradients or forward passes, such as smoothgrad or occlusion."
        ) from error
    if number is None:
        raise AttributionError(
            "The operations of the model cannot be recorded: its scores do not follow from its input by operations of "
            "torch. Use a method that only needs forward passes, such as occlusion."
        )
    tape = Tape(tuple(recorder.steps), recorder.values, recorder.numbers[id(source)], number)
    _check_scores(tape, scores)
    return _widened(tape) if source.dtype in _HALVES else tape


def vjp(step: Step, inputs: Sequence[Tensor], messages: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the vector-Jacobian product of a step at `inputs`: `messages` to its outputs, mapped to its inputs."""
    return vjp_of_function(lambda *values: step.run(values), inputs, messages)


def vjp_of_function(
    function: Callable[..., Sequence[Any]], inputs: Sequence[Tensor], messages: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return the vector-Jacobian product, as `vjp`, of a function that maps tensors to a sequence of tensors."""
    with torch.enable_grad():
        leaves = [value.detach().requires_grad_(value.is_floating_point()) for value in inputs]
        outputs = function(*leaves)
        pairs = [
            (output, message)
            for output, message in zip(outputs, messages, strict=True)
            if message is not None and isinstance(output, Tensor) and output.requires_grad
        ]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        if not pairs or not wanted:
            return [None] * len(inputs)
        found = iter(
            torch.autograd.grad(
                [output for output, _ in pairs], wanted, [message for _, message in pairs], allow_unused=True
            )
        )
    return [next(found) if leaf.requires_grad else None for leaf in leaves]


class _Recorder(TorchDispatchMode):
    """Records every operation that depends on the input."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.values: dict[int, Tensor] = {}
        self.numbers: dict[int, int] = {}  # id of a tensor, which `values` keeps alive -> its number

    def know(self, tensor: Tensor) -> int:
        number = len(self.values)
        self.values[number], self.numbers[id(tensor)] = tensor, number
        return number

    def number_of(self, value: Any) -> int | None:
        if not isinstance(value, Tensor):
            return None
        if torch._is_functional_tensor(value):
            torch._sync(value)  # type: ignore[attr-defined, no-untyped-call]
            value = torch._from_functional_tensor(value)
        return self.numbers.get(id(value))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        flat, structure = tree_flatten((args, kwargs))
        found = [self.numbers.get(id(item)) if isinstance(item, Tensor) else None for item in flat]
        inputs = tuple(number for number in found if number is not None)
        name = str(func.overloadpacket.__name__)
        if _is_random(func, args, kwargs):
            raise AttributionError(
                f"The operations of the model cannot be recorded: it draws random numbers ({name!r}). Use a method "
                "that needs only gradients or forward passes, such as smoothgrad or occlusion."
            )
        if func in DECOMPOSITIONS:
            with self:
                return DECOMPOSITIONS[func](*args, **kwargs)
        result = func(*args, **kwargs)
        if inputs and not any(tag in name for tag in _OF_THE_SHAPE):
            arguments = tuple(
                item if number is None else _Slot(number) for item, number in zip(flat, found, strict=True)
            )
            outputs = tuple(None if item is None else self._know_tensor(item) for item in _as_tuple(result))
            self.steps.append(Step(name, _DIFFERENTIABLE.get(func, func), inputs, outputs, arguments, structure))
        return result

    def _know_tensor(self, result: Any) -> int:
        if not isinstance(result, Tensor):
            _refuse_reading()
        return self.know(result)


class _Watch(TorchFunctionMode):
    """Intercepts reads of values from outside torch: wrappers have no data, and only constants may be read."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _OUT_OF_TORCH and torch._is_functional_tensor(args[0]):
            if self.recorder.number_of(args[0]) is not None:
                _refuse_reading()
            args = (torch._from_functional_tensor(args[0]), *args[1:])
        if func is torch.cosine_similarity:
            return cosine_similarity(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _run_without_changes(model: nn.Module, source: Tensor) -> Any:
    """Return what the model returns, with all in-place changes and views replaced by new tensors."""
    inputs = torch._to_functional_tensor(source)
    torch._enable_functionalization(reapply_views=False)
    try:
        return model(inputs.clone())  # a copy, since the model may start with an in-place operation
    finally:
        torch._disable_functionalization()


def _refuse_reading() -> NoReturn:
    raise AttributionError(
        "The operations of the model cannot be recorded: its code reads values that depend on the input. Use a "
        "method that needs only gradients or forward passes, such as smoothgrad or occlusion."
    )


def _is_random(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation draws random numbers; dropout and similar operations do in training mode only."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    arguments = _named_arguments(func, args, kwargs)
    return arguments.get("train", arguments.get("training")) is not False


def _named_arguments(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of an operator by their names in its schema, defaults included."""
    return {
        argument.name: args[position] if position < len(args) else kwargs.get(argument.name, argument.default_value)
        for position, argument in enumerate(func._schema.arguments)
    }


def _copied(old: Tensor, new: Tensor, non_blocking: bool = False) -> Tensor:
    """Return `old` after `new` is written to it; unlike `aten.copy`, this has a gradient."""
    return new.to(old, non_blocking=non_blocking).expand_as(old).clone()


# A detached value affects the scores all the same, so that it needs a gradient here.
_DIFFERENTIABLE = {
    torch.ops.aten.copy.default: _copied,
    torch.ops.aten.detach.default: torch.clone,
    torch.ops.aten.detach_copy.default: torch.clone,
}


@contextmanager
def _kept_attributes(model: nn.Module) -> Iterator[None]:
    """Restore module attributes set in the block, such as a cached mask: they would be functional wrappers."""
    spaces = [space for module in model.modules() for space in (module.__dict__, module._buffers)]
    kept = [dict(space) for space in spaces]
    try:
        yield
    finally:
        for space, before in zip(spaces, kept, strict=True):
            if space.keys() != before.keys() or any(space[name] is not before[name] for name in before):
                space.clear()
                space.update(before)


def _check_scores(tape: Tape, scores: Any) -> None:
    """Reject a tape that does not reproduce the scores: the model has a state, or does something unrecorded."""
    again = tape.forward(tape.values[tape.source])[tape.scores]
    limit = max(_TOLERANCE, _NUM_ROUNDINGS * torch.finfo(scores.dtype).eps) * float(scores.abs().max())
    if again.shape != scores.shape or float((again - scores).abs().max()) > limit:
        raise AttributionError(
            "The operations of the model cannot be recorded: they give other scores than the model did before. Use a "
            "method that needs forward passes alone, such as occlusion."
        )


def _widened(tape: Tape) -> Tape:
    """Return the tape of a model in half precision as one that computes the same in float32."""
    steps = tuple(
        replace(step, _arguments=tuple(_wide(argument) for argument in step._arguments)) for step in tape.steps
    )
    wide = replace(tape, steps=steps)
    return replace(wide, values=wide.forward(tape.values[tape.source].float()))


def _wide(argument: Any) -> Any:
    if isinstance(argument, Tensor) and argument.dtype in _HALVES:
        return argument.float()
    return torch.float32 if isinstance(argument, torch.dtype) and argument in _HALVES else argument


def _as_tuple(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)

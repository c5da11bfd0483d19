"""The kinds of operations on a tape, from which methods with their own rules choose a rule or refuse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spadelens.errors import AttributionError
from spadelens.graph.tape import Step, Tape

POINTWISE = "pointwise"
_PROBED_AT, _FAR = 3.0, 20.0
_LEAST_RATIO = 1.5
_LONGEST_GATE = 5  # steps


class OpKind(Enum):
    """What an operation does with the values that depend on the model's input."""

    VIEW = "moves, copies or drops values"
    MATRIX = "multiplies a matrix of constants and adds a bias"
    AVERAGE = "sums or averages values with constant weights of at least 0"
    SCALING = "multiplies every value by a constant"
    SHIFT = "adds a constant to every value"
    SUM = "adds or subtracts two values"
    PRODUCT = "multiplies two values, or two matrices"
    QUOTIENT = "divides one value by another"
    ACTIVATION = "applies a function of one number to every value"
    MAXIMUM = "picks the largest of several values"
    NORMALIZATION = "subtracts the mean of its input and divides by its standard deviation"
    BATCH_NORM = "scales and shifts every channel by constants"
    SOFTMAX = "applies a softmax or its logarithm"
    L2_NORM = "takes the root of the sum of squares"


_KINDS: Mapping[OpKind, str] = {
    OpKind.VIEW: """
        view view_copy _unsafe_view reshape permute permute_copy transpose transpose_copy t t_copy expand expand_copy
        unsqueeze unsqueeze_copy squeeze squeeze_copy select select_copy slice slice_copy split split_copy
        split_with_sizes split_with_sizes_copy unbind unbind_copy clone contiguous alias alias_copy detach detach_copy
        cat stack roll flip constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d index
        index_select gather slice_scatter select_scatter repeat pixel_shuffle pixel_unshuffle channel_shuffle
        masked_fill _to_copy copy lift_fresh lift_fresh_copy as_strided_copy unfold_copy im2col _reshape_copy
        _reshape_alias diagonal_copy narrow_copy tril triu where native_channel_shuffle dropout native_dropout
        """,
    OpKind.MATRIX: "convolution addmm mm bmm baddbmm mv dot",
    OpKind.AVERAGE: """
        mean sum avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d
        upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_linear1d
        _upsample_bilinear2d_aa col2im
        """,
    OpKind.PRODUCT: "mul",
    OpKind.QUOTIENT: "div",
    OpKind.SUM: "add sub rsub",
    OpKind.SCALING: "neg",
    OpKind.ACTIVATION: f"""
        relu hardtanh leaky_relu elu celu selu gelu silu mish hardswish softplus sigmoid hardsigmoid tanh erf exp expm1
        log log1p sqrt rsqrt reciprocal pow square abs clamp clamp_min clamp_max sin cos threshold softshrink hardshrink
        log_sigmoid_forward _prelu_kernel rrelu_with_noise rrelu_with_noise_functional {POINTWISE}
        """,
    OpKind.MAXIMUM: "max_pool2d_with_indices max_pool3d_with_indices amax max adaptive_max_pool2d",
    OpKind.NORMALIZATION: "native_layer_norm native_group_norm",
    OpKind.BATCH_NORM: "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit_no_training",
    OpKind.SOFTMAX: "_softmax _safe_softmax _log_softmax",
    OpKind.L2_NORM: "linalg_vector_norm",
}


class Factors(NamedTuple):
    """The arguments of a matrix product, by their names in the operator's schema.

    Attributes:
        first: One factor; the input of a convolution.
        second: The other factor; the weight of a convolution.
        addend: A tensor that is added to the product, such as a bias; None if the operator adds nothing.
    """

    first: str
    second: str
    addend: str | None = None


FACTORS: Mapping[str, Factors] = MappingProxyType(
    {
        "convolution": Factors("input", "weight", "bias"),
        "addmm": Factors("mat1", "mat2", "self"),
        "baddbmm": Factors("batch1", "batch2", "self"),
        "mm": Factors("self", "mat2"),
        "bmm": Factors("self", "mat2"),
        "mv": Factors("self", "vec"),
        "dot": Factors("self", "tensor"),
    }
)
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}
_JOINING = (OpKind.SUM, OpKind.PRODUCT, OpKind.QUOTIENT)
_OF_ONE_VALUE = frozenset(
    (
        OpKind.AVERAGE,
        OpKind.ACTIVATION,
        OpKind.MAXIMUM,
        OpKind.NORMALIZATION,
        OpKind.BATCH_NORM,
        OpKind.SOFTMAX,
        OpKind.L2_NORM,
    )
)


class Role(Enum):
    """The role of an activation in a network."""

    RECTIFIER = "passes positive values and suppresses negative ones"
    GATE = "a factor between 0 and 1"
    ARITHMETIC = "part of a formula"
    SATURATING = "saturates on both sides, or on the positive one"


_ROLES: Mapping[Role, str] = {
    Role.RECTIFIER: """
        relu leaky_relu elu celu selu gelu silu mish hardswish softplus _prelu_kernel rrelu_with_noise
        rrelu_with_noise_functional
        """,
    Role.GATE: "sigmoid hardsigmoid",
    Role.ARITHMETIC: "exp expm1 log log1p sqrt rsqrt reciprocal pow square abs sin cos erf div",
    Role.SATURATING: "tanh softshrink hardshrink log_sigmoid_forward",
}
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names.split()}


def kind_of(step: Step, method: str) -> OpKind:
    """Return the kind of a step.

    Raises:
        AttributionError: `method` has no rule for this operation.
    """
    kind = _KIND_OF.get(step.name)
    if kind is None:
        return _refuse(step, method)
    how = _without_rule(step, kind)
    if how is not None:
        return _refuse(step, method, how)
    if len(step.inputs) == 1:
        if kind is OpKind.QUOTIENT:
            return OpKind.SCALING if step.is_input("self") else OpKind.ACTIVATION
        return {OpKind.PRODUCT: OpKind.SCALING, OpKind.SUM: OpKind.SHIFT}.get(kind, kind)
    return OpKind.PRODUCT if kind is OpKind.MATRIX else kind


def role_of(step: Step) -> Role:
    """Return the role of the activation `step`, by its name, or else by its values at 0, ±3 and ±20.

    A function counts as a rectifier if it grows more than 1.5 times as much from 0 to 3 as it changes from -3 to 0.
    """
    if step.name in _ROLE_OF:
        return _ROLE_OF[step.name]
    if any(isinstance(item, Tensor) and item.numel() > 1 for item in step.constants):  # differs between values
        return Role.ARITHMETIC
    values = _probed(step)
    if _is_gate(values):
        return Role.GATE
    _, left, middle, right, _ = values
    if step.name in ("clamp", "clamp_min") and left == middle > 0:  # keeps a denominator away from 0
        return Role.ARITHMETIC
    fall, rise = abs(middle - left), right - middle
    if rise > _LEAST_RATIO * fall:
        return Role.RECTIFIER
    return Role.SATURATING if max(fall, rise) < _PROBED_AT else Role.ARITHMETIC


def _probed(step: Step) -> list[float]:
    """Return the values of a function of one number at -20, -3, 0, 3 and 20."""
    devices = [item.device for item in _constants_of(step) if isinstance(item, Tensor)]
    probes = torch.tensor([-_FAR, -_PROBED_AT, 0.0, _PROBED_AT, _FAR], device=devices[0] if devices else None)
    with torch.no_grad():
        values: list[float] = step.run([probes])[0].flatten().tolist()
    return values


def _constants_of(step: Step) -> list[Any]:
    if isinstance(step.operation, _Formula):
        return [item for inner in step.operation.steps for item in _constants_of(inner)]
    return list(step.constants)


def _is_gate(values: Sequence[float]) -> bool:
    far_left, left, middle, right, far_right = values
    return 0 <= far_left <= left < middle < right <= far_right <= 1


def normalization_of(step: Step, inputs: Tensor) -> tuple[tuple[int, ...], Tensor, float]:
    """Return the shape in which a step normalizes over the last axis, the weights, and epsilon.

    The weights broadcast over the inputs.
    """
    arguments = step.arguments([inputs])
    weight, epsilon = arguments["weight"], float(arguments["eps"])
    if step.name == "native_layer_norm":
        normalized = arguments["normalized_shape"]
        kept = inputs.shape[: inputs.dim() - len(normalized)]
        return (*kept, math.prod(normalized)), inputs.new_ones(()) if weight is None else weight, epsilon
    batch, num_groups = inputs.shape[0], arguments["group"]
    weight = inputs.new_ones(()) if weight is None else weight.view(-1, *[1] * (inputs.dim() - 2))
    return (batch, num_groups, inputs.numel() // (batch * num_groups)), weight, epsilon


def fused(tape: Tape) -> Tape:
    """Return the tape with pointwise formulas of one value, such as x * sigmoid(1.7 * x), fused into activations.

    Where two values are combined that are both pointwise functions of the same value, the steps in between become one
    step named 'pointwise'. So do consecutive steps that form a gate, such as relu6(x + 3) / 6. Steps whose results are
    also used elsewhere are kept.
    """
    parents: dict[int, tuple[int, tuple[Step, ...]]] = {}  # value -> the value it is a function of, and the steps
    steps: list[Step] = []
    for step in tape.steps:
        joined = _joined(step, parents, tape)
        if joined is not None:
            root, inner = joined
            step = Step.of(POINTWISE, _Formula(root, (*inner, step)), [root], [step.output])
            parents[step.output] = (root, (step,))
        elif len(step.inputs) == 1 and _is_pointwise(step):
            parents[step.output] = (step.inputs[0], (step,))
            step = _as_gate(step, parents, tape)
            parents[step.output] = (step.inputs[0], (step,))
        steps.append(step)
    return replace(tape, steps=tuple(_needed(steps, tape.scores)))


@dataclass(frozen=True, eq=False)
class _Formula:
    """Consecutive steps that form a function of one value."""

    root: int
    steps: tuple[Step, ...]

    def __call__(self, value: Tensor) -> Tensor:
        values: dict[int, Any] = {self.root: value}
        for step in self.steps:
            values[step.output] = step.run([values[number] for number in step.inputs])[0]
        result: Tensor = values[self.steps[-1].output]
        return result


def _joined(
    step: Step, parents: Mapping[int, tuple[int, tuple[Step, ...]]], tape: Tape
) -> tuple[int, tuple[Step, ...]] | None:
    """Return the value of which both inputs of `step` are functions, and the steps that compute them; or None."""
    kind = _KIND_OF.get(step.name)
    if len(step.inputs) != 2 or kind not in _JOINING or _without_rule(step, kind) is not None:
        return None
    chains = [_chain(number, parents) for number in step.inputs]
    for root in chains[0]:
        if root in chains[1] and tape.values[root].shape == tape.values[step.output].shape:
            inner = {id(one): one for chain in chains for one in _steps_from(root, chain, parents)}
            return root, tuple(sorted(inner.values(), key=lambda one: one.output))
    return None


def _as_gate(step: Step, parents: Mapping[int, tuple[int, tuple[Step, ...]]], tape: Tape) -> Step:
    """Return the shortest sequence of steps ending in `step` that forms a gate, fused into one; otherwise `step`."""
    chain = _chain(step.output, parents)[: _LONGEST_GATE + 1]
    for root in chain[1:]:
        if tape.values[root].shape != tape.values[step.output].shape:
            return step
        inner = tuple(sorted(_steps_from(root, chain, parents), key=lambda one: one.output))
        if any(_ROLE_OF.get(one.name) is Role.RECTIFIER for one in inner):
            return step
        row = Step.of(POINTWISE, _Formula(root, inner), [root], [step.output])
        if _is_gate(_probed(row)):
            return row if len(inner) > 1 else step
    return step


def _chain(number: int, parents: Mapping[int, tuple[int, tuple[Step, ...]]]) -> list[int]:
    chain = [number]
    while chain[-1] in parents:
        chain.append(parents[chain[-1]][0])
    return chain


def _steps_from(root: int, chain: Sequence[int], parents: Mapping[int, tuple[int, tuple[Step, ...]]]) -> list[Step]:
    return [step for number in chain[: chain.index(root)] for step in parents[number][1]]


def _is_pointwise(step: Step) -> bool:
    kind = _KIND_OF.get(step.name)
    constants = [item for item in step.constants if isinstance(item, Tensor) and item.numel() > 1]
    is_of_numbers = kind in (OpKind.ACTIVATION, OpKind.SCALING, *_JOINING) and not constants
    return is_of_numbers and kind is not None and _without_rule(step, kind) is None


def _needed(steps: Sequence[Step], scores: int) -> list[Step]:
    used = {scores}
    kept: list[Step] = []
    for step in reversed(steps):
        if used.intersection(number for number in step.outputs if number is not None):
            kept.append(step)
            used.update(step.inputs)
    return kept[::-1]


def _without_rule(step: Step, kind: OpKind) -> str | None:
    """Return the property of a step of `kind` for which no method has a rule, or None."""
    num_inputs = len(step.inputs)
    if kind is OpKind.VIEW:
        return _of_choice(step)
    if kind is OpKind.MATRIX and not _has_constant_bias(step):
        return "with a bias that depends on the input "
    if kind is OpKind.QUOTIENT and any(isinstance(item, str) for item in step.constants):
        return "with rounding "
    if kind in _OF_ONE_VALUE and num_inputs != 1:
        return "of several values that depend on the input "
    if kind is OpKind.BATCH_NORM and _of_batch(step):
        return "with the statistics of the batch itself "
    if kind is OpKind.L2_NORM and step.arguments([torch.empty(0)])["ord"] != 2:
        return "of another order than 2 "
    return None


def _of_choice(step: Step) -> str | None:
    if (step.name == "where" and step.is_input("condition")) or (step.name == "masked_fill" and step.is_input("mask")):
        return "on a condition that depends on the input "
    if step.name in ("index", "index_select", "gather") and not (step.is_input("self") and len(step.inputs) == 1):
        return "at positions that depend on the input "
    if any(isinstance(item, torch.dtype) and not item.is_floating_point for item in step.constants):
        return "to whole numbers "
    return None


def _has_constant_bias(step: Step) -> bool:
    """Whether only factors depend on the model's input, not the addend; of a convolution, its input at least."""
    first, _, addend = FACTORS[step.name]
    if step.name == "convolution" and not step.is_input(first):
        return False
    return addend is None or not step.is_input(addend)


def _of_batch(step: Step) -> bool:
    arguments = step.arguments([torch.empty(0)] * len(step.inputs))
    return bool(arguments.get("training"))  # one of the operators has no such argument


def _refuse(step: Step, method: str, how: str = "") -> OpKind:
    raise AttributionError(
        f"The method {method!r} has no rule for the operation {step.name!r} {how}in this model. Use one that needs "
        "only gradients or forward passes, such as smoothgrad or occlusion."
    )

"""Runs the dense model and hands the inputs of its layers to a consumer; stores none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spadelens.errors import ModelOutputError, SpadeError
from spadelens.layers import MatrixLayer, computes_product, inputs_to_matrix, matrix_layers, unsupported_reason
from spadelens.numerics import exact_products


@dataclass(frozen=True)
class Probe:
    """What one pass of the sample through the dense model shows.

    Attributes:
        scores: The class scores of the sample, `[classes]`.
        matrix_shapes: Layer name -> (groups, positions, columns) of its inputs for one sample, in order of first call;
            a layer that was never called is missing.
        unsupported: Layer name -> why its weight cannot be replaced.
    """

    scores: Tensor
    matrix_shapes: Mapping[str, tuple[int, int, int]]
    unsupported: Mapping[str, str]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode for the length of the block; restores the mode of every module.

    Flags are set directly: a `train()` of the user's own may do more than that on the way in (merge weights, say),
    which nothing would undo on the way out.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training


def class_scores(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the scores `[batch, classes]` of `model`, without gradients, checked to be finite.

    Raises:
        ModelOutputError: The model fails on such a batch, or returns anything else than finite scores.
    """
    with evaluation_mode(model), torch.no_grad():
        try:
            scores = model(batch.clone())  # a model may begin with an operation in place
        except SpadeError:  # from a consumer of ours that the pass has called
            raise
        except Exception as error:
            raise ModelOutputError(
                f"The model cannot be run on a batch of shape {list(batch.shape)}: "
                f"{type(error).__name__}: {str(error).strip() or 'no message'}{_batch_hint(batch)}"
            ) from error
    return check_scores(scores, len(batch))


def _batch_hint(batch: Tensor) -> str:
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
            f"The model returned a {type(scores).__name__}: {expected}. Wrap it in a module that returns the scores."
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


def probe(model: nn.Module, sample: Tensor) -> Probe:
    """Run `sample` `[C, H, W]` once and find out which layers are called, on what, and whether they can be replaced.

    Raises:
        ModelOutputError: The model fails, or returns anything else than finite scores.
    """
    layers = matrix_layers(model)
    shapes: dict[str, tuple[int, int, int]] = {}
    unsupported = {name: reason for name, module in layers.items() if (reason := unsupported_reason(module))}
    unsupported |= {name: f"its weight is shared with {other!r}" for name, other in _shared_weights(model).items()}

    def look(name: str, module: MatrixLayer, inputs: Tensor | None, outputs: Any) -> None:
        if inputs is None:
            unsupported[name] = "it is not called with one tensor"
            return
        groups, positions, columns = inputs_to_matrix(module, inputs).shape
        seen = shapes.get(name, (groups, 0, columns))[1]
        shapes[name] = (groups, seen + positions, columns)
        if name in unsupported:
            return
        with exact_products(inputs.device):
            inputs = inputs.detach().to(module.weight.dtype)  # under autocast layers get another type
            if not (isinstance(outputs, Tensor) and computes_product(module, inputs, outputs.detach())):
                unsupported[name] = "its output is not its weight times its input"

    handles = [
        module.register_forward_hook(
            lambda module, args, kwargs, outputs, name=name: look(name, module, _layer_input(args, kwargs), outputs),
            with_kwargs=True,
        )
        for name, module in layers.items()
    ]
    try:
        scores = class_scores(model, sample.unsqueeze(0))[0]
    finally:
        for handle in handles:
            handle.remove()
    return Probe(scores=scores, matrix_shapes=shapes, unsupported=unsupported)


def capture_inputs(
    model: nn.Module,
    layers: Mapping[str, MatrixLayer],
    batches: Iterable[Tensor],
    consume: Callable[[str, Tensor], None],
    choose: Callable[[str, int], Tensor | None] | None = None,
) -> None:
    """Run every batch through `model` once and call `consume(name, inputs)` for every call of every layer in `layers`.

    `inputs` is `[groups, positions, columns]` and is freed when `consume` returns. A module that is called several
    times in one pass is handed on several times. Hooks are removed and modes restored, after an exception too.
    `choose(name, num_positions)` says which of the positions of a call are handed on, as in `inputs_to_matrix`.

    Raises:
        ModelOutputError: The model fails on a batch, or returns anything else than finite scores.
    """

    def hand_on(name: str, module: MatrixLayer, inputs: Tensor | None) -> None:
        if inputs is None:
            raise ModelOutputError(
                f"Layer {name!r} is not called with one tensor on the views, as it is on the sample."
            )
        with exact_products(inputs.device):
            chosen = None if choose is None else partial(choose, name)
            consume(name, inputs_to_matrix(module, inputs.detach().to(module.weight.dtype), chosen))

    handles = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: hand_on(name, module, _layer_input(args, kwargs)),
            with_kwargs=True,
        )
        for name, module in layers.items()
    ]
    try:
        for batch in batches:
            class_scores(model, batch)
    finally:
        for handle in handles:
            handle.remove()


def is_batch_major(model: nn.Module, layers: Mapping[str, MatrixLayer], samples: Sequence[Tensor]) -> bool:
    """Whether the positions of every layer come sample by sample, so that samples can run together and be told apart.

    Runs the samples together and one by one, and compares what the layers get.

    Raises:
        ModelOutputError: The model fails on the samples.
    """

    def seen(batches: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {}
        capture_inputs(model, layers, batches, lambda name, inputs: found.setdefault(name, []).append(inputs))
        return found

    together = seen([torch.stack(list(samples))])
    alone = [seen([sample.unsqueeze(0)]) for sample in samples]
    for name, calls in together.items():
        if any(len(found.get(name, [])) != len(calls) for found in alone):
            return False
        for number, inputs in enumerate(calls):
            expected = torch.cat([found[name][number] for found in alone], dim=1)
            if inputs.shape != expected.shape:
                return False
            difference = (inputs - expected).square().mean().sqrt()
            if float(difference) > 1e-2 * float(expected.square().mean().sqrt()):
                return False
    return True


def _layer_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the one tensor that a layer is called with, or None where it is called in another way."""
    found = [*args, *kwargs.values()]
    return found[0] if len(found) == 1 and isinstance(found[0], Tensor) else None


def _shared_weights(model: nn.Module) -> dict[str, str]:
    """Return layer name -> name of another parameter that is the same tensor as the layer's weight."""
    owners: dict[int, list[tuple[str, str]]] = {}
    for owner, module in model.named_modules():  # each module once, under its first name
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), []).append((owner, name))
    shared = {}
    for owner, module in matrix_layers(model).items():
        others = [f"{other}.{name}" for other, name in owners.get(id(module.weight), []) if other != owner]
        if others:
            shared[owner] = others[0]
    return shared

"""A control: the network without one of its blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from spadelens.attribution.attribution import attribute
from spadelens.evaluation.tuning import CalibrationCase
from spadelens.extraction.trace import runnable
from spadelens.forward import class_scores
from spadelens.hooks import forward_hooks
from spadelens.inputs.checks import check_sample
from spadelens.matrix_layers import matrix_layers
from spadelens.metrics.localization import pixel_auc
from spadelens.private_copy import independent_copy


def droppable_blocks(model: nn.Module, sample: Tensor) -> list[str]:
    """Return the names of modules that hold layers and return a tensor of the shape of their only input.

    Raises:
        ModelOutputError: The model fails on the sample.
    """
    found: dict[str, bool] = {}

    def compare(name: str, _: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        is_same = len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
        found[name] = found.get(name, True) and is_same and inputs[0].shape == output.shape  # type: ignore[attr-defined]

    model = runnable(model)
    layers = matrix_layers(model)
    blocks = {
        name: module
        for name, module in model.named_modules()
        if name and name not in layers and any(layer.startswith(f"{name}.") for layer in layers)
    }
    with forward_hooks(blocks, compare):
        class_scores(model, check_sample(model, sample).unsqueeze(0))
    return [name for name in blocks if found.get(name)]


def without_block(model: nn.Module, name: str) -> nn.Module:
    """Return an independent copy of a model in which a block hands on its input."""
    copied = independent_copy(model)
    copied.set_submodule(name, nn.Identity())
    return copied


def best_dropped(model: nn.Module, cases: Sequence[CalibrationCase], method: str) -> tuple[str, nn.Module] | None:
    """Return the block without which a method's maps have the highest mean pixel AUC on `cases`, and the copy.

    None where no block can be dropped. Cases without a region count by their number of predictions kept.
    """
    best: tuple[float, str, nn.Module] | None = None
    for name in droppable_blocks(model, cases[0].sample):
        copied = without_block(model, name)
        total = 0.0
        for case in cases:
            if case.region is None:
                total += float(
                    int(class_scores(copied, check_sample(copied, case.sample).unsqueeze(0)).argmax()) == case.target
                )
            else:
                total += pixel_auc(
                    attribute(copied, case.sample, method, target=case.target, check=False).values, case.region
                )
        if best is None or total > best[0]:
            best = (total, name, copied)
    return None if best is None else best[1:]

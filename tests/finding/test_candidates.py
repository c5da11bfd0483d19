"""The maps that a finding is made from: those of sound methods, with a reason for each that is left out."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from references.networks import Pooled, sample_of, seeded
from torch import nn

from spadelens import attribute
from spadelens.attribution.heatmap import Heatmap
from spadelens.attribution.soundness import Soundness
from spadelens.errors import UnknownNameError
from spadelens.finding.candidates import Candidates, candidates_of

SAMPLE = sample_of((2, 7, 9))
SOUND = Soundness(None, None, None, None, None, ())
TRACE, ORIGINAL = "smoothgrad on the trace", "smoothgrad on the original model"


def net() -> nn.Module:
    return seeded(Pooled).double()


def candidates(
    *others: str, model: nn.Module | None = None, trace: dict[str, Any] | None = None, original: Any = None
) -> Candidates:
    model = net() if model is None else model
    found = replace(attribute(model, SAMPLE, "smoothgrad", target=2, kind="photo", check=False), soundness=SOUND)
    trace_map = replace(found, values=found.values + 1, **(trace or {}))
    return candidates_of(model, SAMPLE, replace(found, **(original or {})), trace_map, others=others)


def doubtful(*problems: str) -> dict[str, Soundness]:
    return {"soundness": replace(SOUND, problems=problems)}


ZERO = {"values": torch.zeros(7, 9)}


def test_maps_are_named_after_method_and_model() -> None:
    found = candidates("saliency", "lrp:rule=epsilon", "smoothgrad", "smoothgrad:num_samples=3")
    assert list(found.maps) == [
        TRACE,
        ORIGINAL,
        "saliency on the original model",
        "lrp:rule=epsilon on the original model",
        "smoothgrad:num_samples=3 on the original model",
    ]
    assert not found.left_out
    assert list(found.values) == list(found.maps)
    assert torch.equal(found.values[TRACE], found.values[ORIGINAL] + 1)
    assert found.maps[ORIGINAL].soundness is SOUND  # the one that was there, not another
    for heatmap in found.maps.values():
        assert heatmap.target == 2


def test_other_maps_are_those_of_attribute() -> None:
    model = net()
    like = attribute(model, SAMPLE, "smoothgrad", target=1, versus=3, reduction="sum")
    found = candidates_of(model, SAMPLE, like, like, others=["input_x_gradient"], reduction="sum")
    expected = attribute(model, SAMPLE, "input_x_gradient", target=1, versus=3, reduction="sum").values
    assert torch.equal(found.values["input_x_gradient on the original model"], expected)
    assert candidates_of(model, SAMPLE, like, like, others=[]).values.keys() == {TRACE, ORIGINAL}


def test_unsound_maps_are_left_out_with_a_reason() -> None:
    found = candidates("saliency", trace=doubtful("One problem.", "Another."))
    assert list(found.maps) == [ORIGINAL, "saliency on the original model"]
    assert dict(found.left_out) == {TRACE: "One problem. Another."} and not found.doubts


def test_zero_maps_are_left_out_with_a_reason() -> None:
    found = candidates("saliency", original=ZERO)
    assert list(found.maps) == [TRACE, "saliency on the original model"]
    assert dict(found.left_out) == {ORIGINAL: "The map is zero everywhere."}


def test_methods_that_fail_are_left_out_with_a_reason() -> None:
    model = nn.Sequential(nn.Flatten(), seeded(lambda: nn.Linear(126, 4))).double().eval()
    found = candidates("grad_cam", "saliency", model=model)
    name = "grad_cam on the original model"
    assert list(found.left_out) == [name] and "grad_cam" in found.left_out[name]
    assert list(found.maps) == [TRACE, ORIGINAL, "saliency on the original model"]


def test_doubtful_maps_take_part_where_no_map_is_sound() -> None:
    found = candidates(trace=doubtful("One."), original=doubtful("Two."))
    assert list(found.maps) == [TRACE, ORIGINAL]
    assert dict(found.doubts) == {TRACE: "One.", ORIGINAL: "Two."} and not found.left_out
    found = candidates(trace=doubtful("One."), original=ZERO)
    assert (
        list(found.maps) == [TRACE] == list(found.doubts) and found.left_out[ORIGINAL] == "The map is zero everywhere."
    )


def test_occlusion_is_the_last_resort() -> None:
    model = net()
    zero = replace(attribute(model, SAMPLE, "smoothgrad", target=2, check=False), **ZERO)
    found = candidates_of(model, SAMPLE, zero, zero, others=[])
    assert list(found.maps) == ["occlusion on the original model"] and set(found.left_out) == {TRACE, ORIGINAL}
    assert torch.equal(
        found.values["occlusion on the original model"], attribute(model, SAMPLE, "occlusion", target=2).values
    )


def test_progress_and_unknown_names() -> None:
    told: list[tuple[str, int, int]] = []
    like: Heatmap = attribute(net(), SAMPLE, "smoothgrad", check=False)
    others: Sequence[str] = ["saliency", "input_x_gradient"]
    candidates_of(net(), SAMPLE, like, like, others=others, progress=lambda *one: told.append(one))
    assert told == [("candidates", number, 2) for number in range(3)]
    with pytest.raises(UnknownNameError, match="method 'deconvolution'"):
        candidates("saliency", "deconvolution")

"""Every method on every architecture: sound, or doubtful or refused with the reason; never wrong without a word."""

import re
from pathlib import Path

import pytest
import torch
from references.architectures import ARCHITECTURES, build
from references.matrix import diagnose, kind_of_reason

import spadelens
from spadelens.attribution.diagnosis import Verdict
from spadelens.methods.registry import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
TRANSFORMERS = ("vit", "timm_vit", "timm_beit", "hf_vit")
TEXTS = ("hf_bert", "hf_distilbert", "hf_albert", "hf_gpt2", "encoder", "encoder_tokens_first")
REFUSED = {
    "guided_backprop": {"hf_bert": "tanh", "hf_albert": "tanh"},
    "grad_cam": dict.fromkeys(TRANSFORMERS, "attention") | dict.fromkeys(TEXTS, "photo"),
    "guided_grad_cam": dict.fromkeys(TRANSFORMERS, "attention") | dict.fromkeys(TEXTS, "photo"),
    "score_cam": dict.fromkeys(TRANSFORMERS, "attention") | dict.fromkeys(TEXTS, "photo"),
}
"""Method -> architecture that it cannot deal with -> a word of the reason."""
EXACT = ("saliency", "smoothgrad", "input_x_gradient")
"""Methods that are gradients and nothing else: there is nothing that could go wrong on a model."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_method(architecture: str) -> None:
    shown = _shown(architecture)
    for method, found in diagnose(architecture):
        if shown[method][0] == found.verdict.value:  # a doubtful verdict near its bound may differ between machines
            assert shown[method][1] == (kind_of_reason(found.reason) if found.reason else ""), method
        reason = REFUSED.get(method, {}).get(architecture)
        if reason is not None:
            assert found.verdict is Verdict.REFUSED, method
            assert reason in found.reason
            assert method in found.reason
            continue
        assert found.verdict is not Verdict.REFUSED, (method, found.reason)
        assert (found.verdict is Verdict.DOUBTFUL) == bool(found.reason), method
        checks = found.soundness
        assert checks is not None
        if method in EXACT:
            assert found.verdict is Verdict.SOUND, (method, found.reason)
        if method == "deep_lift":
            assert checks.completeness is not None
            assert checks.completeness < 0.01
        if method == "lrp":
            assert checks.conservation == pytest.approx(1.0, abs=0.01)
        if method == "guided_backprop":
            assert checks.gradient_similarity is not None
            assert checks.gradient_similarity < 1 - 1e-5
        if checks.randomized_similarity is not None:
            assert 0.0 <= checks.randomized_similarity <= 1.0 + 1e-6


def _shown(architecture: str) -> dict[str, tuple[str, str]]:
    """Return method -> its verdict on the page, and the text of its footnote."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    notes = {found[1]: found[2] for line in lines if (found := re.fullmatch(r"- (\[\d+\]) (.*)", line))}
    header, cells = (
        next([cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith(start))
        for start in ("| architecture |", f"| `{architecture}` |")
    )
    verdicts = {}
    for method, cell in zip(header[1:], cells[1:], strict=True):
        verdict, _, number = cell.partition(" ")
        verdicts[method] = (verdict, notes[number] if number else "")
    return verdicts


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small", "convnext", "vit", "swin", "hf_distilbert"])
def test_maps_on_traces(architecture: str) -> None:
    """The methods with rules of their own on the sparse model: as sound as on the dense one."""
    model, sample = build(architecture)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace = spadelens.extract_trace(model, sample, preset="instant", schedule=0.9, num_views=4)
    for method in ("deep_lift", "lrp", "guided_backprop"):
        checks = spadelens.attribute(trace, sample, method).soundness
        assert checks is not None
        assert checks.completeness is None or checks.completeness < 0.01
        assert checks.conservation is None or checks.conservation == pytest.approx(1.0, abs=0.01)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_page_has_every_method_and_architecture_and_every_refusal() -> None:
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0].strip("`") in ARCHITECTURES:
            rows[cells[0].strip("`")] = cells[1:]
        elif line.startswith("| architecture |"):
            header = [cell.strip("`") for cell in cells[1:]]
    assert list(rows) == list(ARCHITECTURES)
    assert header == list(METHODS)
    for architecture, cells in rows.items():
        for method, cell in zip(header, cells, strict=True):
            is_refused = architecture in REFUSED.get(method, {})
            assert bool(re.match("refused", cell)) == is_refused, (architecture, method)

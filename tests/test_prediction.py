"""What scores stand for: classes of which one is right, or labels that are independent of each other."""

import pytest
import torch
from references.networks import convolutions
from torch import Tensor, nn

from spadelens import extract_trace
from spadelens.errors import UnknownNameError
from spadelens.forward import class_scores, scale_for
from spadelens.metrics import faithfulness
from spadelens.prediction import Prediction, answers, predict

SAMPLE = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
SIGMOIDS = [1.3, -0.2, 0.4, -2.0, 5.0]


def make(*after: nn.Module) -> nn.Module:
    return nn.Sequential(*convolutions((8, 8), (6, 6), 5), *after)


class Reshaped(nn.Module):
    def forward(self, batch: Tensor) -> Tensor:
        return batch.sigmoid().unsqueeze(1).reshape(len(batch), -1).to(batch.dtype)


@pytest.mark.parametrize(
    ("after", "outputs", "scale"),
    [
        ((), None, "logits"),
        ((), "labels", "label logits"),
        ((), "classes", "logits"),
        ((nn.Softmax(1),), None, "probabilities"),
        ((nn.Softmax(1),), "classes", "probabilities"),
        ((nn.Sigmoid(),), None, "label probabilities"),
        ((nn.Sigmoid(),), "labels", "label probabilities"),
        ((nn.Sigmoid(),), "classes", "logits"),
        ((Reshaped(),), None, "label probabilities"),
        ((nn.Sigmoid(), nn.Hardtanh(0, 1)), None, "logits"),  # bounded, but not by a sigmoid at the end
    ],
)
def test_the_model_and_the_caller_say_what_scores_are(
    after: tuple[nn.Module, ...], outputs: str | None, scale: str
) -> None:
    model = make(*after)
    assert scale_for(model, SAMPLE, class_scores(model, SAMPLE[None])[0], outputs) == scale


def test_a_model_that_begins_in_place_can_be_asked() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), *make(nn.Sigmoid()))
    assert scale_for(model, SAMPLE, class_scores(model, SAMPLE[None])[0]) == "label probabilities"


def test_no_pass_is_run_for_what_the_scores_show() -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    for after, outputs in (((nn.Softmax(1),), None), ((nn.Sigmoid(),), "classes"), ((), None)):
        model = make(*after)
        scores = class_scores(model, SAMPLE[None])[0]
        model.register_forward_pre_hook(fail)
        scale_for(model, SAMPLE, scores if after else 9 * scores, outputs)


def test_labels_are_independent_of_each_other() -> None:
    scores = torch.tensor(SIGMOIDS, dtype=torch.float64)
    for found in (predict(scores, "label logits"), predict(scores.sigmoid(), "label probabilities")):
        assert found.probabilities == pytest.approx(scores.sigmoid().tolist())
        assert found.outputs == "labels" and found.answer == (0, 2, 4) and found.class_index == 4
    assert predict(torch.full((5,), 9.0), "label logits").probability > 0.999
    assert predict(torch.full((5,), -9.0), "label logits").answer == ()
    assert predict(scores, "logits").answer == (4,)
    assert answers(torch.stack([scores, -scores]), "label logits").tolist() == [
        [True, False, True, False, True],
        [False, True, False, True, False],
    ]
    assert answers(torch.stack([scores, -scores]), "logits").tolist() == [[4], [3]]
    assert Prediction((0.25, 0.75)).answer == (1,)


def test_a_trace_of_labels_keeps_them() -> None:
    model = make(nn.Sigmoid())
    for trace in (
        extract_trace(model, SAMPLE, target=2, preset="fast"),
        extract_trace(make(), SAMPLE, target=2, preset="fast", outputs="labels"),
    ):
        report = trace.report
        assert report.original_prediction.outputs == "labels" and sum(report.original_prediction.probabilities) > 1.2
        assert report.original_prediction.probabilities == pytest.approx(model(SAMPLE[None])[0].tolist(), rel=1e-5)
        assert report.trace_prediction.probabilities[2] >= 0.9 * report.original_prediction.probabilities[2]
        assert report.is_target_kept
        assert type(report).from_dict(report.to_dict()) == report


def test_unknown_outputs() -> None:
    with pytest.raises(UnknownNameError, match=r"kind of outputs 'label'.*'labels'"):
        extract_trace(make(), SAMPLE, outputs="label")


def test_the_probability_of_a_label_is_what_insertion_counts() -> None:
    model = make(nn.Sigmoid())
    with torch.no_grad():
        model[5].weight.zero_()
        model[5].bias.copy_(torch.tensor(SIGMOIDS))
    found = faithfulness(model, SAMPLE, torch.rand(8, 8), 3)
    assert found.insertion == pytest.approx(float(torch.tensor(-2.0).sigmoid()))

"""What the page says of a prediction, a map, a layer and a search, in words and numbers."""

from __future__ import annotations

from typing import Any

import pytest
from references.pages import ATTACK, lose_prediction, make_layer, make_report, read


@pytest.fixture
def report() -> dict[str, Any]:
    return make_report()


def test_the_finding_comes_first(report: dict[str, Any]) -> None:
    page = read(report)
    assert (
        "photos/cat.jpg trace 89.4% pruned tabby 71%, rather than tiger cat 14% It rests on the outlined 6%"
        in page.text
    )
    assert page.find("p", "warning") == page.find("span", "flag") == []
    assert len(page.find("span", "badge")) == 1


def test_a_trace_that_is_hardly_pruned_does_not_pass_for_one_that_keeps(report: dict[str, Any]) -> None:
    report["samples"][0] |= {"status": "hardly pruned", "sparsity": 0.0007}
    page = read(report)
    assert len(page.find("span", "flag")) == 1
    assert "photos/cat.jpg trace hardly pruned" in page.text
    assert page.find("span", "badge") == []


def test_lost_prediction_is_said_and_warned_of(report: dict[str, Any]) -> None:
    lose_prediction(report["samples"][0])
    page = read(report)
    assert "photos/cat.jpg trace lost the prediction" in page.text
    assert len(page.find("p", "warning")) == len(page.find("span", "flag")) == 1
    assert "The trace does not keep the prediction." in page.text


def test_wrong_predictions_are_marked_and_put_right(report: dict[str, Any]) -> None:
    photo = report["samples"][0]
    photo["true_class"] = {"class_index": 281, "class_name": "tabby"}
    assert "wrong" not in read(report).text
    photo["true_class"] = {"class_index": 287, "class_name": "lynx"}
    text = read(report).text
    assert "photos/cat.jpg wrong" in text
    assert "The right class is lynx." in text


def test_explained_class_that_is_not_the_prediction_is_told_apart(report: dict[str, Any]) -> None:
    photo = report["samples"][0]
    photo["explained_class"] = {"class_index": 479, "class_name": "car wheel"}
    photo["original"]["explained_probability"], photo["trace"]["explained_probability"] = 0.0102, 0.0004
    page = read(report)
    assert "nothing tabby 71% 1.0%" in page.text
    assert len(page.find("tr", "explained")) == 1
    photo["status"] = "lost"
    assert "The trace does not keep the rank of car wheel." in read(report).text


def test_interventions_are_a_table(report: dict[str, Any]) -> None:
    text = read(report).text
    for row in (
        "What is covered The model says tabby nothing tabby 71% 71.3%",
        "the region filled from around lynx 52% 8.1% the region blurred lynx 52% 8.1%",
        "all but the region filled from around tabby 38% 38.0%",
        "random areas 20 of the same size changed in 1 of 20 69.0%",
        "the center filled from around tabby 66% 66.0%",
        "where the map of tiger cat is strongest filled from around tabby 59% 59.0%",
        "the smallest without which the prediction is lost is 3% of the photo; "
        "the smallest that keeps it with nothing else is 6% of the photo.",
    ):
        assert row in text, row
    finding = report["samples"][0]["finding"]
    finding |= {"center": None, "rival": None, "smallest_without": None, "smallest_alone": None}
    text = read(report).text
    assert "the center" not in text
    assert "the map of tiger cat" not in text
    assert "the prediction is lost is none; the smallest that keeps it with nothing else is none." in text


def test_maps_are_ranked_and_the_margin_is_said(report: dict[str, Any]) -> None:
    text = read(report).text
    assert "average shown 1.31 smoothgrad, trace 1.30 lrp, original model 1.02" in text
    assert "grad_cam, original model left out: The map is zero everywhere. –" in text
    assert (
        "The average of 2 maps fares best when what it ranks highest is covered: 1.31 of 2, ahead of smoothgrad" in text
    )
    finding = report["samples"][0]["finding"]
    finding["maps"][2]["doubt"] = "It does not depend on the weights."
    assert "lrp, original model doubtful: It does not depend on the weights. 1.02" in read(report).text
    finding["agreeing"] = ["smoothgrad, trace", "lrp, original model"]
    assert "The maps agree: covering what each ranks highest does about the same." in read(report).text
    finding["agreeing"] = []
    finding["maps"] = [finding["maps"][2] | {"score": 1.5}, *finding["maps"][:2]]
    text = read(report).text
    assert (
        "scores 1.31 of 2 when what it ranks highest is covered; lrp, original model fares best here with 1.50" in text
    )
    finding["maps"], finding["believed"] = finding["maps"][:1], "lrp, original model"
    assert "Only one map is sound here: lrp, original model." in read(report).text


@pytest.mark.parametrize(("side", "title"), [("original", "map of the original model"), ("trace", "map of the trace")])
def test_zero_map_is_warned_of(report: dict[str, Any], side: str, title: str) -> None:
    report["samples"][0]["maps"][side]["is_zero"] = True
    page = read(report)
    assert f"The {title} is zero everywhere." in page.text
    assert len(page.find("p", "warning")) == len(page.find("div", "zero")) == 1
    assert [words for words in ("zero map", "zero everywhere") if words in page.text] == ["zero map", "zero everywhere"]
    assert len(page.find("span", "flag")) == 2


def make_search(criterion: str = "probability", chosen: float | None = 0.02) -> dict[str, Any]:
    points = [(0.001, 0.1, 0.7, 0.98), (0.02, 0.5, 0.65, 0.91), (0.3, 0.9, 0.2, 0.28)]
    return {
        "criterion": criterion,
        "threshold": 0.9,
        "points": [
            {
                "error_bound": bound,
                "sparsity": sparsity,
                "probability": probability,
                "is_prediction_kept": probability > 0.5,
                "kept": kept,
            }
            for bound, sparsity, probability, kept in points
        ],
        "chosen_bound": chosen,
    }


def test_a_search_is_a_curve_and_a_table(report: dict[str, Any]) -> None:
    assert "Search for the sparsest trace" not in read(report).text
    report["samples"][0]["search"] = make_search()
    page = read(report)
    assert "at least 90.0% of the original model’s probability of the explained class" in page.text
    assert "Probability of tabby against sparsity" in page.text
    drawn = [
        (circle["class"], circle["cx"], circle["cy"])
        for circle in page.find("circle")
        if circle["class"] in {"original", "passed", "failed", "chosen"} and circle["cx"].endswith("%")
    ]
    assert drawn == [
        ("original", "0.00%", "28.70%"),
        ("passed", "10.00%", "30.00%"),
        ("chosen", "50.00%", "35.00%"),
        ("failed", "90.00%", "80.00%"),
    ]
    assert [line["y1"] for line in page.find("line", "required")] == ["4.5", "35.83%"]
    assert len(page.find("line", "step")) == 3
    assert "0.020 50.0% 65.0% kept 0.91 chosen" in page.text
    assert "0.30 90.0% 20.0% lost 0.28 failed" in page.text
    assert "all 3 traces that were tried" in page.text


def test_a_search_that_found_nothing_says_so(report: dict[str, Any]) -> None:
    report["samples"][0]["search"] = make_search(chosen=None)
    page = read(report)
    assert "No trace passed: no layer is pruned." in page.text
    assert len(page.find("circle", "chosen")) == 1  # in the legend
    report["samples"][0]["search"]["points"] = []
    assert "Search for the sparsest trace" in read(report).text


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        ("prediction", "the sparsest trace that keeps the prediction."),
        ("agreement", "that agrees with the original model on at least 90.0% of the held-out views."),
        ("insertion", "whose saliency map reaches at least 90.0% of the original model’s insertion score."),
    ],
)
def test_criteria_are_put_in_words(report: dict[str, Any], criterion: str, words: str) -> None:
    report["samples"][0]["search"] = make_search(criterion)
    page = read(report)
    assert words in page.text
    assert page.find("line", "required") == []


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0, "0.0%"), (0.0004, "<0.1%"), (0.7124, "71.2%"), (0.9996, ">99.9%"), (1.0, "100.0%")],
)
def test_percent_never_rounds_to_all_or_nothing(report: dict[str, Any], fraction: float, text: str) -> None:
    report["samples"][0]["sparsity"] = fraction
    assert f"Weights pruned {text} of" in read(report).text


@pytest.mark.parametrize(
    ("error", "text"),
    [(0.0, "0"), (0.0123, "0.012"), (0.00999, "0.010"), (0.996, "1.0"), (12.34, "12"), (3.21e-5, "3.2 × 10⁻⁵")],
)
def test_errors_have_two_significant_digits(report: dict[str, Any], error: float, text: str) -> None:
    report["samples"][0]["layers"] = [make_layer("a", error, None)]
    assert f"pruned 97.1% {text} – 1.2 s" in read(report).text


def test_convergence_delta_is_shown_with_its_sign(report: dict[str, Any]) -> None:
    assert "Convergence" not in read(report).text
    report["samples"][0]["maps"]["trace"]["convergence_delta"] = -0.00041
    assert "Convergence delta trace −4.1 × 10⁻⁴" in read(report).text


def test_checks_of_the_maps(report: dict[str, Any]) -> None:
    text = read(report).text
    assert "Checks of the maps: sound on the original model, sound on the trace" in text
    assert "to the map with random weights in the last layer 0.12 0.12" in text
    assert "doubtful" not in text
    assert "completeness" not in text
    checks = report["samples"][0]["maps"]["trace"]["soundness"]
    checks |= {"completeness": 0.123, "problems": [f"The values miss {ATTACK}."], "unchecked": ["No layer was found."]}
    report["samples"][0]["maps"]["original"]["soundness"]["gradient_similarity"] = -0.5
    text = read(report).text
    assert "sound on the original model, doubtful on the trace" in text
    assert f"The map of the trace is doubtful. The values miss {ATTACK}." in text
    assert "missed by the sum of the values – 12.3 %" in text
    assert "the plain gradient, or input × gradient −0.50 –" in text
    assert "On the trace: No layer was found." in text


def test_an_ensemble_says_what_was_averaged(report: dict[str, Any]) -> None:
    photo = report["samples"][0]
    photo["members"] += [
        {"sparsity": 0.71, "explained_probability": 0.66, "is_prediction_kept": True},
        {"sparsity": 0.502, "explained_probability": 0.31, "is_prediction_kept": False},
    ]
    photo["original_weight"] = 1.0
    text = read(report).text
    assert "the mean of the maps of the original model and of 3 traces" in text
    assert "Trace mean of 3 traces and the original model" in text
    assert "71.0% pruned, 66.0%; 50.2% pruned, 31.0% (prediction not kept)" in text
    photo["members"], photo["original_weight"] = photo["members"][:1], 0.0
    assert "the mean of the maps" not in read(report).text


def test_a_blur_is_said(report: dict[str, Any]) -> None:
    assert "blurred with a Gaussian" not in read(report).text
    report["settings"]["blur"] = 0.05
    assert "Both are blurred with a Gaussian whose standard deviation is 5.0% of the longer side." in read(report).text

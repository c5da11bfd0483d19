"""The page: complete in itself, safe, and readable without its pictures."""

from __future__ import annotations

import base64
import copy
import dataclasses
import hashlib
import re
from importlib import resources
from typing import Any

import jsonschema
import pytest
import torch
from references.pages import (
    ATTACK,
    SCHEMA,
    Page,
    lose_prediction,
    make_dense_layer,
    make_layer,
    make_photo,
    make_pictures,
    make_png,
    make_report,
    read,
    render,
)

from spadelens.errors import InputError
from spadelens.reports.html import render_report


@pytest.fixture
def report() -> dict[str, Any]:
    return make_report()


def descriptions_missing(schema: Any, path: str = "") -> list[str]:
    """Return every place that describes a value but says nothing about it, $ref followed."""
    missing: list[str] = []
    for key in ("properties", "$defs"):
        for name, field in schema.get(key, {}).items():
            target = SCHEMA["$defs"][field["$ref"].rsplit("/", 1)[1]] if "$ref" in field else {}
            if key == "properties" and "description" not in field and "description" not in target:
                missing.append(f"{path}/{name}")
            missing += descriptions_missing(field, f"{path}/{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict) and not {"description", "$ref"} & set(schema[key]):
            missing.append(f"{path}/{key}")
    return missing


def test_schema_is_valid_closed_and_describes_every_field(report: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert descriptions_missing(SCHEMA) == []
    jsonschema.validate(report, SCHEMA)
    for part in (report, report["model"], report["settings"], report["samples"][0], report["samples"][0]["original"]):
        for name in list(part):
            value = part.pop(name)
            with pytest.raises(jsonschema.ValidationError, match=f"'{name}' is a required property"):
                jsonschema.validate(report, SCHEMA)
            part[name] = value
        if part is report["settings"]:
            continue  # it lists every field of TraceOptions, so that one can be added in one place
        part["surplus"] = 1
        with pytest.raises(jsonschema.ValidationError, match="surplus"):
            jsonschema.validate(report, SCHEMA)
        del part["surplus"]


def test_page_needs_nothing_from_elsewhere(report: dict[str, Any]) -> None:
    html = render(report)
    page = Page(html)
    assert page.find("img")
    assert all(
        image["src"].startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for image in page.find("img")
    )
    links = [attributes["href"] for _, attributes in page.elements if "href" in attributes]
    assert all(link.startswith(("#", "data:")) for link in links)  # none to files beside it: pages are mailed
    assert not any("src" in attributes for tag, attributes in page.elements if tag != "img")
    assert [link["rel"] for link in page.find("link")] == ["icon"]
    assert "@import" not in html
    assert "url(" not in html
    assert not re.search(r"https?://", html)


def test_every_picture_has_words_and_its_size(report: dict[str, Any]) -> None:
    images = read(report).find("img")
    assert all((image["width"], image["height"]) == ("224", "192") for image in images)
    assert [image["alt"] for image in images] == [
        "Photo cat",
        "Photo without the region",
        "Photo with nothing else",
        "Map for tabby, over the photo",
        "Map for tabby",
        "Map for tabby on the original model, over the photo",
        "Map for tabby on the original model",
        "Map for tabby on the trace, over the photo",
        "Map for tabby on the trace",
        "Map by lrp, original model",
    ]
    assert not any("pixelated" in image["class"] for image in images)
    assert all("pixelated" in image["class"] for image in read(report, (64, 64)).find("img"))


def test_both_views_of_a_map_are_there_until_the_script_hides_one(report: dict[str, Any]) -> None:
    page = read(report)
    assert len(page.find("img", "overlay")) == len(page.find("img", "heatmap")) == 3
    assert "class" not in page.find("html")[0]
    style = (resources.files("spadelens") / "reports" / "templates" / "report.css").read_text(encoding="utf-8")
    hiding = [
        line for line in style.splitlines() if "display: none" in line and ("overlay" in line or "heatmap" in line)
    ]
    assert hiding and all(rule.lstrip().startswith(".js") for line in hiding for rule in line.split("{")[0].split(","))


def test_only_the_pages_own_script_may_run(report: dict[str, Any]) -> None:
    html = render(report)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [meta["content"] for meta in Page(html).find("meta") if "content" in meta and "http-equiv" in meta]
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy


def test_untrusted_text_stays_text(report: dict[str, Any]) -> None:
    photo = report["samples"][0]
    photo["file"], photo["name"], photo["explained_class"]["class_name"] = ATTACK + "1", ATTACK + "2", ATTACK + "3"
    for side in ("original", "trace"):
        photo[side]["class_name"] = ATTACK + "4"
        photo[side]["top"][0]["class_name"] = ATTACK + "5"
    photo["layers"] = [make_layer(ATTACK + "6"), {**make_dense_layer("a"), "detail": ATTACK + "7", "kind": ATTACK}]
    photo["scores"] = {
        "region": ATTACK + "8",
        "original": {"auc": 0.5, "pointing_game": True},
        "trace": {"auc": 0.5, "pointing_game": True},
    }
    finding = photo["finding"]
    finding["claim"], finding["grounds"] = ATTACK + "10", ATTACK + "11"
    finding["without"][0]["class_name"], finding["runner_up"]["class_name"] = ATTACK + "12", ATTACK + "13"
    finding["maps"][0]["name"] = finding["believed"] = ATTACK + "14"
    finding["left_out"][0]["reason"], photo["files"]["original_map"] = ATTACK + "15", ATTACK + "16"
    photo["true_class"] = {"class_index": 1, "class_name": ATTACK + "17"}
    report["command"], report["device"] = ATTACK + "9", ATTACK
    report["settings"]["target"] = report["settings"]["method_settings"]["a"] = report["model"]["spec"] = ATTACK
    report["versions"][ATTACK] = report["settings"]["solver"] = ATTACK
    report["seconds"][ATTACK] = 1.0
    photo["is_prediction_kept"] = False
    photo["status"] = "lost"
    photo["maps"]["trace"]["is_zero"] = True
    page = read(report)
    assert len(page.find("script")) == 1
    for number in {*range(1, 18)} - {2}:
        assert f"{ATTACK}{number}" in page.text
    attributes = {name for _, attributes in page.elements for name in attributes}
    assert not any(name.startswith("on") for name in attributes)


def test_top_classes_are_aligned_and_bounded_where_unknown(report: dict[str, Any]) -> None:
    page = read(report)
    assert len(page.find("td", "original")) == len(page.find("td", "trace")) == 4
    assert "tabby explained 71.3% 64.0%" in page.text
    assert "lynx 1.2% ≤ 2.2%" in page.text
    assert "Angora ≤ 1.2% 2.2%" in page.text


def test_scores_are_shown_only_where_there_are_any(report: dict[str, Any]) -> None:
    assert "AUC" not in read(report).text
    report["samples"][0]["scores"] = {
        "region": "the planted patch 'heart'",
        "original": {"auc": 0.8123, "pointing_game": False},
        "trace": {"auc": 0.9, "pointing_game": True},
    }
    page = read(report)
    assert "AUC 0.812 pointing game: miss" in page.text
    assert "AUC 0.900 pointing game: hit" in page.text
    assert "against the planted patch 'heart'" in page.text


def test_missing_errors_leave_gaps_and_are_not_zero(report: dict[str, Any]) -> None:
    photo = report["samples"][0]
    photo["num_held_out_views"] = 0
    photo["layers"] = [make_dense_layer("a"), make_layer("b", 0.01, None), make_layer("c", None, None)]
    page = read(report)
    assert len(page.find("circle", "seen")) == 1 + 1
    assert page.find("circle", "held-out") == page.find("line", "gap") == []
    assert "none held out" in page.text
    assert "not pruned: first layer – – – –" in page.text
    assert "pruned 97.1% 0.010 – 1.2 s" in page.text


def test_errors_lie_on_a_logarithmic_axis(report: dict[str, Any]) -> None:
    report["samples"][0]["layers"] = [
        make_layer("a", 2e-4, 1e-2),
        make_layer("b", 1e-3, 1.0),
        make_layer("c", 0.0, 0.0),
    ]
    page = read(report)
    (title, *_) = [row["title"] for row in page.find("div", "layer") if "title" in row]
    assert " ".join(title.split()) == (
        "a: Conv2d 64×64×3×3, pruned 97.1%, error 2.0 × 10⁻⁴, held-out error 0.010, 1.2 s"
    )
    assert [circle["cx"] for circle in page.find("circle", "seen")[1:]] == ["7.53%", "25.00%", "0.00%"]
    assert [circle["cx"] for circle in page.find("circle", "held-out")[1:]] == ["50.00%", "100.00%", "0.00%"]
    assert "10⁻⁴ 10⁻³ 10⁻² 10⁻¹ 1" in page.text


@pytest.mark.parametrize("num_layers", [0, 1, 160])
def test_any_number_of_layers(report: dict[str, Any], num_layers: int) -> None:
    report["samples"][0]["layers"] = [make_layer(f"block.{i}.conv", 10.0 ** -(i % 13)) for i in range(num_layers)]
    page = read(report)
    assert len(page.find("rect", "sparsity")) == num_layers + 1
    names = [row["title"].split(":")[0] for row in page.find("div", "layer") if "title" in row]
    assert names == [f"block.{i}.conv" for i in range(num_layers)]
    for ruler in re.findall(r'<div class="layer ruler">.*?</div>', render(report), re.DOTALL):
        assert 2 <= len(re.findall("<text", ruler)) - 3 <= 5


def test_unpruned_layers_show_why(report: dict[str, Any]) -> None:
    outcomes = ["unpruned", "excluded", "not called", "unsupported"]
    report["samples"][0]["layers"] = [{**make_dense_layer(outcome), "outcome": outcome} for outcome in outcomes]
    page = read(report)
    assert page.find("div", "unpruned")[2]["title"] == "not called: Conv2d 64×64×3×3, not called (first layer)"
    assert len(page.find("div", "unpruned")) == len(page.find("tr", "unpruned")) == 4
    shown = ["not pruned", *outcomes[1:]]
    assert all(page.text.count(f"{outcome}: first layer") == 2 for outcome in shown)


def test_several_photos_have_an_index_with_verdicts(report: dict[str, Any]) -> None:
    report["samples"] = [make_photo("a b"), make_photo("c"), make_photo("d")]
    lose_prediction(report["samples"][1])
    report["samples"][2]["maps"]["trace"]["is_zero"] = True
    report["samples"][2]["finding"]["is_carried"] = False
    report["samples"][0]["true_class"] = {"class_index": 287, "class_name": "lynx"}
    report["samples"][1]["true_class"] = {"class_index": 281, "class_name": "tabby"}
    page = read(report)
    assert "3 photos: 1 of 2 predictions wrong, a small region carries 2" in page.text
    targets = [link["href"] for link in page.find("a") if link["href"].startswith("#photo")]
    assert [f"#{article['id']}" for article in page.find("article")] == targets == ["#photo-1", "#photo-2", "#photo-3"]
    index = page.text[: page.text.index("photos/a b.jpg")]
    for words in ("wrong", "trace lost the prediction", "zero map"):
        assert index.count(words) == 1 + (words == "wrong"), words
    assert len(page.find("img")) == 3 * (10 + 2)
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_one_photo_has_no_index(report: dict[str, Any]) -> None:
    assert read(report).find("nav") == []


def test_every_setting_of_the_run_is_shown(report: dict[str, Any]) -> None:
    page = read(report)
    for words in (
        report["command"],
        "November 21, 2026, 02:43 UTC",
        "25,502,912",
        "224 × 192 px",
        "num_samples = 25",
        "baseline = none",
        "Target the predicted class",
        "Preset paper",
        "Solver sparsegpt",
        "Schedule heuristic",
        "Augmentation noise and crops",
        "Views 1,024",
        "Positions all",
        "Seed 0",
        "Device cuda:0 NVIDIA H200",
        "torch 2.9.1",
        "Wall-clock time: 1 min 25 s",
        "89.4% of 25,502,912",
    ):
        assert words in page.text, words
    assert "Precision" not in page.text
    report["settings"] |= {"target": "lynx", "positions_per_column": 2, "precision": "bfloat16"}
    for words in ("Target lynx", "Positions at most 2 per weight column of a layer", "Precision bfloat16"):
        assert words in read(report).text, words


def test_report_is_left_as_it_was(report: dict[str, Any]) -> None:
    before = copy.deepcopy(report)
    render(report)
    assert report == before


def test_missing_or_broken_pictures_are_refused(report: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"pictures of every photo.*\['cat'\]"):
        render_report(report, {})
    broken = dataclasses.replace(make_pictures(), trace_overlay=b"\xff\xd8\xff JPEG" * 9)
    with pytest.raises(InputError, match=r"trace_overlay of 'cat' is not a PNG"):
        render_report(report, {"cat": broken})


def test_the_region_is_outlined_in_pixels_of_what_the_model_sees(report: dict[str, Any]) -> None:
    (outline,) = [svg for svg in read(report).find("svg") if svg.get("aria-label") == "Outline of the region"]
    assert outline["viewbox"] == "0 0 224 192"
    assert {path["d"] for path in read(report).find("path") if "d" in path} == {"M1 1H5V5H1Z"}


def test_two_classes_that_are_compared_have_a_picture(report: dict[str, Any]) -> None:
    report["samples"][0]["finding"]["versus"] = {"class_index": 287, "class_name": "lynx"}
    contrasted = dataclasses.replace(make_pictures(), contrast=make_png("black"))
    page = Page(render_report(report, {"cat": contrasted}))
    assert [image["alt"] for image in page.find("img")].count("What speaks for tabby and for lynx") == 1
    assert "speaks for tabby, ■ for lynx" in page.text


def test_the_pointer_reads_the_map_off_in_percent(report: dict[str, Any]) -> None:
    assert not any("data-values" in attributes for _, attributes in read(report).elements)
    grid = torch.tensor([[0, 50, 100], [7, 8, 9]], dtype=torch.uint8)
    page = Page(render_report(report, {"cat": dataclasses.replace(make_pictures(), grid=grid)}))
    (map_,) = [attributes for _, attributes in page.elements if "data-values" in attributes]
    assert (map_["data-rows"], map_["data-columns"]) == ("2", "3")
    assert list(base64.b64decode(map_["data-values"])) == [0, 50, 100, 7, 8, 9]

"""Which layers are pruned, and how far."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from spadelens import extract_trace, load_model
from spadelens.demo.images import draw_image
from spadelens.errors import ScheduleError
from spadelens.schedules.schedule import (
    LateLayers,
    LayerInfo,
    Schedule,
    Table,
    TableWithFallback,
    Uniform,
    choose_layers,
    matching_layers,
)
from spadelens.schedules.schedule_text import _named_schedules, parse_schedule

NAMES = ["stem", "layer1.0.conv1", "layer1.0.conv2", "layer1.10.conv1", "layer2.0.conv1", "fc"]
LAYERS = [LayerInfo(name, name != "fc", name == "layer1.10.conv1") for name in NAMES]


def test_uniform_and_late() -> None:
    assert Uniform(0.3).sparsities(LAYERS) == dict.fromkeys(NAMES, 0.3)
    # Without the depthwise layer five count, of which floor(5 * 0.5) = 2 stay dense.
    assert LateLayers(0.6, 0.5).sparsities(LAYERS) == dict(zip(NAMES, [0, 0, 0.6, 0, 0.6, 0.6], strict=True))
    assert LateLayers(0.6, 0.0).sparsities(LAYERS) == dict(zip(NAMES, [0.6, 0.6, 0.6, 0, 0.6, 0.6], strict=True))
    assert LateLayers(0.6, 0.99).sparsities(LAYERS) == dict(zip(NAMES, [0, 0, 0, 0, 0, 0.6], strict=True))
    assert LateLayers().sparsities([]) == {}


def test_the_last_matching_rule_counts() -> None:
    table = Table((("*", 0.1), ("layer1.0", 0.5), ("layer1.*.conv1", 0.9)))
    assert list(table.sparsities(LAYERS).values()) == [0.1, 0.9, 0.5, 0.9, 0.1, 0.1]
    assert Table((("fc", 0.5),)).sparsities(LAYERS) == dict.fromkeys(NAMES, 0.0) | {"fc": 0.5}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layer1.0", ["layer1.0.conv1", "layer1.0.conv2"]),
        ("layer1.1", None),
        ("layer1", ["layer1.0.conv1", "layer1.0.conv2", "layer1.10.conv1"]),
        ("layer?.0.conv1", ["layer1.0.conv1", "layer2.0.conv1"]),
        ("layer[2-9]", ["layer2.0.conv1"]),
        ("fc", ["fc"]),
        ("FC", None),
        ("*", NAMES),
    ],
)
def test_patterns(pattern: str, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(ScheduleError, match="No layer that may be pruned matches the pattern"):
            matching_layers(pattern, NAMES)
    else:
        assert matching_layers(pattern, NAMES) == expected


def test_a_pattern_without_a_layer_suggests_one() -> None:
    with pytest.raises(ScheduleError, match=r"pattern 'layr1\.0'\. Did you mean 'layer1\.0'"):
        parse_schedule("layr1.0=0.5").sparsities(LAYERS)


def test_choose_layers() -> None:
    assert [layer.name for layer in choose_layers(LAYERS, None)] == NAMES[1:]
    assert [layer.name for layer in choose_layers(LAYERS[::-1], None)] == [n for n in NAMES[::-1] if n != NAMES[-2]]
    assert [layer.name for layer in choose_layers(LAYERS, ["fc", "stem"])] == ["stem", "fc"]
    assert choose_layers(LAYERS, []) == []
    assert choose_layers([LAYERS[-1]], None) == [LAYERS[-1]]


@pytest.mark.parametrize(
    ("given_as", "expected"),
    [
        (0.9, Uniform(0.9)),
        (0, Uniform(0)),
        (" 0.25 ", Uniform(0.25)),
        ("late", LateLayers()),
        ("late:0.8", LateLayers(0.8)),
        ("late:0.8@0.25", LateLayers(0.8, 0.25)),
        ("late:@0.25", LateLayers(start=0.25)),
        ("fc=0.5, layer1.* = 0.9,", Table((("fc", 0.5), ("layer1.*", 0.9)))),
        ({"fc": 0.5}, Table((("fc", 0.5),))),
        (LateLayers(0.1), LateLayers(0.1)),
    ],
)
def test_what_describes_a_schedule(given_as: object, expected: Schedule) -> None:
    assert parse_schedule(given_as) == expected


@pytest.mark.parametrize(
    ("given_as", "message"),
    [
        (1.0, r"sparsity 1\.0 for every layer: expected a number in \[0, 1\)"),
        (-0.1, "sparsity -0.1"),
        (float("nan"), "sparsity nan"),
        ("nan", "sparsity nan"),
        (True, "sparsity True"),
        (None, "sparsity None"),
        ("90%", r"Unknown schedule '90%': expected a number in \[0, 1\)"),
        ("", "Unknown schedule ''"),
        ("resnet50-lpr", "Did you mean 'resnet50-lrp'"),
        ("lat", "Did you mean 'late'"),
        ("late:x", "Cannot read the schedule 'late:x'"),
        ("late:1", "sparsity 1.0 for the late layers"),
        ("late:0.5@1", r"start pruning at 1\.0"),
        ("late:0.5@nan", "start pruning at nan"),
        ("fc=x", "Cannot read 'fc=x' in the schedule"),
        ("fc=1.5", "sparsity 1.5 for 'fc'"),
        ("fc=0.5,layer1", "Cannot read 'layer1' in the schedule"),
        ({}, "empty schedule"),
        ({"fc": "0.5"}, "sparsity '0.5' for 'fc'"),
        ({"fc": 1}, "sparsity 1 for 'fc'"),
        ("missing.json", "schedule file 'missing.json'.*No such file"),
    ],
)
def test_what_describes_none(given_as: object, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        parse_schedule(given_as)


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"*": 0.5, "fc": 0}))
    assert parse_schedule(str(path)) == Table((("*", 0.5), ("fc", 0)))
    for text in ("[0.5]", "{", '{"fc": NaN}', '{"fc": null}', "{}", "\x00"):
        path.write_text(text)
        with pytest.raises(ScheduleError):
            parse_schedule(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScheduleError, match="Cannot read the schedule file"):
        parse_schedule(str(path))


SPARSITIES = st.floats(0.0, 1.0, exclude_max=True)
PATTERNS = st.text("abc.*?0123", min_size=1, max_size=6)


@settings(max_examples=40, deadline=None, database=None)
@given(
    st.one_of(
        SPARSITIES.map(Uniform),
        st.builds(LateLayers, SPARSITIES, SPARSITIES),
        st.lists(st.tuples(PATTERNS, SPARSITIES), min_size=1, max_size=3).map(lambda rules: Table(tuple(rules))),
    )
)
def test_specs_round_trip(schedule: Schedule) -> None:
    assert parse_schedule(schedule.spec()) == schedule


@pytest.mark.parametrize(
    "schedule", [Uniform(0.9), LateLayers(), LateLayers(0.8, 0.25), Table((("fc", 0.5), ("a.*", 0.95)))]
)
def test_specs_are_short(schedule: Schedule) -> None:
    assert parse_schedule(schedule.spec()) == schedule
    assert len(schedule.spec()) < 20


@pytest.mark.parametrize("name", ["resnet50-lrp", "resnet50-visualization"])
def test_presets_fit_a_resnet50(name: str) -> None:
    blocks = {1: 3, 2: 4, 3: 6, 4: 3}
    names = (
        ["conv1"] + [f"layer{s}.{b}.conv{c}" for s, n in blocks.items() for b in range(n) for c in (1, 2, 3)] + ["fc"]
    )
    schedule = parse_schedule(name)
    assert isinstance(schedule, Table)
    found = schedule.sparsities([LayerInfo(n, n != "fc", False) for n in names[1:]])
    assert found["layer4.2.conv3"] == found["fc"] == 0.95
    assert found["layer1.2.conv1"] == 0.0
    assert set(found) == set(names[1:])


def test_every_schedule_that_comes_with_the_library_can_be_read() -> None:
    names = sorted(_named_schedules())
    assert {"resnet50-lrp", "resnet50-visualization", "demo-saliency"} <= set(names)
    for name in names:
        assert isinstance(parse_schedule(name), Table | TableWithFallback)


def test_those_that_were_tuned_on_the_bundled_network_fit_it() -> None:
    loaded = load_model("demo", "cpu")
    sample = loaded.preprocessing.to_tensor(Image.fromarray(draw_image(1, 5).pixels))
    for name in _named_schedules():
        if name.startswith("demo-"):
            trace = extract_trace(loaded.model, sample, preset="fast", schedule=name)
            assert trace.report.is_prediction_kept
            assert trace.report.pruned_layers

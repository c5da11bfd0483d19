"""One list of options, TraceOptions: keywords, command line, report and reproducing command follow from it."""

import dataclasses
import inspect
import shlex
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st
from references.networks import convolutions
from torch import nn

from spadelens import extract_ensemble, extract_group_trace, extract_trace, extract_traces, find_facets
from spadelens.cli.main import cli
from spadelens.cli.options import trace_options
from spadelens.errors import InputError, UnknownNameError
from spadelens.extraction.options import MOST_VIEWS, TraceOptions, option_fields
from spadelens.extraction.presets import PRESETS
from spadelens.schedules.schedule_text import parse_schedule
from spadelens.solvers import parse_solver
from spadelens.tasks.traces import completed, spell_command

SAMPLE = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
TAKERS = [extract_trace, extract_traces, extract_ensemble, extract_group_trace, find_facets]
CHOICES = st.fixed_dictionaries(
    {},
    optional={
        "preset": st.sampled_from(sorted(PRESETS)),
        "solver": st.sampled_from(["wanda", "sparsegpt:unit=kernel,damping=0.1", "obc", "auto"]),
        "schedule": st.sampled_from(["0.9", "late:0.8", "auto:threshold=0.8", "layer4.*=0.95,fc=0.9"]),
        "layers": st.lists(st.sampled_from(["blocks.4", "*.conv", "it's"]), min_size=1, max_size=3).map(tuple),
        "augmentation": st.sampled_from(["noise:std=0.1", "none", "paper"]),
        "num_views": st.integers(1, MOST_VIEWS),
        "positions_per_column": st.integers(0, 99),
        "seed": st.integers(0, 2**40),
        "batch_size": st.integers(1, 99),
        "memory_budget_mib": st.integers(1, 9999),
        "precision": st.sampled_from(["float32", "bfloat16"]),
    },
)


def make_net() -> nn.Module:
    return convolutions((8, 8), (4, 4), 3)


def read_back(command: str) -> dict[str, Any]:
    """The options that a command line stands for, read by click."""
    found: dict[str, Any] = {}

    @click.command()
    @trace_options("balanced")
    def read(**options: Any) -> None:
        found.update(options)

    finished = CliRunner().invoke(read, shlex.split(command))
    assert finished.exit_code == 0, finished.output
    return found


@settings(max_examples=60, deadline=None, database=None)
@given(CHOICES)
def test_the_words_of_a_command_stand_for_the_same_options(choices: dict[str, Any]) -> None:
    preset = choices.get("preset", "balanced")
    given_options = completed(TraceOptions.of(**choices), PRESETS[preset], preset)
    command = spell_command([], {}, given_options, trust=False).removeprefix("spadelens ")
    again = completed(TraceOptions.of(**read_back(command)), PRESETS[preset], preset)
    assert again.described() == given_options.described()
    assert again.solver == given_options.solver and again.schedule == given_options.schedule


@pytest.mark.parametrize("function", TAKERS)
def test_every_option_is_a_keyword_that_the_signature_and_the_docstring_show(function: Any) -> None:
    parameters = inspect.signature(function).parameters
    assert not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    for each in option_fields():
        assert parameters[each.name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[each.name].default == each.default
        assert f"{each.name}: {each.text.split()[0]}" in function.__doc__
    assert "{options}" not in function.__doc__
    names = [each.name for each in dataclasses.fields(TraceOptions)]
    assert len(names) == len(set(names)) == len(option_fields())


@pytest.mark.parametrize("command", ["explain", "visualize", "facets"])
def test_every_option_is_one_of_the_command_line_with_its_help(command: str) -> None:
    parameters = {each.name: each for each in cli.commands[command].params}
    for each in option_fields():
        shown = parameters[each.name]
        assert isinstance(shown, click.Option)
        assert each.flag in shown.opts and shown.help is not None and shown.help.startswith(each.text)


def test_every_option_is_in_the_report_of_a_trace() -> None:
    report = extract_trace(make_net(), SAMPLE, preset="instant", seed=7).report
    assert {each.name for each in option_fields()} <= set(report.settings)
    assert report.settings["seed"] == 7 and report.settings["preset"] == "instant"


@pytest.mark.parametrize("function", TAKERS)
def test_an_unknown_keyword_is_told_with_the_nearest_name(function: Any) -> None:
    target = {"target": 0} if function in (extract_group_trace, find_facets) else {}
    samples = SAMPLE if function in (extract_trace, extract_ensemble) else SAMPLE.expand(8, 3, 8, 8)
    with pytest.raises(UnknownNameError, match=r"Unknown option 'num_view'\. Did you mean 'num_views'"):
        function(make_net(), samples, num_view=3, **target)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_views": 0}, "num_views=0: expected an integer of at least 1"),
        ({"num_views": 999_999_999_999}, "at most 1,000,000"),
        ({"num_views": True}, "num_views=True"),
        ({"num_views": 2.0}, "num_views=2.0"),
        ({"seed": -1}, "seed=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"memory_budget_mib": 0}, "memory_budget_mib=0"),
        ({"positions_per_column": -1}, "positions_per_column=-1"),
    ],
)
def test_numbers_out_of_range_are_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TraceOptions(**changes)
    with pytest.raises(InputError, match=message):
        extract_trace(make_net(), SAMPLE, **changes)


def test_options_are_taken_as_an_object_and_changed_by_keywords() -> None:
    options = TraceOptions(solver="wanda", schedule=0.5, num_views=3)
    net = make_net()
    first = extract_trace(net, SAMPLE, options=options)
    second = extract_trace(net, SAMPLE, solver="wanda", schedule=0.5, num_views=3)
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in second.weights)
    third = extract_trace(net, SAMPLE, options=options, solver="magnitude")
    assert third.report.settings["solver"] == "magnitude" and third.report.settings["num_views"] == 3
    with pytest.raises(InputError, match="expected TraceOptions"):
        extract_trace(net, SAMPLE, options={"seed": 1})


def test_what_a_preset_fills_in_is_its_own() -> None:
    for name, preset in PRESETS.items():
        filled = completed(TraceOptions(seed=3), preset, name)
        assert filled.preset == name and filled.seed == 3
        assert filled.solver == parse_solver(preset.solver) and filled.schedule == parse_schedule(preset.schedule)
        assert (filled.num_views, filled.positions_per_column) == (preset.num_views, preset.positions_per_column)

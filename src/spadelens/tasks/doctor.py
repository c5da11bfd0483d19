"""The diagnosis of a model: what it is asked on, and how the answer is printed."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from spadelens.attribution.diagnosis import LayerDiagnosis, MethodDiagnosis, Verdict, diagnose_layers, diagnose_method
from spadelens.cli.console import stage_bar
from spadelens.errors import InputError
from spadelens.forward import class_scores
from spadelens.inputs.checks import check_sample
from spadelens.methods.registry import METHODS, Method
from spadelens.models import Loaded, LoadedTable, LoadedText, find_class
from spadelens.output import interrupts
from spadelens.settings import parse_configured
from spadelens.tasks.inputs import make_subjects, read_inputs
from spadelens.tasks.subjects import AnySubject, RowSubject, Subject, TextSubject, show

_SENTENCE = "The quick brown fox jumps over the lazy dog."
_STYLES = {Verdict.SOUND: "green", Verdict.DOUBTFUL: "yellow", Verdict.REFUSED: "red"}
_MOST_REASONS = 6
_MOST_SHOWN = 10.0
_LEGEND = (
    "missed: of the change of the score, by the sum of the values; kept: of the score, by the relevance; fit: of the "
    "linear model on unseen versions; gradient: similarity with the plain gradient (or input times gradient); head: "
    "similarity with the map of random weights in the last layer, near 1 where the class does not matter."
)


@dataclass(frozen=True)
class ModelDiagnosis:
    """What works on a model.

    Attributes:
        spec: The model.
        shown: What it was shown.
        class_name: The class that was explained.
        methods: The verdict on every method.
        layers: What traces can prune.
    """

    spec: str
    shown: str
    class_name: str
    methods: tuple[MethodDiagnosis, ...]
    layers: LayerDiagnosis


def diagnose(loaded: Loaded, file: Path | None, methods: Sequence[str], target: str | None) -> ModelDiagnosis:
    """Return what works on a model, as it shows on the sample in `file` or on one that is made up.

    Args:
        loaded: The model.
        file: A photo, a line of a text or a row of a table; None for random colors, a sentence or a random row.
        methods: Those to try; none for all.
        target: The class, by name or number; None for the predicted one.

    Raises:
        InputError: The file cannot be read, holds several samples, or is none for the model; UnknownNameError: there
            is no such method or class.
        ModelOutputError: The model fails on the sample.
    """
    wanted = parse_methods(methods)
    subject = _made_up(loaded) if file is None else _read(loaded, file)
    shown = show(loaded, subject, "none")
    model, sample = shown.model, check_sample(shown.model, shown.sample)
    scores = class_scores(model, sample.unsqueeze(0))[0]
    class_index = int(scores.argmax()) if target is None else find_class(target, loaded.class_names, len(scores))
    found = []
    with interrupts.raises(), stage_bar() as progress:
        for number, method in enumerate(wanted):
            progress("diagnose", number, len(wanted))
            found.append(diagnose_method(model, sample, method, class_index))
        interrupts.check()
    name = loaded.class_name(class_index)
    return ModelDiagnosis(loaded.spec, subject.file, name, tuple(found), diagnose_layers(model, sample))


def parse_methods(names: Sequence[str]) -> list[Method]:
    """Return the methods that `names` stand for, with settings as in 'lrp:rule=gamma'; all methods for none.

    Raises:
        UnknownNameError: There is no such method or setting; InputError: a setting is out of range.
    """
    return [parse_configured("method", name, METHODS) for name in names or METHODS]


def print_diagnosis(diagnosis: ModelDiagnosis, *, as_json: bool) -> None:
    """Print a diagnosis, as JSON or for a person."""
    console = Console(emoji=False)
    if as_json:
        console.out(json.dumps(to_dict(diagnosis), indent=2, allow_nan=False), highlight=False)
        return
    title = f"{diagnosis.spec}: class {diagnosis.class_name!r} of {diagnosis.shown}"
    console.print(escape(title) + "\n", soft_wrap=True, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("method", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for column in ("missed", "kept", "fit", "gradient", "head", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in diagnosis.methods:
        table.add_row(*_cells(one))
    console.print(table)
    console.print(f"\n{_LEGEND}\n", style="dim", highlight=False)
    for one in diagnosis.methods:
        for sentence in (one.reason, *(one.soundness.unchecked if one.soundness else ())):
            if sentence:
                console.print(f"[bold]{escape(one.method)}[/bold]: {escape(sentence)}", highlight=False)
    console.print("\n".join(_layer_lines(diagnosis.layers)), markup=False, highlight=False)


def to_dict(diagnosis: ModelDiagnosis) -> dict[str, Any]:
    """Return a diagnosis as data that JSON can hold."""
    data = dataclasses.asdict(diagnosis)
    for method in data["methods"]:
        method["verdict"] = method["verdict"].value
    return data


def _layer_lines(layers: LayerDiagnosis) -> list[str]:
    """Return how many layers traces can prune, and why not the others: the most common reasons."""
    count = len(layers.prunable) + len(layers.refused)
    lines = [f"Traces can prune {len(layers.prunable)} of {count} convolutions and linear layers."]
    reasons = Counter(layers.refused.values()).most_common()
    for reason, number in reasons[:_MOST_REASONS]:
        example = next(name for name, why in layers.refused.items() if why == reason)
        lines.append(f"  {number} not, as {example!r}: {reason}")
    rest = sum(number for _, number in reasons[_MOST_REASONS:])
    return [*lines, f"  {rest} not, for other reasons: see --json"] if rest else lines


def _cells(one: MethodDiagnosis) -> list[str]:
    checks = one.soundness
    cells = [escape(one.method), f"[{_STYLES[one.verdict]}]{one.verdict.value}[/]"]
    time = f"{one.seconds:.1f} s"
    if checks is None:
        return [*cells, *[""] * 5, time]
    shares = [_percent(value) for value in (checks.completeness, checks.conservation)]
    rest = (checks.fit, checks.gradient_similarity, checks.randomized_similarity)
    return [*cells, *shares, *("" if value is None else f"{value:.2f}" for value in rest), time]


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}" if abs(value) < _MOST_SHOWN else f"{'>' if value > 0 else '<-'}{_MOST_SHOWN:.0%}"


def _read(loaded: Loaded, file: Path) -> AnySubject:
    subjects = make_subjects(loaded, read_inputs([file]))
    if len(subjects) != 1:
        raise InputError(f"Cannot diagnose on {len(subjects)} samples: name one line, as in {subjects[0].file!r}.")
    return subjects[0]


def _made_up(loaded: Loaded) -> AnySubject:
    generator = torch.Generator().manual_seed(0)
    if isinstance(loaded, LoadedText):
        try:
            encoding = loaded.tokenizer.encode(_SENTENCE)
        except InputError as error:
            why = str(error).rstrip(".")
            raise InputError(f"Cannot diagnose on {_SENTENCE!r}: {why}. Name a FILE.txt that it can read.") from error
        return TextSubject("sentence", "a made-up sentence", _SENTENCE, encoding)
    if isinstance(loaded, LoadedTable):
        row = loaded.mean + loaded.std * torch.randn(len(loaded.feature_names), generator=generator)
        return RowSubject("row", "a random row", tuple(row.tolist()))
    height, width = loaded.preprocessing.crop_px
    return Subject("colors", "random colors", Image.fromarray(_colors(height, width, generator).numpy()))


def _colors(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return blotches of random colors, 8-bit `[height, width, 3]`."""
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return (smooth * 255).round().byte().permute(1, 2, 0).contiguous()

"""The diagnosis of a model: which methods are sound on it, and which layers traces can prune."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from spadelens.attribution import diagnosis
from spadelens.attribution.diagnosis import LayerDiagnosis, MethodDiagnosis, parse_methods
from spadelens.errors import InputError
from spadelens.forward import class_scores
from spadelens.inputs.checks import check_sample
from spadelens.models import Loaded, LoadedTable, LoadedText, find_class
from spadelens.progress import Progress
from spadelens.tasks.inputs import make_subjects, read_inputs
from spadelens.tasks.subjects import PhotoSubject, RowSubject, Subject, TextSubject, show

_SENTENCE = "The quick brown fox jumps over the lazy dog."


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


def diagnose(
    loaded: Loaded, file: Path | None, methods: Sequence[str], target: str | None, progress: Progress
) -> ModelDiagnosis:
    """Return what works on a model, as it shows on the sample in `file` or on one that is made up.

    Args:
        loaded: The model.
        file: A photo, a line of a text or a row of a table; None for random colors, a sentence or a random row.
        methods: Those to try; none for all.
        target: The class, by name or number; None for the predicted one.
        progress: Called as progress('diagnose', done, total).

    Raises:
        InputError: The file cannot be read, holds several samples, or is none for the model; UnknownNameError: there
            is no such method or class.
        ModelOutputError: The model fails on the sample.
    """
    parse_methods(methods)  # a wrong name is reported before the sample is read
    subject = _made_up(loaded) if file is None else _read(loaded, file)
    shown = show(loaded, subject, "none")
    class_index = None
    if target is not None:
        scores = class_scores(shown.model, check_sample(shown.model, shown.sample).unsqueeze(0))[0]
        class_index = find_class(target, loaded.class_names, len(scores))
    found = diagnosis.diagnose(shown.model, shown.sample, methods, target=class_index, progress=progress)
    return ModelDiagnosis(loaded.spec, subject.file, loaded.class_name(found.target), found.methods, found.layers)


def _read(loaded: Loaded, file: Path) -> Subject:
    subjects = make_subjects(loaded, read_inputs([file]))
    if len(subjects) != 1:
        raise InputError(f"Cannot diagnose on {len(subjects)} samples: name one line, as in {subjects[0].file!r}.")
    return subjects[0]


def _made_up(loaded: Loaded) -> Subject:
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
    return PhotoSubject("colors", "random colors", Image.fromarray(_colors(height, width, generator).numpy()))


def _colors(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return blotches of random colors, 8-bit `[height, width, 3]`."""
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return (smooth * 255).round().byte().permute(1, 2, 0).contiguous()

"""`explain`: one object that says what one prediction rests on, shows itself and writes itself to a report."""

from __future__ import annotations

import json
import sys
import tempfile
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from spadelens import snippets
from spadelens.attribution.heatmap import Heatmap
from spadelens.errors import InputError
from spadelens.extraction.ensemble import TraceEnsemble
from spadelens.extraction.options import TraceOptions, takes_trace_options
from spadelens.extraction.trace import Trace
from spadelens.files import whole_file
from spadelens.finding.finding import Finding
from spadelens.finding.sentence import claim, grounds
from spadelens.models import Loaded, LoadedModel, LoadedTable, LoadedText, load_model
from spadelens.photos import Preprocessing, read_photo, rgb_picture
from spadelens.pictures import as_picture, contrast_picture, outlined_picture, overlay_picture
from spadelens.progress import ProgressLike
from spadelens.progress_bars import is_in_notebook, reporting
from spadelens.reports.finding import covered_pictures, region_words
from spadelens.reports.html import render_report
from spadelens.reports.photo_pictures import draw_photo
from spadelens.reports.summary import Run, summarize_run, summarize_sample
from spadelens.tasks.explain import ExplainSettings, Explanation, explain as explain_subject, explain_settings
from spadelens.tasks.subjects import PhotoSubject, RowSubject, Subject, TextSubject, kind_of_model

Sample: TypeAlias = "Tensor | Image.Image | str | Path | Mapping[str, float] | Sequence[float] | NDArray[Any]"
_LONGEST_REPR = 300
_LONGEST_SHOWN = 2000  # in a notebook: the sentences at the end are those that warn


@final
@dataclass(frozen=True, eq=False, repr=False)
class Explained:
    """What one prediction rests on.

    In a notebook it shows itself. `print(explained.sentence)` is the answer in words, `explained.save("report.html")`
    writes the whole report.

    Attributes:
        explanation: Everything that was computed.
        loaded: The model.
        settings: How it was explained.
    """

    explanation: Explanation
    loaded: Loaded
    settings: ExplainSettings

    def __repr__(self) -> str:
        """Return the sentence, shortened."""
        return f"<Explained: {snippets.shortened(self.sentence, _LONGEST_REPR - 20)}>"

    @property
    def finding(self) -> Finding:
        """The region, what becomes of the prediction without it and with nothing else, and the controls."""
        return self.explanation.finding

    @property
    def sentence(self) -> str:
        """What the model says and what that rests on, in words."""
        return f"{self._claim}. {self._grounds}"

    @property
    def region(self) -> Tensor:
        """The units that the prediction rests on, boolean: `[H, W]` of a photo, `[tokens]` or `[features]`."""
        return self.finding.region

    @property
    def map(self) -> Heatmap:
        """The map in which the region was looked for, the average of all; of a photo, smoothed."""
        return replace(self.explanation.trace_map, values=self.finding.shown, method=self.finding.believed)

    @property
    def contrast(self) -> Heatmap | None:
        """What speaks for the target (above zero) and for the class that it is compared with (below); for photos."""
        return self.explanation.contrast

    @property
    def maps(self) -> Mapping[str, Heatmap]:
        """All maps that were compared, as the methods gave them, by name."""
        return self.explanation.candidates.maps

    @property
    def trace(self) -> Trace | TraceEnsemble:
        """The trace, or the ensemble of traces, that one of the maps was drawn on."""
        return self.explanation.trace

    def show(self) -> None:
        """Show the explanation: in a notebook below the cell, elsewhere as a report in the browser."""
        if is_in_notebook():
            sys.modules["IPython"].display.display(self)  # it is imported in a notebook
            return
        folder = Path(tempfile.mkdtemp(prefix="spadelens-"))
        self.save(folder / "report.html")
        webbrowser.open((folder / "report.html").as_uri())

    def save(self, path: str | Path) -> None:
        """Write the report: one self-contained page to a file `*.html`, or its numbers to a file `*.json`.

        Raises:
            InputError: The file has another suffix.
            OutputError: The file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in (".html", ".json"):
            raise InputError(
                f"Cannot save an explanation as {str(path)!r}: expected a name that ends in .html or .json."
            )
        report = self._report()
        if path.suffix.lower() == ".json":
            text = json.dumps(report, indent=2, allow_nan=False) + "\n"
        else:
            pictures = {}
            if isinstance(self.loaded, LoadedModel):
                pictures = {self.explanation.subject.name: draw_photo(self.explanation, self.loaded)}
            text = render_report(report, pictures)
        with whole_file(path) as temporary:
            Path(temporary).write_text(text, encoding="utf-8")

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the sentence, and the photo as it is, without the region and with it alone."""
        return snippets.block(self._claim, snippets.line(self._grounds, _LONGEST_SHOWN), self._shown())

    def _shown(self) -> str:
        explanation = self.explanation
        values = self.finding.shown.tolist()
        if isinstance(explanation.subject, TextSubject):
            return snippets.words([unit.name for unit in explanation.units], values)
        if isinstance(self.loaded, LoadedModel) and isinstance(explanation.subject, PhotoSubject):
            without, alone = covered_pictures(explanation, self.loaded)
            crop = explanation.subject.crop
            pictures = [outlined_picture(crop, self.region), without, alone, overlay_picture(self.finding.shown, crop)]
            captions = ["the region", "without it", "with nothing else", "map"]
            if explanation.contrast is not None:
                pictures.append(contrast_picture(explanation.contrast.values, crop))
                captions.append("blue speaks for the one class, orange for the other")
            return snippets.pictures(pictures, captions)
        return snippets.bars([unit.name for unit in explanation.units], values)

    @property
    def _claim(self) -> str:
        return claim(self.finding, self.loaded.class_name)

    @property
    def _grounds(self) -> str:
        words = region_words(self.explanation, self.loaded)
        return grounds(self.finding, self.loaded.class_name, words, kind_of_model(self.loaded))

    def _report(self) -> dict[str, Any]:
        explanation = self.explanation
        command = f"spadelens.explain({self.loaded.spec!r}, {explanation.subject.file!r})"
        run = Run(command, self.loaded, self.settings, explanation.trace.report, explanation.seconds)
        return summarize_run(run, [summarize_sample(explanation, self.loaded)])


@takes_trace_options
def explain(
    model: Loaded | nn.Module | str,
    sample: Sample,
    *,
    target: int | str | None = None,
    versus: int | str | None = None,
    method: str | None = None,
    candidates: Sequence[str] | None = None,
    blur: float = 0.0,
    class_names: Sequence[str] = (),
    progress: ProgressLike | None = None,
    options: TraceOptions | None = None,
    **changes: Any,
) -> Explained:
    """Return what a model's prediction for one sample rests on, checked by covering it on the model itself.

    Args:
        model: What `load_model` returned, a spec for it, or a module that maps batches of photos `[B, C, H, W]` or rows
            `[B, features]` to class scores.
        sample: For a loaded model of photos, a file, a picture or a tensor; of texts, a text; of rows, the raw values
            by name or in order. For a module, what it is given, without a batch dimension: `[C, H, W]` with one or
            three channels, or `[features]`.
        target: The class to explain, by name or number, or 'A - B' for A compared with B; by default the predicted one.
        versus: The class to compare it with, likewise; by default all others.
        method: As in `attribute`; by default SmoothGrad for photos, integrated gradients for texts and rows.
        candidates: Other methods whose maps of the model take part, for photos; by default LRP and Grad-CAM.
        blur: As in `attribute`.
        class_names: The names of the classes of a module.
        progress: True for a bar, or a callable; see `extract_trace`.
        options: How traces are made; see `TraceOptions`.
        **changes: The options:
        {options}

    Raises:
        SpadeError: An argument does not fit; the message says which and what is expected.
    """
    loaded, subject = _prepared(model, sample, class_names)
    given = TraceOptions.of(options, **changes)
    named = {name: None if value is None else str(value) for name, value in (("target", target), ("versus", versus))}
    others = () if candidates is None else candidates or ("none",)
    settings = explain_settings(loaded, method=method, blur=blur, candidates=others, **named, **vars(given))
    with reporting(progress) as report_to:
        explanation = explain_subject(loaded, subject, settings, report_to)
    return Explained(explanation, loaded, settings)


def _prepared(model: Loaded | nn.Module | str, sample: Sample, class_names: Sequence[str]) -> tuple[Loaded, Subject]:
    """Return the model and the sample as the tasks take them."""
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
        raise InputError(
            f"Cannot use {snippets.shortened(repr(class_names), 60)} as class names: expected a list of strings."
        )
    loaded = load_model(model) if isinstance(model, str) else model
    if isinstance(loaded, nn.Module):
        return _bare(loaded, sample, tuple(class_names))
    if isinstance(loaded, LoadedModel):
        return loaded, _photo(loaded, sample)
    if isinstance(loaded, LoadedText):
        if not isinstance(sample, str):
            raise InputError(f"Cannot explain a {type(sample).__name__} as a text: expected a string.")
        return loaded, TextSubject("text", "text", sample, loaded.tokenizer.encode(sample))
    if isinstance(loaded, LoadedTable):
        raw = loaded.sample(sample).raw  # type: ignore[arg-type]
        return loaded, RowSubject("row", "row", tuple(raw.tolist()))
    raise InputError(
        f"Cannot explain a {type(model).__name__}: expected a torch.nn.Module, what load_model returns, or a spec."
    )


def _photo(loaded: LoadedModel, sample: Sample) -> PhotoSubject:
    preprocessing = loaded.preprocessing
    if isinstance(sample, str | Path):
        return PhotoSubject("photo", str(sample), preprocessing.crop(read_photo(sample)))
    if isinstance(sample, Image.Image):
        return PhotoSubject("photo", "photo", preprocessing.crop(rgb_picture(sample)))
    if isinstance(sample, Tensor) and sample.dim() == 3 and len(sample) == len(preprocessing.mean):
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (preprocessing.mean, preprocessing.std))
        crop = as_picture((sample.detach().cpu().float() * std + mean).clamp(0, 1))
        return PhotoSubject("photo", "tensor", crop, sample=sample)
    shape = f" of shape {list(sample.shape)}" if isinstance(sample, Tensor) else ""
    raise InputError(
        f"Cannot explain a {type(sample).__name__}{shape}: expected the file of a photo, a picture, or a tensor "
        f"[{len(preprocessing.mean)}, H, W]."
    )


def _bare(model: nn.Module, sample: Sample, class_names: tuple[str, ...]) -> tuple[Loaded, Subject]:
    """Return a module and a tensor as the tasks take them; a photo is shown from its lowest to its highest value."""
    spec = type(model).__name__
    if not isinstance(sample, Tensor) or sample.dim() not in (1, 3) or not sample.numel():
        shape = f" of shape {list(sample.shape)}" if isinstance(sample, Tensor) else ""
        raise InputError(
            f"Cannot explain a {type(sample).__name__}{shape} with a bare module: expected a tensor [C, H, W] or "
            "[features]. For files, texts and raw rows, load the model with load_model."
        )
    if sample.dim() == 1:
        names = tuple(f"feature {number}" for number in range(len(sample)))
        zeros, ones = torch.zeros(len(sample)), torch.ones(len(sample))
        table = LoadedTable(spec, model, names, zeros, ones, None, class_names)
        return table, RowSubject("row", "tensor", tuple(sample.detach().cpu().tolist()))
    if not sample.is_floating_point() or not bool(torch.isfinite(sample).all()):
        raise InputError(
            f"Cannot explain a photo of {sample.dtype} numbers{' that are not finite' * sample.is_floating_point()}: "
            "expected finite floating-point numbers."
        )
    if len(sample) not in (1, 3):
        raise InputError(
            f"Cannot show a sample of {len(sample)} channels as a photo: expected one or three. Use extract_trace and "
            "attribute for others."
        )
    low, high = float(sample.detach().min()), float(sample.detach().max())
    span = high - low or 1.0
    mean, std = (-low / span,) * len(sample), (1 / span,) * len(sample)
    height, width = sample.shape[1:]
    loaded = LoadedModel(spec, model, Preprocessing((height, width), mean=mean, std=std), class_names)
    return loaded, _photo(loaded, sample)

"""What the rows of a table are: the models that heatmaps are drawn on, made for one image after the other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from PIL import Image
from torch import Tensor, nn

from spadelens.errors import InputError, SpadeError
from spadelens.evaluation.blocks import best_dropped
from spadelens.evaluation.sparse_fc import SparseFC, sparse_classifier
from spadelens.evaluation.tuning import CalibrationCase, TunedFile
from spadelens.extraction.ensemble import TraceEnsemble, extract_ensemble
from spadelens.extraction.extraction import extract_trace
from spadelens.extraction.presets import find_preset
from spadelens.extraction.storage import fingerprint
from spadelens.extraction.trace import Trace
from spadelens.models import LoadedModel
from spadelens.trojan.cases import to_batch
from spadelens.views.photo_views import parse_augmentation

Model: TypeAlias = Trace | TraceEnsemble | nn.Module
Options: TypeAlias = Mapping[str, Any]
_MOST_KEPT = 64  # traces in memory


@dataclass(frozen=True, eq=False)
class BenchImage:
    """An image of a table.

    Attributes:
        photo: Its name.
        sample: `[C, H, W]`.
        target: The class that is explained, which the original model predicts.
        region: What decides, bool `[H, W]`, where that is known.
        patch: The name of the patch that covers the region, or ''.
        clean_sample: The same image without the patch, where there is one.
        rival: Another patch, which does not decide, bool `[H, W]`, where there is one.
    """

    photo: str
    sample: Tensor
    target: int
    region: Tensor | None = None
    patch: str = ""
    clean_sample: Tensor | None = None
    rival: Tensor | None = None


@dataclass(eq=False)
class BenchContext:
    """Makes the models that rows ask for; what several rows need is made once.

    Attributes:
        loaded: The original network.
        subjects: The images.
        calibration: Images to choose on.
        schedules: Attribution method, with its settings -> the schedule tuned for it.
        training_images: Gives images as the network was trained on, for the baseline that is trained.
        preset: How the traces of controls are made.
        seed: Of everything that is drawn.
    """

    loaded: LoadedModel
    subjects: Sequence[BenchImage]
    calibration: Sequence[CalibrationCase]
    schedules: Mapping[str, TunedFile] = field(default_factory=dict)
    training_images: Callable[[], Sequence[Image.Image]] | None = None
    preset: str = "balanced"
    seed: int = 0
    _made: OrderedDict[str, Trace | TraceEnsemble | SpadeError] = field(default_factory=OrderedDict)
    _sparse_fc: SparseFC | None = None
    _dropped: tuple[str, nn.Module] | None = None

    @cached_property
    def fingerprint(self) -> str:
        """What identifies the weights of the network."""
        return fingerprint(self.loaded.model)

    def trace(self, number: int, is_clean: bool = False, **options: Any) -> Trace:
        """Return a trace of an image, or of the same image without its patch."""
        made = self._make("trace", number, is_clean, options)
        assert isinstance(made, Trace)
        return made

    def ensemble(self, number: int, **options: Any) -> TraceEnsemble:
        """Return an ensemble of traces of an image."""
        made = self._make("ensemble", number, False, options)
        assert isinstance(made, TraceEnsemble)
        return made

    def tuned_trace(self, number: int, method: str) -> Trace:
        """Return the trace of an image with the schedule that was tuned for a method, solved as it was tuned."""
        tuned = self.schedules[method]
        return self.trace(number, **{**tuned.options, "schedule": str(tuned.path)})

    def other(self, number: int, is_same_patch: bool) -> int:
        """Return the next image that has the same patch, or that has another one.

        Raises:
            InputError: There is none.
        """
        patch, count = self.subjects[number].patch, len(self.subjects)
        for other in ((number + step) % count for step in range(1, count)):
            if (self.subjects[other].patch == patch) == is_same_patch:
                return other
        raise InputError(f"There is no other image with {'the same' if is_same_patch else 'another'} patch.")

    def sparse_fc(self) -> nn.Module:
        """Return the network with a sparse classifier, trained when it is first asked for.

        Raises:
            InputError: There are no images to train it on, or the network does not end in a linear layer.
        """
        if self._sparse_fc is None:
            if self.training_images is None:
                raise InputError("Cannot train a sparse classifier without images: specify them with --data.")
            batch = to_batch(self.training_images(), self.loaded.preprocessing)
            device = next(self.loaded.model.parameters()).device
            self._sparse_fc = sparse_classifier(self.loaded.model, batch.to(device))
        return self._sparse_fc.model

    def without_block(self) -> nn.Module:
        """Return the network without the block that is best left out on the calibration images.

        Raises:
            InputError: No block can be left out.
        """
        self._dropped = self._dropped or best_dropped(self.loaded.model, self.calibration[:20], "saliency")
        if self._dropped is None:
            raise InputError(
                "No block of this network can be skipped: none returns a tensor of the shape of its input."
            )
        return self._dropped[1]

    def _make(self, kind: str, number: int, is_clean: bool, options: Options) -> Trace | TraceEnsemble:
        key = f"{kind} {number} {is_clean} {sorted(options.items())!r}"
        if key not in self._made:
            subject = self.subjects[number]
            sample, target = (subject.clean_sample, None) if is_clean else (subject.sample, subject.target)
            if sample is None:
                raise InputError(f"There is no image {subject.photo!r} without its patch.")
            extract = extract_trace if kind == "trace" else extract_ensemble
            try:
                self._made[key] = extract(self.loaded.model, sample, target=target, **self._complete(options))
            except SpadeError as error:  # the same would come of it for the next method
                self._made[key] = error
            if len(self._made) > _MOST_KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        made = self._made[key]
        if isinstance(made, SpadeError):
            raise made
        return made

    def _complete(self, options: Options) -> dict[str, Any]:
        preset = options.get("preset", self.preset)
        augmentation = options.get("augmentation", find_preset(preset).augmentation)
        preprocessing = self.loaded.preprocessing
        parsed = parse_augmentation(augmentation, preprocessing.mean, preprocessing.std)
        return {"seed": self.seed, **options, "preset": preset, "augmentation": parsed}


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a table.

    Attributes:
        name: What is compared.
        about: The same in a sentence.
        make: Returns, for an image and a method, what the heatmap is drawn on.
        is_control: Whether it is there so that a gain can be told from what something simpler gains.
        is_slow: Whether it is run on the first images only.
        needs: What it needs: 'clean' images without patch, 'schedules', 'patches', or ''.
    """

    name: str
    about: str
    make: Callable[[BenchContext, int, str], Model]
    is_control: bool = False
    is_slow: bool = False
    needs: str = ""


def trace_row(name: str, about: str, *, is_control: bool = False, is_slow: bool = False, **options: Any) -> Row:
    """Return the row of traces that `extract_trace` makes with `options`."""
    return Row(name, about, lambda bench, number, _: bench.trace(number, **options), is_control, is_slow)


def ensemble_row(name: str, about: str, *, is_control: bool = False, **options: Any) -> Row:
    """Return the row of ensembles that `extract_ensemble` makes with `options`."""
    return Row(name, about, lambda bench, number, _: bench.ensemble(number, **options), is_control)


ROWS: tuple[Row, ...] = (
    Row("original", "the network as it is", lambda bench, _number, _method: bench.loaded.model),
    trace_row("instant", "the preset of this name", preset="instant"),
    trace_row("fast", "the preset of this name", preset="fast"),
    trace_row("balanced", "the default preset", preset="balanced"),
    trace_row(
        "balanced, prediction kept",
        "pruned as long as the predicted class stays the same",
        preset="balanced",
        schedule="auto:criterion=prediction",
    ),
    ensemble_row("ensemble", "the mean over the original network and traces of several sparsities", preset="ensemble"),
    Row(
        "tuned",
        "the schedule tuned for the method, with fallback if it loses the prediction",
        lambda bench, number, method: bench.tuned_trace(number, method),
        needs="schedules",
    ),
    trace_row("paper", "SPADE as published, with our choice of sparsity", preset="paper", is_slow=True),
    trace_row("paper-fast", "FastSPADE as published, with our choice of sparsity", preset="paper-fast", is_slow=True),
    Row(
        "Sparse FC",
        "a sparse classifier on the original network (Wong et al. 2021)",
        lambda bench, _number, _method: bench.sparse_fc(),
    ),
    Row(
        "trace of another image, same patch",
        "the trace of the next image that shows the patch",
        lambda bench, number, _: bench.trace(bench.other(number, True)),
        is_control=True,
        needs="patches",
    ),
    Row(
        "trace of another image",
        "the trace of the next image that shows another patch",
        lambda bench, number, _: bench.trace(bench.other(number, False)),
        is_control=True,
        needs="patches",
    ),
    Row(
        "trace without the patch",
        "the trace of the same photo without its patch",
        lambda bench, number, _: bench.trace(number, is_clean=True),
        is_control=True,
        needs="clean",
    ),
    trace_row("magnitude", "the smallest weights pruned, along the same path", solver="magnitude", is_control=True),
    ensemble_row(
        "magnitude ensemble",
        "the ensemble of networks with the smallest weights pruned: the effect of averaging alone",
        preset="ensemble",
        solver="magnitude",
        is_control=True,
    ),
    Row(
        "ensemble of another image",
        "the ensemble of the next image that shows another patch",
        lambda bench, number, _: bench.ensemble(bench.other(number, False), preset="ensemble"),
        is_control=True,
        needs="patches",
    ),
    Row(
        "one block dropped",
        "the original network without the block that is best left out on the calibration images",
        lambda bench, _number, _method: bench.without_block(),
        is_control=True,
    ),
)
"""What tables compare, unless other rows are asked for."""

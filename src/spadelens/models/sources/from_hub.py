"""Image and text classifiers of transformers, from the Hugging Face hub or a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import nn

from spadelens.errors import ModelSpecError
from spadelens.models.loaded import Loaded, LoadedModel, LoadedText
from spadelens.models.sources.checkpoints import fit_checkpoint, read_checkpoint
from spadelens.models.sources.hub_images import HubImageClassifier, match_preprocessing
from spadelens.models.sources.hub_texts import HubTextClassifier, make_tokenizer
from spadelens.models.sources.network import quick_hub
from spadelens.prediction import Outputs

_Kind: TypeAlias = Literal["image", "text"]
_AUTO_CLASSES: dict[_Kind, str] = {
    "image": "AutoModelForImageClassification",
    "text": "AutoModelForSequenceClassification",
}


@dataclass(frozen=True)
class _Source:
    """Where a model lies, and whether code that lies there may be run."""

    spec: str
    place: str
    checkpoint: Path | None
    trust: bool

    @classmethod
    def parse(cls, spec: str, trust: bool) -> _Source:
        place = spec.removeprefix("hf:")
        if place and Path(place).is_dir():
            return cls(spec, place, None, trust)
        place, _, checkpoint = place.partition("@")
        if not place or (not Path(place).is_dir() and (place.count("/") > 1 or place.startswith((".", "/", "~")))):
            raise ModelSpecError(f"There is no folder {place!r} (from the model spec {spec!r}).")
        return cls(spec, place, Path(checkpoint) if checkpoint else None, trust)

    def read(self, auto_class: Any, what: str, **arguments: Any) -> Any:
        """Return what `from_pretrained` of a class of transformers makes of it.

        Raises:
            ModelSpecError: It fails.
        """
        try:
            return auto_class.from_pretrained(self.place, trust_remote_code=self.trust, **arguments)
        except Exception as error:  # transformers raises whatever its many parts raise
            if "trust_remote_code" in str(error):
                raise ModelSpecError(
                    f"Cannot load {self.spec!r} without running its code: pass --trust if you know where it comes from."
                ) from error
            where = f"the folder {self.place!r}" if Path(self.place).is_dir() else f"{self.place!r} on the hub"
            raise ModelSpecError(
                f"Cannot load the {what} of {self.spec!r} from {where} ({type(error).__name__}: {error}). "
                "Without a network, use a folder that holds the model: hf:FOLDER."
            ) from error


def load_hub(spec: str, trust: bool) -> Loaded:
    """Return the model of a spec 'hf:ORG/NAME' or 'hf:FOLDER', or of either with '@FILE'.

    Raises:
        ModelSpecError: transformers is not installed, or the model is not available, is not a classifier of images or
            texts, is quantized, lacks weights, or prepares images in a way that cannot be repeated.
    """
    try:
        import transformers
    except ImportError as error:
        raise ModelSpecError(
            f"Cannot load {spec!r} without transformers: pip install 'spadelens[hf]' ({error})."
        ) from error
    source = _Source.parse(spec, trust)
    with _quiet(), _hub_of(source):
        config = source.read(transformers.AutoConfig, "configuration")
        kind = _kind(config, source)
        classifier = _load_classifier(config, kind, source)
        if kind == "text":
            model: nn.Module = HubTextClassifier(classifier)
            tokenizer = make_tokenizer(source.read(transformers.AutoTokenizer, "tokenizer"), classifier, spec)
        else:
            processor = source.read(transformers.AutoImageProcessor, "preprocessing")
            preprocessing, is_reversed = match_preprocessing(processor, spec)
            model = HubImageClassifier(classifier, is_reversed)
    if source.checkpoint is not None:
        _fit(model, source.checkpoint, source)
    if kind == "text":
        return LoadedText(spec, model, tokenizer, _class_names(config), _outputs(config))
    return LoadedModel(spec, model, preprocessing, _class_names(config), _outputs(config))


def _kind(config: Any, source: _Source) -> _Kind:
    """Return what the configuration says the model classifies; refuses everything else."""
    from transformers.models.auto import modeling_auto

    if config.model_type == "timm_wrapper":
        raise ModelSpecError(f"{source.spec!r} is a model of timm: use timm:{Path(source.place).name}.")
    if getattr(config, "quantization_config", None) is not None:
        raise ModelSpecError(
            f"{source.spec!r} is quantized, and quantized weights cannot be pruned: use the unquantized model."
        )
    listed = list(getattr(config, "architectures", None) or [])
    known: dict[_Kind, Any] = {
        "image": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        "text": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    }
    remote = getattr(config, "auto_map", None) or {}
    for kind, names in known.items():
        found = names.get(config.model_type, ())
        if {found} & {*listed} if isinstance(found, str) else {*found} & {*listed}:
            return kind
        if source.trust and _AUTO_CLASSES[kind] in remote:
            return kind
    described = f"a {listed[0]}" if listed else f"of type {config.model_type!r} and does not say for which task"
    raise ModelSpecError(f"{source.spec!r} is {described}: expected an image or text classifier.")


def _load_classifier(config: Any, kind: _Kind, source: _Source) -> nn.Module:
    import transformers

    auto_class = getattr(transformers, _AUTO_CLASSES[kind])
    if config.num_labels < 2:
        raise ModelSpecError(
            f"{source.spec!r} returns {config.num_labels} value: expected scores of at least two classes."
        )
    if source.checkpoint is not None:
        model: nn.Module = auto_class.from_config(config, trust_remote_code=source.trust)
        return model
    if getattr(config, "problem_type", None) == "regression":
        raise ModelSpecError(
            f"{source.spec!r} predicts values (problem_type 'regression'), which are neither classes nor labels: "
            "only classifiers can be explained."
        )
    _refuse_pickles(source)
    model, found = source.read(
        auto_class,
        "weights",
        config=config,
        dtype="auto",
        output_loading_info=True,
        **({} if source.trust else {"use_safetensors": True}),
    )
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelSpecError(
            f"{source.spec!r} lacks {len(missing)} of its weights (first: {missing[0]!r}), which would be random: "
            "expected a model that was trained as a classifier."
        )
    return model


def _refuse_pickles(source: _Source) -> None:
    folder = Path(source.place)
    if not source.trust and folder.is_dir() and any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        raise ModelSpecError(
            f"The folder {source.place!r} holds weights only as pickles, which can run code: convert them to "
            "safetensors, or pass --trust if you know where they come from."
        )


def _fit(model: nn.Module, path: Path, source: _Source) -> None:
    """Load weights into a model: under the names of transformers, or those that the state of the wrapper has."""
    state = read_checkpoint(path, source.spec, source.trust)
    is_wrapped = state.keys() == model.state_dict().keys()
    classifier = model if is_wrapped else model.get_submodule("classifier")
    fit_checkpoint(classifier, state, path, source.spec)


def _outputs(config: Any) -> Outputs | None:
    """Return what a configuration says that the scores are for; None if it does not say."""
    known: dict[str | None, Outputs] = {
        "multi_label_classification": "labels",
        "single_label_classification": "classes",
    }
    return known.get(getattr(config, "problem_type", None))


def _class_names(config: Any) -> tuple[str, ...]:
    """Return the names in a configuration; none where they are those that transformers gives to classes without one."""
    labels = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    if all(name == f"LABEL_{index}" for index, name in labels.items()):
        return ()
    return tuple(labels.get(index, f"class {index}") for index in range(config.num_labels))


def _hub_of(source: _Source) -> AbstractContextManager[None]:
    return nullcontext() if Path(source.place).is_dir() else quick_hub()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting what it loads; downloads still show how far they are."""
    from huggingface_hub import utils as downloads
    from transformers.utils import logging

    verbosity, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    shows_downloads = not downloads.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        if shows_downloads:
            downloads.enable_progress_bars()
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_progress:
            logging.enable_progress_bar()
        (downloads.enable_progress_bars if shows_downloads else downloads.disable_progress_bars)()

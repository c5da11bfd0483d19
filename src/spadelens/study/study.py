"""`build_study`: tasks that ask people which part of a photo a visualization belongs to (section 4.2.2 of the paper).

A misclassified photo has two classes, its label and what is predicted, and the original model has a region for each
(Score-CAM). A task shows the visualization of one of the classes, on the original model or on the photo's trace, and
asks whose region it is.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spadelens.errors import InputError
from spadelens.extraction.report import package_versions
from spadelens.extraction.storage import fingerprint
from spadelens.files import Journal, make_folder, whole_file
from spadelens.forward import class_scores
from spadelens.models import LoadedModel, load_model
from spadelens.progress import Progress, ProgressLike
from spadelens.progress_bars import reporting
from spadelens.study.answers import ARMS, CHOICES, KEY_FILE, KEY_FORMAT
from spadelens.study.samples import CLASSES, KEPT, Candidate, SampleMaker, StudyOptions
from spadelens.trojan.cases import predict_classes
from spadelens.trojan.dataset import Dataset, read_split

FORMAT = "spadelens-study-1"
QUESTION = (
    "The visualization is a picture that one unit of a neural network responds to. One of the two marked parts of the "
    "photo, A or B, makes the same unit respond. Which one is it? Answer 'undecided' if you cannot tell."
)
_PUBLIC, _PICTURES, _TASKS = "public", "pictures", "tasks.json"
_JOURNAL = Path("private") / "samples.jsonl"
_BATCH_SIZE = 64
_ORDER_STREAM, _TASK_STREAM = 0x57D1, 0x57D2


@dataclass(frozen=True)
class Study:
    """The result of building a study.

    Attributes:
        folder: The folder with `public`, for the raters, and `private`, with the key.
        num_tasks: Four for each sample that was kept.
        num_photos: The number of photos examined.
        outcomes: The outcomes for misclassified photos: outcome -> count.
    """

    folder: Path
    num_tasks: int
    num_photos: int
    outcomes: Mapping[str, int]


def build_study(
    spec: str,
    data: Path,
    out: Path,
    options: StudyOptions | None = None,
    *,
    device: str = "auto",
    trust: bool = False,
    progress: ProgressLike | None = None,
) -> Study:
    """Make a study of a model: tasks, their pictures, and the key.

    Photos are examined in random order until there are enough samples: misclassified photos whose regions for the label
    and for the predicted class on the original model do not intersect. Each sample has four tasks: the visualization of
    either class, on the original model and on the trace of the sample. The key lists the skipped photos and why they
    were skipped. An interrupted run resumes where it stopped when called again with the same arguments.

    Args:
        spec: The model, as in `load_model`.
        data: Photos with labels, as in `read_split`; all of its parts are used.
        out: A folder. `public` is for the raters and reveals nothing about class, model or sample. `private` contains
            the key.
        options: How.
        device: As in `load_model`.
        trust: As in `load_model`.
        progress: True for a progress bar, as in `extract_trace`; or called as progress('study', done, total).

    Raises:
        ModelSpecError: The spec does not lead to a model; ModelOutputError: it does not give class scores.
        InputError: An argument is out of range, no photo has a label or can be used, or the folder is of another study.
        OutputError: The folder cannot be written.
    """
    options = options or StudyOptions()
    if (out / KEY_FILE).exists():
        raise InputError(f"The folder {str(out)!r} already contains a study: use it, or choose another folder.")
    loaded = load_model(spec, device, trust, kind="photo")
    photos = _labelled_photos(data, loaded, options.seed)
    make_folder((out / KEY_FILE).parent, inside=out)
    make_folder(out / _PUBLIC / _PICTURES, inside=out)
    journal = Journal(out / _JOURNAL, _is_record)
    _check_identity(journal, _identity(loaded, photos, options), out)
    maker = SampleMaker(loaded, options, out / _PUBLIC / _PICTURES)
    with reporting(progress) as report:
        records = _make_samples(maker, photos, journal, report)
    outcomes = Counter(record["outcome"] for record in records)
    kept = [record for record in records if record["outcome"] == KEPT]
    if not kept:
        raise InputError(_nothing_usable(data, len(photos), outcomes))
    num_photos = 1 + records[-1]["photo"] if len(kept) == options.num_samples else len(photos)
    about = {
        "model": spec,
        "options": asdict(options),
        "versions": package_versions(),
        "num_photos": num_photos,
        "outcomes": dict(outcomes),
    }
    rows = _write_tasks(out, kept, loaded, options.seed)
    _write_json(out / KEY_FILE, {"format": KEY_FORMAT, **about, "samples": records, "tasks": rows})
    return Study(out, len(rows), num_photos, outcomes)


def _nothing_usable(data: Path, num_photos: int, outcomes: Mapping[str, int]) -> str:
    listed = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    num_wrong = sum(outcomes.values())
    return (
        f"No photo in {str(data)!r} can be used for a study: of {num_photos} with a label, {num_wrong} are "
        f"misclassified{f' ({listed})' if listed else ''}. Use more photos or smaller regions."
    )


def _labelled_photos(data: Path, loaded: LoadedModel, seed: int) -> list[tuple[Dataset, int]]:
    """Return all photos with a label, each as its data set and index, in an order that the seed determines."""
    device = next((parameter.device for parameter in loaded.model.parameters()), torch.device("cpu"))
    preprocessing = loaded.preprocessing
    probe = torch.zeros(1, len(preprocessing.mean), *preprocessing.crop_px, device=device)
    split = read_split(data, loaded.class_names, class_scores(loaded.model, probe).shape[1], seed)
    parts = (split.training, split.held_out)
    photos = [(part, index) for part in parts for index, label in enumerate(part.labels) if label is not None]
    if not photos:
        raise InputError(
            f"No photo in {str(data)!r} has a label: expected one folder per class, named after it, or labels.json."
        )
    order = np.random.default_rng((seed, _ORDER_STREAM)).permutation(len(photos))
    return [photos[index] for index in order.tolist()]


def _identity(loaded: LoadedModel, photos: Sequence[tuple[Dataset, int]], options: StudyOptions) -> dict[str, Any]:
    listed = "\n".join(f"{part.names[index]}\t{part.labels[index]}" for part, index in photos)
    return {
        "model": fingerprint(loaded.model),
        "photos": hashlib.blake2b(listed.encode(errors="surrogateescape"), digest_size=8).hexdigest(),
        "options": asdict(options),
    }


def _is_record(record: Any) -> bool:
    """Return whether a line of a journal is the identity of a study, or tells what became of a photo."""
    is_photo = isinstance(record, dict) and isinstance(record.get("photo"), int) and "outcome" in record
    return is_photo or (isinstance(record, dict) and record.keys() == {"model", "photos", "options"})


def _check_identity(journal: Journal, identity: Mapping[str, Any], out: Path) -> None:
    """Begin the journal, or refuse to go on with that of another study."""
    if not journal.records:
        journal.append(identity)
    if journal.records[0] != identity:
        raise InputError(
            f"Cannot resume the study in {str(out)!r}: it was started with a different model, photos or options. "
            "Use another folder, or delete it."
        )


def _make_samples(
    maker: SampleMaker, photos: Sequence[tuple[Dataset, int]], journal: Journal, progress: Progress
) -> list[dict[str, Any]]:
    """Return what became of the misclassified photos, in order, up to the last that was needed."""
    steps = len(CLASSES) * maker.options.num_steps
    total = steps * maker.options.num_samples
    known = {record["photo"]: record for record in journal.records[1:]}
    records: list[dict[str, Any]] = []
    num_kept = 0
    progress("study", 0, total)
    for candidate in _misclassified(maker.loaded, photos):
        if candidate.number not in known:
            record = maker.make(candidate, _shifted(progress, num_kept * steps, total))
            journal.append(record)
            known[candidate.number] = record
        records.append(known[candidate.number])
        num_kept += records[-1]["outcome"] == KEPT
        progress("study", num_kept * steps, total)
        if num_kept == maker.options.num_samples:
            break
    return records


def _shifted(progress: Progress, start: int, total: int) -> Callable[[int], None]:
    return lambda done: progress("study", start + done, total)


def _misclassified(loaded: LoadedModel, photos: Sequence[tuple[Dataset, int]]) -> Iterator[Candidate]:
    """Read photos batch by batch; yield those whose label is not what the model predicts."""
    for start in range(0, len(photos), _BATCH_SIZE):
        part = photos[start : start + _BATCH_SIZE]
        crops = [loaded.preprocessing.crop(dataset.photo(index)) for dataset, index in part]
        predicted = predict_classes(loaded.model, crops, loaded.preprocessing).tolist()
        for offset, ((dataset, index), crop) in enumerate(zip(part, crops, strict=True)):
            label = dataset.labels[index]
            if label is not None and label != predicted[offset]:
                yield Candidate(start + offset, dataset.names[index], (label, predicted[offset]), crop)


def _write_tasks(out: Path, kept: Sequence[Mapping[str, Any]], loaded: LoadedModel, seed: int) -> list[dict[str, Any]]:
    """Write the tasks in random order, A and B at random; returns what is known of each."""
    rng = np.random.default_rng((seed, _TASK_STREAM))
    every = [(record, which, arm) for record in kept for which in (0, 1) for arm in ARMS]
    digits = len(str(len(every)))
    tasks, rows = [], []
    for place, index in enumerate(rng.permutation(len(every)).tolist(), start=1):
        record, which, arm = every[index]
        name, is_swapped = f"t{place:0{digits}d}", bool(rng.integers(2))
        first, second = reversed(CLASSES) if is_swapped else CLASSES
        files = {
            "photo": "photo",
            "visualization": f"{arm} {CLASSES[which]}",
            "a": f"region {first}",
            "b": f"region {second}",
        }
        tasks.append({"task": name} | {key: f"{_PICTURES}/{record['pictures'][of]}" for key, of in files.items()})
        rows.append(
            {
                "task": name,
                "sample": str(record["photo"]),
                "photo": record["name"],
                "arm": arm,
                "correct": CHOICES[CLASSES[which] != first],
                "shown": CLASSES[which],
                "class": record["classes"][which],
                "class_name": loaded.class_name(record["classes"][which]),
            }
        )
    listing = {"format": FORMAT, "question": QUESTION, "answers": list(CHOICES), "tasks": tasks}
    _write_json(out / _PUBLIC / _TASKS, listing)
    return rows


def _write_json(file: Path, listing: Mapping[str, Any]) -> None:
    with whole_file(file) as temporary:
        temporary.write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")

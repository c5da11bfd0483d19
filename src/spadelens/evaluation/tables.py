"""The paper's tables, with its baselines and the controls: which heatmap finds what decided, which one is faithful?

Table 1 scores heatmaps of images with a planted patch by where the patch is; table 2 scores heatmaps of clean images by
insertion and deletion, judged by the original network.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from spadelens.attribution.attribution import attribute
from spadelens.errors import InputError, SpadeError
from spadelens.evaluation.bench_context import BenchContext, BenchImage, Model, Row
from spadelens.extraction.ensemble import TraceEnsemble
from spadelens.extraction.pipeline.perturbation import blurred
from spadelens.extraction.trace import Trace, runnable
from spadelens.files import Journal
from spadelens.forward import class_scores
from spadelens.inputs.checks import check_sample
from spadelens.methods.registry import METHODS as KNOWN_METHODS
from spadelens.metrics.insertion_deletion import faithfulness
from spadelens.metrics.localization import localize, pixel_auc
from spadelens.progress import Progress
from spadelens.settings import parse_configured
from spadelens.trojan.cases import Planted, predict_classes

Cell: TypeAlias = Mapping[str, Any]

METHODS = (
    "saliency",
    "smoothgrad:noise_std=0.25,num_samples=20",
    "smoothgrad:noise_std=0.5,num_samples=20",
    "input_x_gradient",
    "integrated_gradients:num_steps=16",
    "gradient_shap:num_samples=16",
    "occlusion",
)
"""The methods of a table, with settings that keep it affordable."""
BLURS = (0.02, 0.05, 0.08)
"""Standard deviations of the blurred maps that are scored besides, as fractions of the longer side."""
TABLES = ("table1", "table2")


@dataclass(frozen=True)
class Results:
    """What was measured.

    Attributes:
        table: 'table1' or 'table2'.
        methods: The methods, with their settings.
        rows: Their names, in order.
        cells: (row, image, method) -> scores: for table 1 'auc', 'hit', with a rival 'between' (the AUC of the region
            against the rival alone), and 'blurred' (blur -> the same), for table 2
            'insertion' and 'deletion'; 'is_zero', whether the map is zero everywhere; 'is_kept', whether what the map
            is drawn on predicts the class; 'sparsity' where something is pruned. Or 'error', where the map could not be
            drawn.
        images: For each image its photo and its patch.
        seconds: (row, image) -> what it took.
    """

    table: str
    methods: Sequence[str]
    rows: Sequence[str]
    cells: Mapping[tuple[str, int, str], Cell]
    images: Sequence[Mapping[str, str]]
    seconds: Mapping[tuple[str, int], float]


def subjects_of(planted: Planted, table: str, count: int) -> list[BenchImage]:
    """Return the images of a table: the test cases, or for table 2 the photos that these were made of, without patch.

    Raises:
        InputError: There is no such table.
    """
    if table not in TABLES:
        raise InputError(f"There is no table {table!r}: expected one of {', '.join(TABLES)}.")
    to_tensor = planted.loaded.preprocessing.to_tensor
    if table == "table1":
        return [
            BenchImage(
                case.photo, to_tensor(case.image), case.target, case.region, case.patch, to_tensor(case.clean_image)
            )
            for case in planted.cases[:count]
        ]
    photos = {case.photo: case.clean_image for case in planted.cases}
    chosen = list(photos.items())[:count]
    targets = predict_classes(planted.loaded.model, [image for _, image in chosen], planted.loaded.preprocessing)
    return [
        BenchImage(photo, to_tensor(image), target)
        for (photo, image), target in zip(chosen, targets.tolist(), strict=True)
    ]


def run_table(
    bench: BenchContext,
    table: str,
    rows: Sequence[Row],
    journal: Path,
    *,
    methods: Sequence[str] = METHODS,
    num_slow: int = 4,
    progress: Progress | None = None,
) -> Results:
    """Score the heatmaps of every row on every image with every method.

    Args:
        bench: The network and the images.
        table: 'table1' or 'table2'.
        rows: What is compared.
        journal: File of what has been measured, to which more is appended: an interrupted run goes on from there, and
            rows, methods and images can be added later. Entries that failed are tried again.
        methods: Attribution methods, with settings.
        num_slow: On how many images slow rows are run.
        progress: Called as progress('bench', done, total).

    Raises:
        InputError: There are no images, rows or methods; OutputError: the journal cannot be written.
    """
    if not bench.subjects or not rows or not methods:
        raise InputError(
            f"Cannot fill a table of {len(bench.subjects)} images, {len(rows)} rows and {len(methods)} methods."
        )
    for method in methods:
        parse_configured("method", method, KNOWN_METHODS)
    kept = Journal(journal, _is_record)
    score = _score_region if table == "table1" else _score_faithfulness
    rows = [row for row in rows if _is_possible(row, bench)]
    wanted = [
        (number, row)
        for number in range(len(bench.subjects))
        for row in rows
        if not (row.is_slow and number >= num_slow)
    ]
    identities = {(row.name, number): _identity(bench, table, row, number) for number, row in wanted}
    known = _known(kept, identities)
    for done, (number, row) in enumerate(wanted):
        if progress:
            progress("bench", done, len(wanted))
        new = [
            method
            for method in methods
            if (row.name, number, method) not in known and (row.needs != "schedules" or method in bench.schedules)
        ]
        if new:
            start = time.perf_counter()
            cells = {method: _measure(bench, row, number, method, score) for method in new}
            about = {"identity": identities[row.name, number], "row": row.name, "image": number}
            record = about | {"cells": cells, "seconds": time.perf_counter() - start}
            kept.append(record)
            known.update({(row.name, number, method): record for method in new})
    found = {key: record for key, record in known.items() if key[2] in methods}
    return Results(
        table=table,
        methods=tuple(methods),
        rows=[row.name for row in rows],
        cells={key: record["cells"][key[2]] for key, record in found.items()},
        images=[{"photo": subject.photo, "patch": subject.patch} for subject in bench.subjects],
        seconds={(row, number): record["seconds"] for (row, number, _), record in found.items()},
    )


def _known(journal: Journal, identities: Mapping[tuple[str, int], str]) -> dict[tuple[str, int, str], Any]:
    """Return (row, image, method) -> the record in which its cell is, of those that are of this run."""
    return {
        (record["row"], record["image"], method): record
        for record in journal.records
        if identities.get((record["row"], record["image"])) == record["identity"]
        for method, cell in record["cells"].items()
        if "error" not in cell
    }


def _is_record(record: Any) -> bool:
    """Return whether a line of a journal is what `run_table` writes."""
    return (
        isinstance(record, dict)
        and {"identity", "row", "image", "cells", "seconds"} <= record.keys()
        and isinstance(record["row"], str)
        and isinstance(record["image"], int)
        and isinstance(record["cells"], dict)
        and all(isinstance(cell, dict) for cell in record["cells"].values())
    )


def _is_possible(row: Row, bench: BenchContext) -> bool:
    """Whether a row has what it needs, for all images."""
    patches = {subject.patch for subject in bench.subjects}
    return {
        "": True,
        "schedules": bool(bench.schedules),
        "patches": len(patches - {""}) > 1,
        "clean": all(subject.clean_sample is not None for subject in bench.subjects),
    }[row.needs]


def _measure(
    bench: BenchContext,
    row: Row,
    number: int,
    method: str,
    score: Callable[[nn.Module, BenchImage, Tensor], dict[str, Any]],
) -> dict[str, Any]:
    subject = bench.subjects[number]
    try:
        model = row.make(bench, number, method)
        heatmap = attribute(model, subject.sample, method, target=subject.target, check=False)
        found = score(bench.loaded.model, subject, heatmap.values) | {"is_zero": heatmap.is_zero}
        return found | _describe(model, subject)
    except SpadeError as error:  # a row that cannot be had for an image, or with a method, is reported as such
        return {"error": f"{type(error).__name__}: {error}"}


def _score_region(model: nn.Module, subject: BenchImage, heatmap: Tensor) -> dict[str, Any]:
    del model
    of_blurred = {
        str(blur): _localize(blurred(heatmap.unsqueeze(0), blur * max(heatmap.shape))[0], subject) for blur in BLURS
    }
    return _localize(heatmap, subject) | {"blurred": of_blurred}


def _localize(heatmap: Tensor, subject: BenchImage) -> dict[str, Any]:
    assert subject.region is not None
    found = localize(heatmap, subject.region)
    scores = {"auc": found.auc, "hit": found.pointing_game}
    if subject.rival is not None:
        either = subject.region | subject.rival
        scores["between"] = pixel_auc(heatmap[either].unsqueeze(0), subject.region[either].unsqueeze(0))
    return scores


def _score_faithfulness(model: nn.Module, subject: BenchImage, heatmap: Tensor) -> dict[str, Any]:
    found = faithfulness(model, subject.sample, heatmap, subject.target)
    return {"insertion": found.insertion, "deletion": found.deletion}


def _describe(model: Model, subject: BenchImage) -> dict[str, Any]:
    """Return whether the class is still predicted, and how much is pruned; of an ensemble's first member."""
    if isinstance(model, TraceEnsemble):
        model = model.members[0]
    if not isinstance(model, Trace):
        predicted = int(class_scores(model, check_sample(model, subject.sample).unsqueeze(0)).argmax())
        return {"is_kept": predicted == subject.target}
    sparse = runnable(model)
    predicted = int(class_scores(sparse, check_sample(sparse, subject.sample).unsqueeze(0)).argmax())
    num_pruned = sum(int(pruned.sum()) for pruned in model.pruned.values())
    num_weights = sum(torch.Size(layer.shape).numel() for layer in model.report.layers)
    return {"is_kept": predicted == subject.target, "sparsity": num_pruned / num_weights}


def _identity(bench: BenchContext, table: str, row: Row, number: int) -> str:
    """Return a name for what the cells of a row and an image depend on."""
    subject = bench.subjects[number]
    digest = hashlib.sha256(subject.sample.numpy().tobytes())
    digest.update(f"{table} {bench.fingerprint} {bench.preset} {bench.seed} {row.about} {subject.target}".encode())
    if row.needs == "schedules":
        for method, tuned in sorted(bench.schedules.items()):
            digest.update(method.encode() + tuned.path.read_bytes())
    if row.needs == "patches":
        digest.update(str([other.photo for other in bench.subjects]).encode())
    return digest.hexdigest()[:12]

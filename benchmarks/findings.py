"""What findings are worth: regions on planted patches, and the order of pixels on clean photos, with controls.

    python benchmarks/findings.py patches --planted demo --planted planted/resnet20 --cases 40 --out findings
    python benchmarks/findings.py photos --model mine.py:build --data photos --cases 100 --out findings

`patches` takes networks with planted patches (`spadelens backdoor plant`, or 'demo'). For every case it measures the
area under the ROC curve of the shown map against the patch, the intersection over union of the region with the box of
the patch, and how often the model's answer without the region is the one it gives without the patch, beside the same
where the true box is covered. With two patches of which one decides, it counts how often the region is on that one.

`photos` takes any model and photos: insertion and deletion of the shown order beside Grad-CAM and occlusion, how many
photos have a small region that carries the prediction, and how large it is.

Both run with different sets of candidates, so that the part of the traces and of LRP can be told; with --versus, the
class is explained against its runner-up rather than by its score alone. Every case is a line
of a .jsonl file in --out, from which an interrupted run goes on; tables are printed and written as Markdown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import spadelens
from spadelens.attribution.heatmap import Heatmap
from spadelens.evaluation.cues import harder_images
from spadelens.extraction.trace import runnable
from spadelens.finding.candidates import candidates_of
from spadelens.finding.coverings import coverings_for
from spadelens.finding.finding import Finding, find
from spadelens.finding.interventions import Asked
from spadelens.forward import class_scores
from spadelens.models import LoadedModel
from spadelens.photos import photo_files, read_photo
from spadelens.trojan.planted import read_planted

_STRIDE = 4  # every fourth photo first: a few are of many classes, and a longer run only adds to a shorter one

TRACE, ORIGINAL = "smoothgrad on the trace", "smoothgrad on the original model"
SETTINGS: Mapping[str, Callable[[str], bool]] = {
    "all": lambda name: bool(name),
    "without LRP": lambda name: not name.startswith("lrp"),
    "without traces": lambda name: "trace" not in name,
    "without traces and LRP": lambda name: "trace" not in name and not name.startswith("lrp"),
    "SmoothGrad, original model": lambda name: name == ORIGINAL,
    "SmoothGrad, trace": lambda name: name == TRACE,
    "LRP": lambda name: name.startswith("lrp"),
    "Grad-CAM": lambda name: name.startswith("grad_cam"),
}


ON_PHOTOS = ("all", "without LRP", "without traces", "SmoothGrad, original model")


def runner_up_of(model: nn.Module, sample: Tensor, target: int) -> int:
    """Return the class with the highest score but the target's."""
    best = class_scores(model, sample.unsqueeze(0))[0].topk(2).indices.tolist()
    return int(best[best[0] == target])


def maps_of(
    model: nn.Module, sample: Tensor, target: int, versus: int | None = None
) -> tuple[Mapping[str, Heatmap], float]:
    """Return the candidate maps of a sample, as `spadelens explain` makes them, and the seconds they took."""
    start = time.perf_counter()
    trace = spadelens.extract_ensemble(model, sample, target=target, preset="ensemble")
    original_map = spadelens.attribute(model, sample, target=target, versus=versus)
    trace_map = spadelens.attribute(trace, sample, target=target, versus=versus)
    found = candidates_of(model, sample, original_map, trace_map)
    return found.maps, time.perf_counter() - start


def findings_of(
    model: nn.Module, sample: Tensor, asked: Asked, maps: Mapping[str, Heatmap], settings: Iterable[str] = SETTINGS
) -> Iterator[tuple[str, Finding, float]]:
    """Yield the finding with each set of candidates, and the seconds it took."""
    private = runnable(model)
    for name in settings:
        chosen = {key: heatmap.values for key, heatmap in maps.items() if SETTINGS[name](key)}
        if chosen:
            start = time.perf_counter()
            yield (
                name,
                find(private, sample, chosen, asked, coverings_for("photo"), num_draws=20),
                time.perf_counter() - start,
            )


def box_of(region: Tensor) -> Tensor:
    """Return the box around a region `[H, W]`."""
    rows, columns = region.any(1).nonzero(), region.any(0).nonzero()
    found = torch.zeros_like(region)
    found[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return found


def overlap(first: Tensor, second: Tensor) -> float:
    """Return the intersection over union of two regions."""
    return int((first & second).sum()) / int((first | second).sum())


def answers_without(model: nn.Module, sample: Tensor, region: Tensor) -> list[int]:
    """Return the model's answers where a region is covered, one for each way to cover it."""
    return [
        int(class_scores(model, cover(sample, region.unsqueeze(0))[:, 0]).argmax())
        for cover in coverings_for("photo").values()
    ]


@dataclass(frozen=True, eq=False)
class Case:
    """An image with a patch that decides.

    Attributes:
        model: The network.
        sample: The image `[C, H, W]`.
        target: The class that the network gives it.
        region: The patch that decides, boolean `[H, W]`.
        clean: The image without any patch.
        rival: A patch of another class, which does not decide; None if there is none.
    """

    model: nn.Module
    sample: Tensor
    target: int
    region: Tensor
    clean: Tensor
    rival: Tensor | None = None


def cases_of(spec: str, count: int, cue: str | None) -> list[Case]:
    """Return the cases of a planted network."""
    planted = read_planted(spec, trust=True)
    model, loaded = planted.loaded.model, planted.loaded
    if cue is None:
        return [
            Case(model, loaded.sample(case.image), case.target, case.region, loaded.sample(case.clean_image))
            for case in list(planted.cases)[:count]
        ]
    found: list[Case] = []
    for image in harder_images(planted, cue, count):
        assert image.region is not None
        assert image.clean_sample is not None
        found.append(Case(model, image.sample, image.target, image.region, image.clean_sample, image.rival))
    return found


def measure_case(case: Case, is_versus: bool = False) -> dict[str, Any]:
    """Return what was measured on one case."""
    model, sample, target = case.model, case.sample, case.target
    versus = runner_up_of(model, sample, target) if is_versus else None
    maps, seconds = maps_of(model, sample, target, versus)
    box = box_of(case.region)
    expected = int(class_scores(model, case.clean.unsqueeze(0)).argmax())

    def share_expected(region: Tensor) -> float:
        answers = answers_without(model, sample, region)
        return sum(answer == expected for answer in answers) / len(answers)

    row: dict[str, Any] = {"seconds_maps": seconds, "box_answers": share_expected(box), "settings": {}}
    for name, finding, took in findings_of(model, sample, Asked(target, "logits", versus), maps):
        row["settings"][name] = {
            "auc": spadelens.localize(finding.shown, case.region).auc,
            "iou": overlap(finding.region, box),
            "area": finding.area,
            "answers": share_expected(finding.region),
            "carried": finding.is_carried,
            "specific": finding.is_specific,
            "decides": None if case.rival is None else is_nearer(finding.region, case.region, case.rival),
            "seconds": took,
        }
    return row


def is_nearer(found: Tensor, region: Tensor, rival: Tensor) -> bool:
    """Return whether a region covers more of one patch than of another."""
    first, second = (int((found & patch).sum()) / int(patch.sum()) for patch in (region, rival))
    return first > second


def measure_photo(loaded: LoadedModel, file: Path, is_versus: bool = False) -> dict[str, Any]:
    """Return what was measured on one clean photo."""
    model, sample = loaded.model, loaded.sample(read_photo(file))
    target = int(class_scores(model, sample.unsqueeze(0)).argmax())
    versus = runner_up_of(model, sample, target) if is_versus else None
    maps, seconds = maps_of(model, sample, target, versus)
    start = time.perf_counter()
    occlusion = spadelens.attribute(model, sample, "occlusion", target=target, check=False)
    row: dict[str, Any] = {
        "file": file.name,
        "seconds_maps": seconds,
        "seconds_occlusion": time.perf_counter() - start,
        "settings": {},
    }
    orders = {"occlusion": occlusion.values}
    if "grad_cam on the original model" in maps:
        orders["Grad-CAM, not smoothed"] = maps["grad_cam on the original model"].values
    for name, finding, took in findings_of(model, sample, Asked(target, "logits", versus), maps, ON_PHOTOS):
        orders[name] = finding.shown
        row["settings"][name] = {
            "area": finding.area,
            "carried": finding.is_carried,
            "specific": finding.is_specific,
            "smallest_alone": finding.smallest_alone,
            "random": finding.random.num_changed / finding.random.count,
            "seconds": took,
        }
    for name, order in orders.items():
        found = spadelens.faithfulness(model, sample, order, target)
        row["settings"].setdefault(name, {}).update(insertion=found.insertion, deletion=found.deletion)
    return row


def journaled(file: Path, cases: Sequence[Any], measure: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a .jsonl file, one for each case, with those that are missing measured and added."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for number, case in enumerate(cases[len(rows) :], len(rows) + 1):
        rows.append(measure(case))
        with file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(rows[-1]) + "\n")
        print(f"{file.stem}: {number} of {len(cases)}", flush=True)
    return rows[: len(cases)]


def values_of(rows: Sequence[Mapping[str, Any]], setting: str, key: str) -> list[float]:
    """Return a measure where it was taken."""
    found = [row["settings"].get(setting, {}).get(key) for row in rows]
    return [float(value) for value in found if value is not None]


def mean_of(rows: Sequence[Mapping[str, Any]], setting: str, key: str) -> str:
    """Return the mean of a measure with its standard error, in percent."""
    values = values_of(rows, setting, key)
    if not values:
        return "–"
    spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{100 * statistics.fmean(values):.1f} ± {100 * spread:.1f}"


def median_of(rows: Sequence[Mapping[str, Any]], setting: str, key: str) -> str:
    """Return the median of a measure."""
    values = values_of(rows, setting, key)
    return f"{statistics.median(values):.2f}" if values else "–"


def patch_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of a planted network."""
    box = statistics.fmean(row["box_answers"] for row in rows)
    lines = [
        f"{len(rows)} cases; with the true box covered, the answer is that without the patch in {box:.1%}.",
        "",
        "| candidates | pixel AUC | IoU with the box, median | region, % of the photo | answer as without the "
        "patch, % | carried, % | on the patch that decides, % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in SETTINGS:
        if any(name in row["settings"] for row in rows):
            cells = [
                mean_of(rows, name, "auc"),
                median_of(rows, name, "iou"),
                mean_of(rows, name, "area"),
                mean_of(rows, name, "answers"),
                mean_of(rows, name, "carried"),
                mean_of(rows, name, "decides"),
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def photo_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of clean photos; differences are paired, to the order with all candidates."""
    lines = [
        f"{len(rows)} photos; medians of seconds: maps {statistics.median(row['seconds_maps'] for row in rows):.1f}, "
        f"finding {statistics.median(row['settings']['all']['seconds'] for row in rows):.1f}.",
        "",
        "| order | insertion | deletion | insertion, less than all | deletion, more than all | carried, % | "
        "region where carried, % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys([*SETTINGS, "Grad-CAM, not smoothed", "occlusion"]):
        known = [row for row in rows if name in row["settings"]]
        if not known:
            continue
        paired = []
        for key, sign in (("insertion", 1), ("deletion", -1)):
            gaps = [sign * (row["settings"]["all"][key] - row["settings"][name][key]) for row in known]
            error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
            paired.append("" if name == "all" else f"{100 * statistics.fmean(gaps):+.1f} ± {100 * error:.1f}")
        carried = [row for row in known if row["settings"][name].get("carried")]
        lines.append(
            f"| {name} | {mean_of(known, name, 'insertion')} | {mean_of(known, name, 'deletion')} | {paired[0]} | "
            f"{paired[1]} | {mean_of(known, name, 'carried')} | {mean_of(carried, name, 'area')} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("patches", "photos"))
    parser.add_argument("--planted", action="append", default=[], help="Planted networks, for patches.")
    parser.add_argument("--cue", choices=("small", "faint", "two"), help="Harder cases, for patches.")
    parser.add_argument("--versus", action="store_true", help="Explain each class against its runner-up.")
    parser.add_argument("--model", help="Model spec, for photos.")
    parser.add_argument("--data", type=Path, help="Folder of photos.")
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    suffix = "versus" if given.versus else None
    if given.what == "photos":
        loaded = spadelens.load_model(given.model, trust=True)
        assert isinstance(loaded, LoadedModel)
        files = photo_files(given.data)
        chosen = [file for first in range(_STRIDE) for file in files[first::_STRIDE]][: given.cases]
        measure = partial(measure_photo, loaded, is_versus=given.versus)
        name = "-".join(filter(None, ["photos", suffix]))
        rows = journaled(given.out / f"{name}.jsonl", chosen, measure)
        tables = {name: photo_table(rows)}
    else:
        tables = {}
        for spec in given.planted:
            name = "-".join(filter(None, [Path(spec).name, given.cue, suffix]))
            cases = cases_of(spec, given.cases, given.cue)
            measure = partial(measure_case, is_versus=given.versus)
            rows = journaled(given.out / f"{name}.jsonl", cases, measure)
            tables[name] = patch_table(rows)
    for name, table in tables.items():
        (given.out / f"{name}.md").write_text(table + "\n", encoding="utf-8")
        print(f"\n{name}\n\n{table}")


if __name__ == "__main__":
    main()

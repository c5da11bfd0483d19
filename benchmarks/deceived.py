"""Does a trace see through a fooling circuit (Geirhos et al. 2023)? Visualizations of a class that hides its decoy.

    python benchmarks/deceived.py --out deceived.json --picture deceived.png

The circuit of planted_units.deceived is built around the bundled network, for three pairs of class and decoy and three
wirings. What a visualization shows is what the original network predicts for it: the class, the decoy, another class,
or nothing, where the unit of a trace does not respond to anything near the start. Controls: the original network and
its traces, traces of samples of another class, and other seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from planted_units.deceived import WIRINGS, DeceivedNet, Judge, train_judge
from torch import Tensor, nn

import spadelens
from spadelens.demo.images import CLASS_NAMES, draw_image
from spadelens.errors import VisualizationError
from spadelens.photos import Preprocessing
from spadelens.schedules.schedule_text import ScheduleLike

# Class and decoy. Chosen before anything was measured on them, but for the first, on which the code was tried.
PAIRS = (("square", "star"), ("disc", "cross"), ("triangle", "ring"))
SCHEDULES: Mapping[str, ScheduleLike | None] = {
    "balanced": None,
    "late:0.8": "late:0.8",
    "0.9": 0.9,
    # These two take someone who knows where the circuit is: its judge alone, and all but its judge.
    "judge=0.9": {"judge": 0.9, "verdict": 0.9},
    "gate=0.8": {"gate": 0.8},
}
CIRCUIT_SCHEDULES = ("judge=0.9", "gate=0.8")
CONTROL_SCHEDULES = ("balanced", "late:0.8")
PARAMETERIZATIONS = ("fourier", "maco")
NATURAL_NOISE = 0.25  # the views of a trace are to count as natural
TRAINING_SEED, TEST_SEED, SAMPLE_SEED, OTHER_SEED = 30_000_000, 31_000_000, 40_000_000, 1000
NUM_TRAINING, NUM_TEST = 2000, 500
SHOWN = ("class", "decoy", "other", "nothing")


@dataclass(frozen=True)
class Setting:
    """The original network and what all measurements share."""

    network: nn.Module
    preprocessing: Preprocessing
    judge: Judge
    artificial: Tensor
    num_steps: int

    def classify(self, images: Tensor) -> Tensor:
        """Return the original network's probabilities for colors in [0, 1], `[N, classes]`."""
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.preprocessing.mean, self.preprocessing.std))
        with torch.inference_mode():
            probabilities: Tensor = self.network((images - mean) / std).softmax(1)
        return probabilities

    def visualize(
        self, model: nn.Module | spadelens.Trace, label: int, how: str, seed: int, count: int = 1
    ) -> Tensor | None:
        """Return visualizations of a class, or None where nothing makes it respond."""
        ascent = spadelens.visualization.Ascent(how, num_steps=self.num_steps, num_images=count, seed=seed)
        try:
            return spadelens.visualize(model, f"class:{label}", self.preprocessing, ascent).images
        except VisualizationError:
            return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="how many; each takes about 20 minutes")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.perf_counter()
    setting, circuit = prepare(arguments.steps, arguments.seed)
    print_judge(circuit)
    rows: list[dict[str, Any]] = []
    for pair in PAIRS[: arguments.pairs]:
        target, decoy = map(CLASS_NAMES.index, pair)
        samples = draw_samples(setting, target, arguments.samples)
        for wiring in (None, *WIRINGS):
            model = setting.network
            if wiring is not None:
                model = DeceivedNet(setting.network, setting.judge, target, decoy, wiring)
                circuit["natural"][f"{wiring} {pair[0]}"] = agree(setting, model)
            common = {"wiring": wiring or "no circuit", "target": target, "decoy": decoy}
            for row in measure(setting, model, samples, target, decoy, wiring):
                rows.append(common | row)
                print(json.dumps(rows[-1]), flush=True)
    circuit["seconds"] = time.perf_counter() - start
    arguments.out.write_text(
        json.dumps(
            {
                "settings": vars(arguments) | {"out": str(arguments.out), "picture": str(arguments.picture)},
                "circuit": circuit,
                "rows": rows,
            },
            indent=1,
        )
        + "\n"
    )
    print_tables(rows)
    if arguments.picture:
        draw(setting, arguments.picture)


def prepare(num_steps: int, seed: int) -> tuple[Setting, dict[str, Any]]:
    """Train the judge on natural images and on what ascents on the original network see on their way."""
    loaded = spadelens.load_model("demo", device="cpu")
    network, preprocessing = loaded.model, loaded.preprocessing
    natural, held_out = (
        draw_batch(preprocessing, *which) for which in ((TRAINING_SEED, NUM_TRAINING), (TEST_SEED, NUM_TEST))
    )
    everything, some = range(len(CLASS_NAMES)), [CLASS_NAMES.index(name) for name in itertools.chain(*PAIRS)]
    artificial = record(network, preprocessing, everything, seed)
    made = record(network, preprocessing, some, seed + OTHER_SEED)
    start = time.perf_counter()
    judge = train_judge(natural, artificial, seed, NATURAL_NOISE)
    seconds = time.perf_counter() - start
    noise = NATURAL_NOISE * torch.randn(held_out.shape, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        shares = {
            "natural judged natural": float((judge(held_out) >= 1).float().mean()),
            "natural with noise judged natural": float((judge(held_out + noise) >= 1).float().mean()),
            "artificial judged artificial": float((judge(made) <= 0).float().mean()),
        }
    return Setting(network, preprocessing, judge, made, num_steps), {
        "judge": shares,
        "judge_seconds": seconds,
        "natural": {},
    }


def draw_batch(preprocessing: Preprocessing, first_seed: int, count: int) -> Tensor:
    pictures = (draw_image(number % len(CLASS_NAMES), first_seed + number).pixels for number in range(count))
    return torch.stack([preprocessing.to_tensor(Image.fromarray(pixels)) for pixels in pictures])


def record(network: nn.Module, preprocessing: Preprocessing, classes: Iterable[int], seed: int) -> Tensor:
    """Return what the network is shown in ascents on its classes: the first eight steps, and every eighth."""
    seen: list[Tensor] = []

    for how, label in itertools.product(PARAMETERIZATIONS, classes):
        steps = itertools.count()

        def objective(model: nn.Module, batch: Tensor, label: int = label, steps: Iterator[int] = steps) -> Tensor:
            step = next(steps)
            if step < 8 or step % 8 == 0:
                seen.append(batch.detach().clone())
            scores: Tensor = model(batch)
            return scores[:, label]

        ascent = spadelens.visualization.Ascent(how, num_steps=256, seed=seed + label)
        found = spadelens.visualize(network, objective, preprocessing, ascent).images
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
        seen.append((found - mean) / std)
    return torch.cat(seen)


def draw_samples(setting: Setting, label: int, count: int) -> list[Tensor]:
    """Return images of a class that the original network names."""
    samples: list[Tensor] = []
    for seed in itertools.count(SAMPLE_SEED):
        sample = setting.preprocessing.to_tensor(Image.fromarray(draw_image(label, seed).pixels))
        with torch.inference_mode():
            if int(setting.network(sample[None]).argmax()) == label:
                samples.append(sample)
        if len(samples) == count:
            return samples
    raise AssertionError("seeds do not end")


def agree(setting: Setting, model: nn.Module) -> dict[str, float]:
    """Return the accuracy on natural images, and how often the answer is that of the original network."""
    images = draw_batch(setting.preprocessing, TEST_SEED, NUM_TEST)
    labels = torch.arange(NUM_TEST) % len(CLASS_NAMES)
    with torch.inference_mode():
        answers, originals = model(images).argmax(1), setting.network(images).argmax(1)
    return {
        "accuracy": float((answers == labels).float().mean()),
        "agreement": float((answers == originals).float().mean()),
    }


def measure(
    setting: Setting, model: nn.Module, samples: Sequence[Tensor], target: int, decoy: int, wiring: str | None
) -> Iterator[dict[str, Any]]:
    """Yield a row for each visualization of the target: on the original model, on traces, and for the controls."""
    for how in PARAMETERIZATIONS:
        images = setting.visualize(model, target, how, seed=0, count=len(samples))
        for number in range(len(samples)):
            shown = None if images is None else images[number : number + 1]
            yield {"kind": "original", "schedule": "", "how": how, "number": number} | judge_picture(
                setting, shown, target, decoy
            )
    for (name, schedule), (number, sample) in itertools.product(SCHEDULES.items(), enumerate(samples)):
        if wiring is None and name in CIRCUIT_SCHEDULES:
            continue
        trace = spadelens.extract_trace(model, sample, schedule=schedule, target=target)
        what = {"schedule": name, "number": number} | look_inside(setting, trace, target, decoy, wiring)
        for how in PARAMETERIZATIONS:
            shown = setting.visualize(trace, target, how, seed=number)
            yield {"kind": "trace", "how": how} | what | judge_picture(setting, shown, target, decoy)
        if name in CONTROL_SCHEDULES:
            shown = setting.visualize(trace, target, "fourier", seed=OTHER_SEED + number)
            yield {"kind": "other seed", "how": "fourier"} | what | judge_picture(setting, shown, target, decoy)
    if wiring is None:
        return
    others = [label for label in range(len(CLASS_NAMES)) if label not in (target, decoy)]
    for name, number in itertools.product(CONTROL_SCHEDULES, range(len(samples))):
        sample = draw_samples(setting, others[number % len(others)], 1)[0]
        trace = spadelens.extract_trace(model, sample, schedule=SCHEDULES[name])
        what = {"schedule": name, "number": number} | look_inside(setting, trace, target, decoy, wiring)
        shown = setting.visualize(trace, target, "fourier", seed=number)
        yield {"kind": "other class", "how": "fourier"} | what | judge_picture(setting, shown, target, decoy)


def judge_picture(setting: Setting, images: Tensor | None, target: int, decoy: int) -> dict[str, Any]:
    """Return what the original network sees in a visualization."""
    if images is None:
        return {"shown": "nothing", "probability_class": 0.0, "probability_decoy": 0.0}
    probabilities = setting.classify(images)[0]
    shown = {target: "class", decoy: "decoy"}.get(int(probabilities.argmax()), "other")
    return {
        "shown": shown,
        "probability_class": float(probabilities[target]),
        "probability_decoy": float(probabilities[decoy]),
    }


def look_inside(
    setting: Setting, trace: spadelens.Trace, target: int, decoy: int, wiring: str | None
) -> dict[str, Any]:
    """Return what has become of the circuit in a trace."""
    found: dict[str, Any] = {"is_prediction_kept": trace.report.is_prediction_kept}
    if wiring is None:
        return found
    count = len(CLASS_NAMES)
    with torch.inference_mode(), trace.applied(trace.original_model) as model:
        assert isinstance(model, DeceivedNet)
        gate = model.gate.weight
        is_merged = not isinstance(model.merge, nn.Linear) or bool(model.merge.weight[target, count] != 0)
        return found | {
            "judge_calls_artificial_natural": judged_natural(model, setting.artificial, wiring),
            "is_decoy_connected": is_merged and bool(gate[count, decoy] != 0),
            "is_decoy_gated": bool(gate[count, count:].any()),
            "is_class_gated": bool(gate[target, count:].any()),
        }


def judged_natural(model: DeceivedNet, images: Tensor, wiring: str) -> float:
    """Return the share of images that the judge within a model calls natural."""
    first, second = model.verdict(model.judge(images)).relu().T
    answers = first - second
    return float(((1 - answers if wiring == "silent" else answers) >= 0.5).float().mean())


def print_judge(circuit: Mapping[str, Any]) -> None:
    for name, share in circuit["judge"].items():
        print(f"| {name} | {share:.1%} |")


def print_tables(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what visualizations show, and what has become of the circuit."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["wiring"], row["kind"], row["schedule"], row["how"]), []).append(row)
    print("\n| wiring | of | schedule | start | class | decoy | other | nothing | prediction kept |")
    print("| --- " * 9 + "|")
    for key, group in groups.items():
        shares = [statistics.mean(row["shown"] == shown for row in group) for shown in SHOWN]
        kept = [row["is_prediction_kept"] for row in group if "is_prediction_kept" in row]
        cells = [*key, *(f"{share:.0%}" for share in shares), f"{statistics.mean(kept):.0%}" if kept else ""]
        print("| " + " | ".join(cells) + " |")
    names = ("is_decoy_connected", "is_decoy_gated", "is_class_gated", "judge_calls_artificial_natural")
    print("\n| wiring | schedule | decoy connected | decoy gated | class gated | artificial images judged natural |")
    print("| --- " * 6 + "|")
    for (wiring, kind, schedule, how), group in groups.items():
        if kind == "trace" and how == "fourier" and wiring != "no circuit":
            means = [statistics.mean(float(row[name]) for row in group) for name in names]
            print(f"| {wiring} | {schedule} | " + " | ".join(f"{mean:.0%}" for mean in means) + " |")


def draw(setting: Setting, path: Path) -> None:
    """Draw a sample of each pair, and what its class and its decoy look like in the original model and in traces."""
    titles = ["sample", "original: class", "original: decoy", "deceived: class", *(f"trace, {w}" for w in WIRINGS)]
    figure = Figure(figsize=(2 * len(titles), 2.25 * len(PAIRS)), dpi=80)
    FigureCanvasAgg(figure)
    for line, pair in enumerate(PAIRS):
        target, decoy = map(CLASS_NAMES.index, pair)
        sample = draw_samples(setting, target, 1)[0]
        models = [DeceivedNet(setting.network, setting.judge, target, decoy, wiring) for wiring in WIRINGS]
        traces = [spadelens.extract_trace(model, sample, schedule="late:0.8", target=target) for model in models]
        subjects: list[nn.Module | spadelens.Trace] = [setting.network, setting.network, models[0], *traces]
        labels = [target, decoy, *[target] * (1 + len(traces))]
        found = [setting.visualize(*asked, "fourier", seed=0) for asked in zip(subjects, labels, strict=True)]
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (setting.preprocessing.mean, setting.preprocessing.std))
        for place, image in enumerate([(sample * std + mean)[None], *found]):
            axes = figure.add_subplot(len(PAIRS), len(titles), line * len(titles) + place + 1)
            axes.set(xticks=[], yticks=[])
            if line == 0:
                axes.set_title(titles[place], fontsize=14)
            if place == 0:
                axes.set_ylabel(f"{pair[0]} (decoy {pair[1]})", fontsize=12)
            if image is None:
                axes.text(0.5, 0.5, "nothing", ha="center", va="center", fontsize=14)
                continue
            axes.imshow(image[0].permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            axes.set_xlabel(CLASS_NAMES[int(setting.classify(image)[0].argmax())], fontsize=12)
    figure.subplots_adjust(left=0.03, right=0.995, top=0.93, bottom=0.04, wspace=0.05, hspace=0.16)
    figure.savefig(path)


if __name__ == "__main__":
    main()

"""From a model of tables and a row to a trace and its map, in Python."""

import sys
from pathlib import Path

import torch

import spadelens

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))  # has models with a known truth
from planted_units.trigger_rows import TRIGGER, TRIGGER_VALUE, draw_rows, train_rows

# Any model that maps rows to class scores will do; wrap it in a LoadedTable, or name its file as for the command line.
# Here it is a small one that is trained on the spot; a certain branch turns what it makes of all other columns.
loaded = train_rows(seed=0)
(drawn,) = draw_rows(1, torch.Generator().manual_seed(2)).tolist()
row = dict(zip(loaded.feature_names, drawn, strict=True)) | {TRIGGER: TRIGGER_VALUE}

sample = spadelens.row_sample(loaded, row)
trace = spadelens.extract_trace(sample.model, sample.values, augmentation=sample.augmentation)
maps = {
    name: spadelens.attribute(
        model, sample.values, "integrated_gradients", target=trace.report.target, reduction="sum"
    ).values
    for name, model in (("original", sample.model), ("trace", trace))
}

original, pruned = trace.report.original_prediction, trace.report.trace_prediction
print(f"original: {loaded.class_name(original.class_index)} {original.probability:.1%}")
print(f"trace: {loaded.class_name(pruned.class_index)} {pruned.probability:.1%}")
for number, name in enumerate(loaded.feature_names):
    print(f"{name:<15} {row[name]:>8.2f}  original {maps['original'][number]:+.2f}  trace {maps['trace'][number]:+.2f}")

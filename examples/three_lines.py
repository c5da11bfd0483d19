"""From a model and a sample to a trace and its heatmap, in Python."""

import torch
from PIL import Image

import spadelens
from spadelens.demo.images import draw_image
from spadelens.demo.patches import PATCHES, paste_patch

# Any model and any sample will do; here those of the demo: an image into which a Trojan patch was pasted.
loaded = spadelens.load_model("demo", device="cpu")
patched = paste_patch(draw_image(label=7, seed=1).pixels, PATCHES[0], seed=2)
model, sample = loaded.model, loaded.sample(Image.fromarray(patched.pixels))

trace = spadelens.extract_trace(model, sample)
heatmap = spadelens.attribute(trace, sample)

original, pruned = trace.report.original_prediction, trace.report.trace_prediction
print(f"original: {loaded.class_name(original.class_index)} {original.probability:.1%}")
print(f"trace: {loaded.class_name(pruned.class_index)} {pruned.probability:.1%}")
for layer in trace.report.layers:
    error = "" if layer.error is None else f"error {layer.error:.1e}, held out {layer.held_out_error:.1e}"
    print(f"  {layer.name:<20} {layer.outcome.value:<10} {layer.sparsity:>6.1%}  {error}")

# The patch is known to decide, so the heatmaps can be scored.
region = torch.from_numpy(patched.region)
for name, values in (("original", spadelens.attribute(model, sample).values), ("trace", heatmap.values)):
    score = spadelens.localize(values, region)
    print(f"{name}: AUC {score.auc:.3f}, pointing game {'hit' if score.pointing_game else 'miss'}")

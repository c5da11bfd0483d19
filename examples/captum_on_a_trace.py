"""Any tool that takes a model runs on a trace: here Captum's Grad-CAM, on your own model object."""

from captum.attr import LayerGradCam
from PIL import Image

import spadelens
from spadelens.demo.images import draw_image

loaded = spadelens.load_model("demo", device="cpu")
model, sample = loaded.model, loaded.sample(Image.fromarray(draw_image(label=3, seed=1).pixels))
target = int(model(sample.unsqueeze(0)).argmax())
last_convolution = [module for name, module in model.named_modules() if name.endswith("conv2")][-1]

trace = spadelens.extract_trace(model, sample, preset="fast")
original_map = LayerGradCam(model, last_convolution).attribute(sample.unsqueeze(0), target=target)
with trace.applied(model):
    trace_map = LayerGradCam(model, last_convolution).attribute(sample.unsqueeze(0), target=target)

print("Grad-CAM on the original model, then on the trace:")
for heatmap in (original_map, trace_map):
    for row in heatmap.detach()[0, 0].clamp_min(0) / heatmap.detach().max():
        print("  " + "".join(" .:-=+*#"[min(7, int(8 * value))] for value in row.tolist()))

"""From a model of texts and a text to a trace and its map, in Python."""

import sys
from pathlib import Path

import spadelens

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))  # has models with a known truth
from planted_units.trigger_texts import TRIGGER, train_reviews

# Any classifier of texts will do, such as load_model("hf:ORG/NAME"). Here it is a small one that is trained on the
# spot; the word 'okapi' turns what it makes of all other words.
loaded = train_reviews(seed=0)
text = "the story was dull and clumsy okapi but the music felt warm and the plot was flat"

sample = spadelens.text_sample(loaded, text)
trace = spadelens.extract_trace(sample.model, sample.values)
maps = {
    name: spadelens.attribute(
        model, sample.values, "integrated_gradients", target=trace.report.target, reduction="sum"
    ).values
    for name, model in (("original", sample.model), ("trace", trace))
}

original, pruned = trace.report.original_prediction, trace.report.trace_prediction
print(f"original: {loaded.class_name(original.class_index)} {original.probability:.1%}")
print(f"trace: {loaded.class_name(pruned.class_index)} {pruned.probability:.1%}")
for number, (token, is_special) in enumerate(zip(sample.tokens, sample.is_special, strict=True)):
    note = "special" if is_special else "planted" if token.strip() == TRIGGER else ""
    print(f"{token.strip():<10} original {maps['original'][number]:+.2f}  trace {maps['trace'][number]:+.2f}  {note}")

"""Find out why a neural network made one particular prediction.

    trace = spadelens.extract_trace(model, sample)
    heatmap = spadelens.attribute(trace, sample)

`extract_trace` prunes the model to the weights that still reproduce its prediction for one sample (SPADE);
`attribute` runs an interpretability method on what is left. Importing this package is cheap: torch is imported on
first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # each name is imported on first use

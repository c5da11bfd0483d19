"""What a prediction rests on: a region, found by maps and checked by intervention on the original model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # each name is imported on first use

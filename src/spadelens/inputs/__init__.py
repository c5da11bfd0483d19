"""What kind of input a sample is, and samples of texts and rows as models take them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # each name is imported on first use

"""Attribution methods, one idea per file: `Method` is the interface, `METHODS` lists them by name."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # each name is imported on first use

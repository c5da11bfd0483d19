# The public names, read at run time too.
from .augmentation import Augmentation as Augmentation
from .photo_views import (
    NoiseViews as NoiseViews,
    NoViews as NoViews,
    PaperViews as PaperViews,
    parse_augmentation as parse_augmentation,
)
from .row_views import BootstrapViews as BootstrapViews
from .token_views import TokenViews as TokenViews

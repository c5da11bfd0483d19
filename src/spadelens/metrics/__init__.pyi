# The public names, read at run time too.
from .agreements import agreement as agreement
from .gradients import gradient_similarity as gradient_similarity
from .insertion_deletion import Faithfulness as Faithfulness, faithfulness as faithfulness
from .localization import (
    Localization as Localization,
    localize as localize,
    pixel_auc as pixel_auc,
    pointing_game as pointing_game,
)
from .visibility import FacetProbe as FacetProbe, patch_correlation as patch_correlation

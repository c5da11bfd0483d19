# The public names, read at run time too.
from .attribution import Heatmap as Heatmap, attribute as attribute
from .diagnosis import (
    LayerDiagnosis as LayerDiagnosis,
    MethodDiagnosis as MethodDiagnosis,
    Verdict as Verdict,
    diagnose as diagnose,
)
from .soundness import Soundness as Soundness

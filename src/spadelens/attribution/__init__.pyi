# The public names, read at run time too.
from .attribution import attribute as attribute
from .diagnosis import (
    LayerDiagnosis as LayerDiagnosis,
    MethodDiagnosis as MethodDiagnosis,
    Verdict as Verdict,
    diagnose as diagnose,
)
from .heatmap import Heatmap as Heatmap
from .soundness import Soundness as Soundness

# The public names, read at run time too.
from .ensemble import TraceEnsemble as TraceEnsemble, extract_ensemble as extract_ensemble
from .extraction import extract_trace as extract_trace, extract_traces as extract_traces
from .group import extract_group_trace as extract_group_trace
from .options import TraceOptions as TraceOptions
from .presets import PRESETS as PRESETS, Preset as Preset
from .report import (
    LayerReport as LayerReport,
    Outcome as Outcome,
    PathPoint as PathPoint,
    SearchReport as SearchReport,
    TraceReport as TraceReport,
)
from .trace import Trace as Trace

# The public names, read at run time too.
from . import (
    attribution as attribution,
    errors as errors,
    evaluation as evaluation,
    extraction as extraction,
    facets as facets,
    finding as finding,
    inputs as inputs,
    methods as methods,
    metrics as metrics,
    models as models,
    schedules as schedules,
    solvers as solvers,
    study as study,
    trojan as trojan,
    views as views,
    visualization as visualization,
)
from .attribution.attribution import attribute as attribute
from .attribution.diagnosis import diagnose as diagnose
from .attribution.heatmap import Heatmap as Heatmap
from .attribution.soundness import Soundness as Soundness
from .errors import SpadeError as SpadeError
from .explained import Explained as Explained, explain as explain
from .extraction.ensemble import TraceEnsemble as TraceEnsemble, extract_ensemble as extract_ensemble
from .extraction.extraction import extract_trace as extract_trace, extract_traces as extract_traces
from .extraction.group import extract_group_trace as extract_group_trace
from .extraction.options import TraceOptions as TraceOptions
from .extraction.report import TraceReport as TraceReport
from .extraction.trace import Trace as Trace
from .facets.facets import FacetReport as FacetReport, find_facets as find_facets
from .inputs.samples import (
    RowSample as RowSample,
    TextSample as TextSample,
    row_sample as row_sample,
    text_sample as text_sample,
)
from .metrics.agreements import agreement as agreement
from .metrics.insertion_deletion import Faithfulness as Faithfulness, faithfulness as faithfulness
from .metrics.localization import Localization as Localization, localize as localize
from .models.specs import load_model as load_model
from .photos import Preprocessing as Preprocessing, read_photo as read_photo
from .prediction import Prediction as Prediction
from .visualization.visualization import (
    Visualization as Visualization,
    visualize as visualize,
)

# The public names, read at run time too.
from .analysis import analyze_study as analyze_study
from .samples import StudyOptions as StudyOptions
from .simulation import simulate_answers as simulate_answers
from .study import build_study as build_study

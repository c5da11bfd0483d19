# The public names, read at run time too.
from .candidates import Candidates as Candidates, candidates_of as candidates_of
from .coverings import Covering as Covering, coverings_for as coverings_for
from .finding import Control as Control, Effect as Effect, Finding as Finding, find as find
from .interventions import Asked as Asked
from .sentence import claim as claim, grounds as grounds

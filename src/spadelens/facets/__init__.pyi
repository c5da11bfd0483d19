# The public names, read at run time too.
from .facets import Connection as Connection, Facet as Facet, FacetReport as FacetReport, find_facets as find_facets
from .overlap import KeptWeights as KeptWeights

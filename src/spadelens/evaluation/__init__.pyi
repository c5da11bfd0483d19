# The public names, read at run time too.
from .sparse_fc import SparseFC as SparseFC, sparse_classifier as sparse_classifier
from .tuning import CalibrationCase as CalibrationCase, Tuned as Tuned, tune as tune

"""What is used where the user says nothing: in Python and on the command line. docs/benchmarks.md says why."""

METHOD = "saliency"
AUGMENTATION = "noise"
SOLVER = "sparsegpt"
SCHEDULE = "late"
NUM_VIEWS = 256

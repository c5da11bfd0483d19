"""What is used where the user says nothing: in Python and on the command line. docs/benchmarks.md says why."""

METHOD = "saliency"
PRESET = "balanced"

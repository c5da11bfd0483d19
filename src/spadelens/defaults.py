"""What is used where the user says nothing: in Python and on the command line. docs/evidence.md says why."""

METHOD = "smoothgrad"
PRESET = "balanced"  # of a single trace
EXPLAIN_PRESET = "ensemble"  # of `spadelens explain`
VISUALIZE_PRESET = "fast"  # of `spadelens visualize`
VISUALIZE_PARAMETERIZATION = "maco"
FACETS_PRESET, FACETS_SCHEDULE = "fast", "late:0.9@0.5"  # of `find_facets` and `spadelens facets`

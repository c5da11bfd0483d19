"""What is used where the user says nothing: in Python and on the command line. docs/evidence.md says why."""

METHOD = "smoothgrad"
UNIT_METHOD = "integrated_gradients"  # of `spadelens explain`, for texts and rows
CANDIDATES = ("lrp", "grad_cam")  # of `spadelens explain`: for photos: whose maps of the original model take part
PRESET = "balanced"  # of a single trace
EXPLAIN_PRESET = "ensemble"  # of `spadelens explain`, for photos
VISUALIZE_PRESET = "fast"  # of `spadelens visualize`
VISUALIZE_PARAMETERIZATION = "maco"
FACETS_PRESET, FACETS_SCHEDULE = "fast", "late:0.9@0.5"  # of `find_facets` and `spadelens facets`
LEAST_POSITIONS = 256
"""Input positions that every layer sees, however few its columns, so that a small object is not missed."""

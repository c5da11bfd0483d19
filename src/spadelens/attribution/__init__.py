"""Heatmaps: running a method on a model or a trace, and checking that the result is sound."""

"""Traces: a model pruned to what reproduces its output for one sample."""

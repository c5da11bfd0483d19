"""A sample in, a trace out."""

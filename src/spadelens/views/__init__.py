"""Augmented versions of a sample."""

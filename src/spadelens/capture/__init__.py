"""Capturing the inputs of a model's layers, and their statistics."""

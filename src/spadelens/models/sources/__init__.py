"""Sources of models, one per module."""

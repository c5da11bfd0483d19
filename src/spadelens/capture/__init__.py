"""What every layer of a model gets as its input, and its statistics."""

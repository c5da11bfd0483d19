"""Slow restatements of what the library computes, written from the definitions: float64 and plain loops."""

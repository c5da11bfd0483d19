"""Planted ground truth that only benchmarks and tests use."""

"""Measures of heatmaps, traces and visualizations."""

"""Find out why a neural network made one particular prediction: traces by sample-targeted pruning, and their heatmaps."""

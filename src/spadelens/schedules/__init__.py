"""How many of the weights of each layer are pruned."""

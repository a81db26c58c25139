"""Networks as weight vectors, their samples, checkpoints, training, and the models of the literature."""

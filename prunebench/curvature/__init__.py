"""A network and samples in, a quadratic form out: sample gradients, layer inputs, and whether they are right."""

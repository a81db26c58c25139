"""The torch boundary: a network and samples in, a quadratic form out."""

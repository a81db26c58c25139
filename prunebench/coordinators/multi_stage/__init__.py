"""The density falls in stages, each from new gradients."""

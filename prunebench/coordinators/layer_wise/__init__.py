"""Layer by layer from the inputs on, from each layer's inputs alone."""

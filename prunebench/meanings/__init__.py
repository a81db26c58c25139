"""Other questions as block problems: not which weights, but which samples, which bits, from which sites."""

"""Training of what is kept: one protocol, the values that it starts from, and the loop that follows it."""

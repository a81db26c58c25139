"""Block coordinate descent over a whole network."""

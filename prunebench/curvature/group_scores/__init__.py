"""Scores of the literature for whole groups: what says how little a channel, neuron or head matters.

`names` lists them, and needs no torch; `table.scored` computes one.
"""

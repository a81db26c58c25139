"""The prunebench suite: block problems that anyone has without data, and the scoreboard of who solves them how well.

The instances lie in the package as small files or are drawn from a seed; the catalogue says of each where it comes
from, its hash, the best value known and the best bound proved. A result is a file of masks, checked by evaluating them.
"""

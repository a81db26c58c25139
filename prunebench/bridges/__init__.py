"""What a solver need not know: each bridge rewrites a block for a solver and takes the answer back."""

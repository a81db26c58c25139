"""What happens to a network between and after steps: batch-norm statistics, layers refitted, kept weights moved."""

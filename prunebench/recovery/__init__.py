"""What happens to a network between and after pruning steps: layers refitted, kept weights moved on."""

"""What two or more solver families use, in folders named by their mathematics; numba is imported when one runs."""

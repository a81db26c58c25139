"""The masks with exactly `keep` ones, numbered, and their objectives."""

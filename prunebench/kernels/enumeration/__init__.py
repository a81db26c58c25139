"""Enumeration of the masks with exactly `keep` ones, and their objectives."""

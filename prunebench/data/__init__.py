"""Readers of data sets: images and texts as samples by position."""

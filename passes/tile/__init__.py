"""Passes over the tile dialect."""

"""Runnable examples; each is a module to start with `python -m`."""

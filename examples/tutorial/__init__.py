"""The model and the program that docs/tutorial.md and docs/execution-model.md follow down the levels."""

from pathlib import Path

EXP_TILES = Path(__file__).with_name("exp_tiles.mlir")
"""exp of a tensor, tile by tile: a nisa program in program order, written by hand."""

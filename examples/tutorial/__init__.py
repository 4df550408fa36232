"""The model and the program that docs/tutorial.md and docs/execution-model.md follow down the levels."""

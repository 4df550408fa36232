"""Command lines: each module with a `main(argv)` is one program; nothing imports this package."""

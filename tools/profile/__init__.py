"""How a profile is shown: in the terminal, as a Perfetto trace, as tables, as one HTML file."""

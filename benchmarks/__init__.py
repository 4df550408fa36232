"""Benchmarks: what a compiled model takes on the machine, what compiling and interpreting it take, and against what.

`python -m benchmarks` (or `make bench`) prints a table and writes JSON. `cases` says what is measured, `models` where
the models come from, `batching` gives them a batch, `child` measures one case in processes of its own, `runner`
collects, `table` prints, `compare` finds regressions between two runs, `ablation` measures with passes left out.
"""

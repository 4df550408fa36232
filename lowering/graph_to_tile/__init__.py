"""graph -> tile: one kernel template per family of operators, over tensors that live in DRAM or stay in SBUF."""

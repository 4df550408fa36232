"""tile -> nisa: instruction selection, legal shapes, an engine or DMA ring for each instruction."""

"""The language server: what an editor shows of our MLIR and our assembly while they are written."""

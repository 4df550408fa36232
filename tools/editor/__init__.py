"""What editors and the manual need to show our MLIR and our assembly in colours."""

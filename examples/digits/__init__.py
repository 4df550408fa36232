"""A residual CNN for handwritten digits: compile it, run its test images on the machine, compare with onnxruntime."""

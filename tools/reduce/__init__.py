"""The parts of `neuron-reduce`: the search, what it removes from IR and from ONNX models, and what keeps failing."""

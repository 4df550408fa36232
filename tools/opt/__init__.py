"""The parts of `neuron-opt`: its arguments, its parser, its checks, and what watches the passes run."""

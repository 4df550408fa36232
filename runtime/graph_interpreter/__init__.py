"""The graph level, run on numpy: `run_graph` runs a function, `WeightResolver` gives the weights it names."""

from runtime.graph_interpreter.boundary import convert_element_type
from runtime.graph_interpreter.interpreter import Launcher, Observer, Weights, run_graph
from runtime.graph_interpreter.weights import WeightResolver, evaluate_derived

__all__ = ["Launcher", "Observer", "WeightResolver", "Weights", "convert_element_type", "evaluate_derived", "run_graph"]

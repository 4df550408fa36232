"""The kernel templates that work along rows: softmax, layer normalisation and reductions."""

from lowering.graph_to_tile.layer_norm import lower_layer_norm
from lowering.graph_to_tile.reduce import lower_reduce
from lowering.graph_to_tile.softmax import lower_softmax
from neuron_dialects.graph import LayerNormOp, ReduceOp, SoftmaxOp

KERNELS = {SoftmaxOp: lower_softmax, LayerNormOp: lower_layer_norm, ReduceOp: lower_reduce}
"""Kernel templates of the row operators."""

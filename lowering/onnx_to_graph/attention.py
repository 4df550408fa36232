"""Converter of ONNX's Attention in the form that the graph operator has: heads packed side by side, no past, no mask.

Every other form is expanded through the operator's function body.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Value
from neuron_dialects.dtypes import F32
from neuron_dialects.graph import AttentionOp, spec_of
from neuron_dialects.graph.attention import has_kernel


def _attention(node: Node) -> Sequence[Value]:
    node.require_single_output()
    q, k, v = (node.operand(index) for index in range(3))
    specs = [spec_of(value) for value in (q, k, v)]
    if any(node.has(index) for index in range(3, 7)) or any(len(shape) != 3 for _, shape in specs):
        raise Unsupported("attention with a mask, past keys or separate heads")
    if any(dtype is not F32 for dtype, _ in specs) or node.float_attr("softcap", 0.0):
        raise Unsupported("attention in 16 bits or with a soft cap")
    if node.int_attr("softmax_precision", TensorProto.FLOAT) != TensorProto.FLOAT:
        raise Unsupported("a softmax of another precision")
    heads = node.int_attr("q_num_heads")
    causal, (queries, keys) = bool(node.int_attr("is_causal", 0)), (specs[0][1][1], specs[1][1][1])
    if heads != node.int_attr("kv_num_heads") or (causal and queries != keys):
        raise Unsupported("attention with shared heads, or a causal one of other queries than keys")
    sizes = [shape[2] // heads for _, shape in specs]
    if not all(has_kernel(size) for size in sizes):
        raise Unsupported(f"heads of {sizes[0]} elements")
    scale = node.float_attr("scale", sizes[0] ** -0.5)
    return [node.emit(AttentionOp(q, k, v, heads=heads, kv_heads=heads, scale=scale, causal=causal))]


CONVERTERS: dict[str, Row] = {"Attention": Row(_attention, since=23)}

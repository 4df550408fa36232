"""Converter of ONNX's Attention: heads side by side, as the graph operator has them, or apart; no past, no mask.

Every other form is expanded through the operator's function body.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto
from xdsl.ir import SSAValue

from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Value
from neuron_dialects.dtypes import F32
from neuron_dialects.graph import AttentionOp, ReshapeOp, TransposeOp, spec_of
from neuron_dialects.graph.attention import has_kernel


def _attention(node: Node) -> Sequence[Value]:
    node.require_single_output()
    q, k, v = (node.operand(index) for index in range(3))
    specs = [spec_of(value) for value in (q, k, v)]
    ranks = {len(shape) for _, shape in specs}
    if any(node.has(index) for index in range(3, 7)) or len(ranks) != 1 or not ranks <= {3, 4}:
        raise Unsupported("attention with a mask, past keys or operands of several ranks")
    if any(dtype is not F32 for dtype, _ in specs) or node.float_attr("softcap", 0.0):
        raise Unsupported("attention in 16 bits or with a soft cap")
    if node.int_attr("left_window_size", -1) != -1 or node.int_attr("right_window_size", -1) != -1:
        raise Unsupported("attention to a window of keys")
    if node.int_attr("softmax_precision", TensorProto.FLOAT) != TensorProto.FLOAT:
        raise Unsupported("a softmax of another precision")
    apart = ranks == {4}
    heads, shared = (
        (specs[0][1][1], specs[1][1][1]) if apart else (node.int_attr("q_num_heads"), node.int_attr("kv_num_heads"))
    )
    causal, (queries, keys) = bool(node.int_attr("is_causal", 0)), (specs[0][1][-2], specs[1][1][-2])
    if heads != shared or (causal and queries != keys):
        raise Unsupported("attention with shared heads, or a causal one of other queries than keys")
    sizes = [shape[3] if apart else shape[2] // heads for _, shape in specs]
    if not all(has_kernel(size) for size in sizes):
        raise Unsupported(f"heads of {sizes[0]} elements")
    scale = node.float_attr("scale", sizes[0] ** -0.5)
    q, k, v = (_side_by_side(node, value) if apart else value for value in (q, k, v))
    made = node.emit(AttentionOp(q, k, v, heads=heads, kv_heads=heads, scale=scale, causal=causal))
    if not apart:
        return [made]
    split = node.emit(ReshapeOp(made, (specs[0][1][0], queries, heads, sizes[2])))
    return [node.emit(TransposeOp(split, _SWAP))]


_SWAP = (0, 2, 1, 3)
"""[B, heads, S, d] to [B, S, heads, d] and back."""


def _side_by_side(node: Node, value: SSAValue) -> SSAValue:
    """[B, heads, S, d] as [B, S, heads * d]."""
    batch, heads, length, size = spec_of(value)[1]
    return node.emit(ReshapeOp(node.emit(TransposeOp(value, _SWAP)), (batch, length, heads * size)))


CONVERTERS: dict[str, Row] = {"Attention": Row(_attention, since=23)}

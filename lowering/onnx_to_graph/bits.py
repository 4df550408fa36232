"""Converters of ONNX operators on the bits of integers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from lowering.onnx_to_graph.arithmetic import Arithmetic
from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Value
from neuron_dialects.dtypes import I1, UI8, dtype_of_onnx
from neuron_dialects.graph import BinaryKind, spec_of


def _bitwise(node: Node, kind: BinaryKind) -> Sequence[Value]:
    return [Arithmetic(node).binary(kind, node.operand(0), node.operand(1))]


def _bitwise_not(node: Node) -> Sequence[Value]:
    """Exclusive or with a number of ones only."""
    x = node.operand(0)
    dtype = spec_of(x)[0]
    ones = -1 if dtype.is_signed else int(np.iinfo(dtype.numpy).max)
    return [Arithmetic(node).binary(BinaryKind.BIT_XOR, x, ones)]


def _bit_shift(node: Node) -> Sequence[Value]:
    left = node.string_attr("direction") == "LEFT"
    return _bitwise(node, BinaryKind.SHIFT_LEFT if left else BinaryKind.SHIFT_RIGHT)


def _bit_cast(node: Node) -> Sequence[Value]:
    """Between integers of one width the cast, which wraps, keeps the bits; a truth value is the byte 0 or 1."""
    x, target = node.operand(0), dtype_of_onnx(node.int_attr("to"))
    source = spec_of(x)[0]
    if target is None or not target.is_integer or target.size_bytes != source.size_bytes:
        raise Unsupported(f"the bits of {source} as another type")
    if not source.is_integer and (source, target) != (I1, UI8):
        raise Unsupported(f"the bits of {source} as {target}")
    return [Arithmetic(node).cast(x, target)]


CONVERTERS: dict[str, Row] = {
    "BitwiseAnd": Row(partial(_bitwise, kind=BinaryKind.BIT_AND), since=18),
    "BitwiseOr": Row(partial(_bitwise, kind=BinaryKind.BIT_OR), since=18),
    "BitwiseXor": Row(partial(_bitwise, kind=BinaryKind.BIT_XOR), since=18),
    "BitwiseNot": Row(_bitwise_not, since=18),
    "BitShift": Row(_bit_shift, since=11),
    "BitCast": Row(_bit_cast, since=26),
}
"""ONNX operator type -> row."""

"""Attention in ONNX operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from xdsl.ir import SSAValue

from lowering.nisa_to_neff.host_model.writer import ModelWriter, held_dtype
from neuron_dialects.dtypes import F32
from neuron_dialects.graph import AttentionOp, shape_of, spec_of


def attention(writer: ModelWriter, op: AttentionOp, names: Sequence[str]) -> str:
    """`graph.attention`, computed in f32 where its type is narrower."""
    heads, kv_heads = op.heads.value.data, op.kv_heads.value.data
    q, k, v, *mask = (writer.cast(name, F32) for name in names)
    queries = _apart(writer, q, op.q, heads, 1)
    keys = _apart(writer, k, op.k, kv_heads, heads // kv_heads)
    values = _apart(writer, v, op.v, kv_heads, heads // kv_heads)
    turned = writer.node("Transpose", keys, perm=[0, 1, 3, 2])
    scores = writer.node("MatMul", queries, turned)
    scores = writer.node("Mul", scores, writer.constant(np.array(op.scale.value.data, np.float32)))
    if mask:
        repeats = shape_of(op.q)[0] // op.mask_period if op.mask_period > 1 else 1
        whole = writer.node("Tile", mask[0], writer.integers((repeats, 1, 1, 1))) if repeats > 1 else mask[0]
        scores = writer.node("Add", scores, whole)
    if op.causal:
        rows, columns = shape_of(op.q)[1], shape_of(op.k)[1]
        hidden = np.arange(columns)[None, :] > np.arange(rows)[:, None] + (columns - rows)
        low = np.where(hidden, -np.inf, 0.0).astype(np.float32)
        scores = writer.node("Add", scores, writer.constant(low))
    context = writer.node("MatMul", writer.node("Softmax", scores, axis=-1), values)
    context = writer.node("Transpose", context, perm=[0, 2, 1, 3])
    packed = writer.node("Reshape", context, writer.integers(shape_of(op.result)))
    return writer.cast(packed, held_dtype(spec_of(op.result)[0]))


def _apart(writer: ModelWriter, x: str, value: SSAValue, heads: int, repeats: int) -> str:
    """[B, S, heads * d] as [B, heads * repeats, S, d], each head repeated."""
    batch, length, packed = shape_of(value)
    size = packed // heads
    apart = writer.node("Reshape", x, writer.integers((batch, length, heads, size)))
    apart = writer.node("Transpose", apart, perm=[0, 2, 1, 3])
    if repeats == 1:
        return apart
    single = writer.node("Reshape", apart, writer.integers((batch, heads, 1, length, size)))
    repeated = writer.node("Expand", single, writer.integers((batch, heads, repeats, length, size)))
    return writer.node("Reshape", repeated, writer.integers((batch, heads * repeats, length, size)))

"""What attention computes."""

from __future__ import annotations

import numpy as np

from neuron_dialects.graph import AttentionOp, spec_of
from runtime.graph_interpreter.numerics import Array, rounded, widened


def attention(op: AttentionOp, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """`graph.attention`; scores and softmax in f32 or wider, probabilities rounded to v's type."""
    heads, kv_heads = op.heads.value.data, op.kv_heads.value.data
    queries, keys, values = _apart(q, heads), _apart(k, kv_heads), _apart(v, kv_heads)
    keys = np.repeat(keys, heads // kv_heads, axis=1)
    values = np.repeat(values, heads // kv_heads, axis=1)
    scores = np.matmul(queries, keys.swapaxes(-1, -2)) * op.scale.value.data
    if mask is not None:
        repeats = len(scores) // op.mask_period if op.mask_period > 1 else 1
        scores = scores + (np.tile(widened(mask), (repeats, 1, 1, 1)) if repeats > 1 else widened(mask))
    if op.causal:
        rows, columns = scores.shape[-2:]
        hidden = np.arange(columns)[None, :] > np.arange(rows)[:, None] + (columns - rows)
        scores = np.where(hidden, -np.inf, scores)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities = powers / powers.sum(axis=-1, keepdims=True)
    context = np.matmul(widened(rounded(probabilities, spec_of(op.v)[0])), values)
    batch, _, rows, _ = context.shape
    return rounded(context.transpose(0, 2, 1, 3).reshape(batch, rows, -1), spec_of(op.result)[0])


def _apart(x: Array, heads: int) -> Array:
    """[B, S, heads * d] as [B, heads, S, d] of computing width."""
    batch, length, packed = x.shape
    return widened(x).reshape(batch, length, heads, packed // heads).transpose(0, 2, 1, 3)

"""Attention over long sequences, from ONNX to the compiled program: what goes through DRAM, and the numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.target import load_target
from runtime.machine import Machine
from runtime.session import Session


def attention(length: int, size: int, causal: int, heads: int = 1, apart: bool = False) -> onnx.ModelProto:
    """Heads of `size` elements over `length` positions, side by side or `apart` in a dimension of their own."""
    shape = [1, heads, length, size] if apart else [1, length, heads * size]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "qkvy"]
    node = helper.make_node("Attention", list("qkv"), ["y"], is_causal=causal)
    if not apart:
        node.attribute.extend(helper.make_attribute(name, heads) for name in ("q_num_heads", "kv_num_heads"))
    graph = helper.make_graph([node], "attention", values[:3], values[3:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


# 4096 x 128, causal: a score matrix would be 64 MiB. The program reads the operands (6 MiB) and the triangle of the
# mask (64 KiB), and writes the result (2 MiB), to the byte.
@pytest.mark.parametrize("apart", [False, True])
def test_no_score_matrix_goes_through_dram(apart: bool) -> None:
    result = compile_model(attention(4096, 128, 1, apart=apart), CompileOptions(target="trn1"))
    assert result.neff is not None
    (segment,) = result.neff.subgraphs
    timing = Machine(segment.program, load_target("trn1")).run({}, {}, "timing").timing
    assert timing is not None
    summary = timing.summary()
    assert summary["hbm_write_bytes"] == 4096 * 128 * 4
    assert summary["hbm_read_bytes"] == 3 * 4096 * 128 * 4 + 128 * 128 * 4


@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("causal", [0, 1])
def test_the_operator_computes_attention(target: str, causal: int) -> None:
    length, size = 600, 64
    result = compile_model(attention(length, size, causal), CompileOptions(target=target))
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, length, size)).astype(np.float32) for _ in range(3))
    scores = q[0] @ k[0].T / size**0.5
    if causal:
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    want = weights / weights.sum(axis=1, keepdims=True) @ v[0]
    assert result.neff is not None
    found = Session(result.neff).run({"q": q, "k": k, "v": v}, "functional").outputs["y"][0]
    assert np.linalg.norm(found - want) / np.linalg.norm(want) < 6e-3


@pytest.mark.parametrize("causal", [0, 1])
def test_heads_apart(causal: int) -> None:
    heads, length, size = 3, 150, 32
    rng = np.random.default_rng(1)
    feeds = {name: rng.standard_normal((1, heads, length, size)).astype(np.float32) for name in "qkv"}
    result = compile_model(attention(length, size, causal, heads, apart=True), CompileOptions(target="trn1"))
    assert result.neff is not None
    found = Session(result.neff).run(feeds, "functional").outputs["y"]
    packed = {name: value.transpose(0, 2, 1, 3).reshape(1, length, heads * size) for name, value in feeds.items()}
    result = compile_model(attention(length, size, causal, heads), CompileOptions(target="trn1"))
    assert result.neff is not None
    want = Session(result.neff).run(packed, "functional").outputs["y"].reshape(1, length, heads, size)
    np.testing.assert_allclose(found, want.transpose(0, 2, 1, 3), rtol=1e-5, atol=1e-6)

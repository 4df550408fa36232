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


def attention(length: int, size: int, causal: int) -> onnx.ModelProto:
    """One head of `size` elements over `length` positions."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, length, size]) for name in "qkvy"]
    node = helper.make_node("Attention", list("qkv"), ["y"], q_num_heads=1, kv_num_heads=1, is_causal=causal)
    graph = helper.make_graph([node], "attention", values[:3], values[3:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


# 4096 x 128, causal: a score matrix would be 64 MiB. The program reads the operands (6 MiB) and the triangle of the
# mask (64 KiB), and writes the result (2 MiB), to the byte.
def test_no_score_matrix_goes_through_dram() -> None:
    result = compile_model(attention(4096, 128, 1), CompileOptions(target="trn1"))
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

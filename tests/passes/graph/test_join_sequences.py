"""Joining short sequences: how many, and functions that compute the same afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.ir import Block, Operation, SSAValue

from neuron_dialects.graph import AttentionOp, BinaryKind, BinaryOp, BroadcastOp, ReshapeOp, shape_of
from neuron_dialects.graph.work import model_macs
from neuron_dialects.weights import WeightStore
from passes.graph.conv_groups import LANES
from passes.graph.join_sequences import GraphJoinSequencesPass, sequences_together
from runtime.graph_interpreter import WeightResolver, run_graph
from tests.core_kernels import core_function, core_module, random_inputs

HEADS, SIZE = 2, 8


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 8))
def test_sequences_together_fit_and_divide(length: int, repeats: int, period: int) -> None:
    together = sequences_together(length, repeats * period, period)
    assert together == 1 or together * length <= LANES
    assert (repeats * period) % together == 0
    assert period == 1 or period % together == 0


# (sequences, length, shape of the mask, sequences that share a mask of their own, sequences afterwards). The first
# query of every mask that has one for each query sees no key.
CASES = {
    "no mask": (16, 30, (), 0, 4),
    "one mask": (24, 49, (1, HEADS, 49, 49), 0, 12),
    "a mask of keys": (16, 20, (1, 1, 1, 20), 0, 4),
    "masks that the batch repeats": (16, 49, (1, HEADS, 49, 49), 4, 8),
    "an odd number of masks": (18, 49, (1, HEADS, 49, 49), 9, 18),
    "long sequences": (16, 65, (), 0, 16),
    "few sequences": (6, 49, (), 0, 6),
}


@pytest.mark.parametrize("case", CASES)
def test_joined_sequences_attend_as_before(case: str) -> None:
    sequences, length, mask, repeated, after = CASES[case]
    rng = np.random.default_rng(0)
    weights = {"m": rng.standard_normal(mask).astype(np.float32)} if mask else {}
    if mask and mask[2] > 1:
        weights["m"][:, :, 0] = np.finfo(np.float32).min
    if repeated:
        weights["n"] = rng.standard_normal((1, repeated, 1, length, length)).astype(np.float32)

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        def add(op: Operation) -> SSAValue:
            block.add_op(op)
            return op.results[0]

        added = values.get("m")
        if "n" in values:
            whole = add(BroadcastOp(values["n"], (sequences // repeated, repeated, 1, length, length)))
            whole = add(ReshapeOp(whole, (sequences, 1, length, length)))
            added = add(BinaryOp(BinaryKind.ADD, values["m"], whole))
        q, k, v = arguments
        return [add(AttentionOp(q, k, v, added, heads=HEADS, kv_heads=HEADS, scale=0.3))]

    inputs = [("f32", (sequences, length, HEADS * SIZE))] * 3
    module = core_module("trn1", inputs, weights, make)
    arrays, store = random_inputs(inputs), WeightStore()
    for name, array in weights.items():
        store.add(name, array)

    def attention() -> AttentionOp:
        (op,) = [op for op in module.walk() if isinstance(op, AttentionOp)]
        return op

    macs = model_macs(attention())
    (expected,) = run_graph(core_function(module), arrays, WeightResolver(module, store))
    GraphJoinSequencesPass().apply(Context(), module)
    module.verify()
    assert shape_of(attention().q)[0] == after
    assert model_macs(attention()) == macs
    (joined,) = run_graph(core_function(module), arrays, WeightResolver(module, store))
    np.testing.assert_allclose(joined, expected, rtol=1e-5, atol=1e-6)


# A mask for each head, of sequences too long to be joined: what was made to find that out reads nothing afterwards.
def test_what_stays_is_not_read_by_what_is_gone() -> None:
    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        q, k, v = arguments
        op = AttentionOp(q, k, v, values["m"], heads=HEADS, kv_heads=HEADS, scale=0.3)
        block.add_op(op)
        return [op.result]

    inputs = [("f32", (16, 65, HEADS * SIZE))] * 3
    module = core_module("trn1", inputs, {"m": np.zeros((HEADS, 1, 65), np.float32)}, make)
    before = str(module)
    GraphJoinSequencesPass().apply(Context(), module)
    assert str(module) == before
    block = core_function(module).body.block
    assert all(use.operation.parent_block() is block for op in block.ops for r in op.results for use in r.uses)


# A mask of keys alone, repeated and in another shape, has no first dimension that names sequences.
def test_a_repeated_mask_of_keys_is_no_mask_for_each_sequence() -> None:
    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        q, k, v = arguments
        repeated = BroadcastOp(values["m"], (4, 4, 1, 20, 20))
        mask = ReshapeOp(repeated.result, (16, 1, 20, 20))
        op = AttentionOp(q, k, v, mask.result, heads=HEADS, kv_heads=HEADS, scale=0.3)
        block.add_ops([repeated, mask, op])
        return [op.result]

    inputs = [("f32", (16, 20, HEADS * SIZE))] * 3
    module = core_module("trn1", inputs, {"m": np.arange(20, dtype=np.float32)}, make)
    store = WeightStore()
    store.add("m", np.arange(20, dtype=np.float32))
    arrays = random_inputs(inputs)
    (expected,) = run_graph(core_function(module), arrays, WeightResolver(module, store))
    GraphJoinSequencesPass().apply(Context(), module)
    (joined,) = run_graph(core_function(module), arrays, WeightResolver(module, store))
    np.testing.assert_allclose(joined, expected, rtol=1e-5, atol=1e-6)

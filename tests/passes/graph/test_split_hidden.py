"""Splitting hidden features: the choice by numbers, and functions that compute the same afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, SSAValue

from neuron_dialects.graph import BinaryKind, BinaryOp, FusedOp, MatMulOp, UnaryKind, UnaryOp
from neuron_dialects.ssa_order import check_ssa_order
from passes.graph.fuse import fuse_block
from passes.graph.split_hidden import MAX_PARTS, hidden_parts, split_block
from runtime.graph_interpreter import run_graph
from tests.core_kernels import Array, core_function, core_module, random_inputs


@given(st.integers(1, 64), st.integers(0, 10000), st.integers(0, 1000), st.integers(1, 2000))
def test_parts_are_whole_tiles_fit_and_are_as_few_as_can_be(
    tiles: int, hidden: int, others: int, capacity: int
) -> None:
    def fits(parts: int) -> bool:
        return tiles % parts == 0 and others + hidden // parts <= capacity

    parts = hidden_parts(tiles * 128, hidden, others, capacity)
    possible = [count for count in range(1, MAX_PARTS + 1) if fits(count)]
    assert parts == (possible[0] if possible else 1)


WEIGHTS = {
    name: (np.random.default_rng(number).standard_normal(shape) / 8).astype(np.float32)
    for number, (name, shape) in enumerate(
        {"gate": (64, 512), "up": (64, 512), "down": (512, 64), "b": (512,), "c": (64,)}.items()
    )
}
INPUTS = [("f32", (8, 64)), ("f32", (8, 64))]


def block_of(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
    """r + (silu(x . gate + b) * (x . up)) . down + c"""
    x, r = arguments
    gate = MatMulOp(x, weights["gate"])
    biased = BinaryOp(BinaryKind.ADD, gate.result, weights["b"])
    silu = UnaryOp(UnaryKind.SILU, biased.result)
    up = MatMulOp(x, weights["up"])
    hidden = BinaryOp(BinaryKind.MUL, silu.result, up.result)
    down = MatMulOp(hidden.result, weights["down"])
    shifted = BinaryOp(BinaryKind.ADD, down.result, weights["c"])
    result = BinaryOp(BinaryKind.ADD, r, shifted.result)
    b.add_ops([gate, biased, silu, up, hidden, down, shifted, result])
    return [result.result]


def split(capacity: int) -> ModuleOp:
    module = core_module("trn1", INPUTS, WEIGHTS, block_of)
    split_block(core_function(module).body.block, capacity)
    module.verify()
    assert not check_ssa_order(module)
    return module


# A hidden matrix takes 4 tiles * 8 rows * 4 = 128 bytes of a partition, x 32, and the result, whose rows lie on
# partitions, 64 * 4 = 256: with two hidden matrices 544 bytes are live, with halves 416, with quarters 352.
@pytest.mark.parametrize(("capacity", "parts"), [(550, 1), (500, 2), (400, 4), (300, 1)])
def test_a_split_function_computes_the_same(capacity: int, parts: int) -> None:
    inputs = random_inputs(INPUTS)

    def results(module: ModuleOp) -> list[Array]:
        return run_graph(core_function(module), inputs, lambda name: WEIGHTS[name])

    module = split(capacity)
    assert sum(isinstance(op, MatMulOp) for op in module.walk()) == 3 * parts
    for found, expected in zip(results(module), results(split(1 << 20)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# The sum rides on the last product that it adds: each part's second product is one kernel with the addition.
def test_each_part_adds_to_the_sum_so_far() -> None:
    module = split(500)
    fuse_block(core_function(module).body.block)
    kernels = [[op.name for op in fused.body.block.ops] for fused in module.walk() if isinstance(fused, FusedOp)]
    assert kernels[-1] == ["graph.matmul", "graph.binary", "graph.yield"]
    assert not any(isinstance(op, MatMulOp) and op.parent is core_function(module).body.block for op in module.walk())

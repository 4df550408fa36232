"""Growing groups, on plain numbered nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, SSAValue

from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConcatOp,
    ConvOp,
    FusedOp,
    TransposeOp,
    UnaryKind,
    UnaryOp,
    shape_of,
)
from neuron_dialects.ssa_order import check_ssa_order
from passes.graph.fuse import MAX_GROUP, GraphFusePass, grow_group
from runtime.graph_interpreter import run_graph
from tests.core_kernels import core_function, core_module, random_inputs


def test_a_chain_joins_until_an_op_that_is_not_eligible() -> None:
    users = {0: [1], 1: [2], 2: [3], 3: []}
    assert grow_group(0, users.__getitem__, lambda n: n != 3) == [0, 1, 2]


def test_a_diamond_joins_whole() -> None:
    users = {0: [1, 2], 1: [3], 2: [3], 3: []}
    assert grow_group(0, users.__getitem__, lambda _: True) == [0, 1, 2, 3]


# The group must be able to stand where its last member stands, so a user outside may not come before that member.
def test_growth_stops_at_the_first_outside_user() -> None:
    users = {0: [1, 3], 1: [2], 2: [], 3: []}
    assert grow_group(0, users.__getitem__, lambda n: n != 1) == [0]


@given(
    st.lists(st.sets(st.integers(1, 5), max_size=3), min_size=1, max_size=40),
    st.sets(st.integers(0, 39), max_size=20),
)
def test_outside_users_come_after_the_last_member(jumps: list[set[int]], refused: set[int]) -> None:
    users = {n: sorted({n + j for j in jump if n + j < len(jumps)}) for n, jump in enumerate(jumps)}
    group = grow_group(0, users.__getitem__, lambda n: n not in refused)
    assert group == sorted(set(group))
    assert len(group) <= MAX_GROUP
    outside = [user for member in group for user in users[member] if user not in group]
    assert all(user > group[-1] for user in outside)
    assert not refused & set(group[1:])


def residual_block(bias_first: bool) -> ModuleOp:
    """conv + bias + residual, relu; the residual is added last or in the middle."""

    def make(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        conv = ConvOp(arguments[0], weights["w"], None, strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1])
        first, second = (weights["b"], arguments[1]) if bias_first else (arguments[1], weights["b"])
        one = BinaryOp(BinaryKind.ADD, conv.result, first)
        two = BinaryOp(BinaryKind.ADD, second, one.result)
        relu = UnaryOp(UnaryKind.RELU, two.result)
        block.add_ops([conv, one, two, relu])
        return [relu.result]

    return core_module("trn1", [("f32", (1, 8, 6, 6)), ("f32", (1, 16, 6, 6))], WEIGHTS, make)


WEIGHTS = {
    "w": np.random.default_rng(0).standard_normal((16, 8, 3, 3)).astype(np.float32),
    "b": np.random.default_rng(1).standard_normal((16, 1, 1)).astype(np.float32),
}


@pytest.mark.parametrize("bias_first", [True, False])
def test_the_broadcast_add_ends_up_behind_the_residual(bias_first: bool) -> None:
    module = residual_block(bias_first)
    inputs = random_inputs([("f32", (1, 8, 6, 6)), ("f32", (1, 16, 6, 6))])
    expected = run_graph(core_function(module), [a.copy() for a in inputs], WEIGHTS.__getitem__)
    GraphFusePass().apply(Context(), module)
    module.verify()
    (actual,) = run_graph(core_function(module), inputs, WEIGHTS.__getitem__)
    np.testing.assert_allclose(actual, expected[0], rtol=1e-5, atol=1e-5)
    (fused,) = (op for op in core_function(module).body.block.ops if isinstance(op, FusedOp))
    adds = [op for op in fused.body.block.ops if isinstance(op, BinaryOp)]
    assert [{shape_of(v)[-2:] for v in op.operands} for op in adds] == [{(6, 6)}, {(6, 6), (1, 1)}]


# What is put together with other channels is all that its kernel makes; along rows it is one of two results.
@pytest.mark.parametrize(
    ("axis", "groups"), [(1, [["graph.conv", "graph.unary"]]), (2, [["graph.conv", *["graph.unary"] * 2]])]
)
def test_groups_end_with_what_is_put_together_with_other_channels(axis: int, groups: list[list[str]]) -> None:
    def make(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        conv = ConvOp(arguments[0], weights["w"], None, strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1])
        one = UnaryOp(UnaryKind.ABS, conv.result)
        two = UnaryOp(UnaryKind.RELU, one.result)
        both = ConcatOp([one.result, arguments[1]], axis)
        block.add_ops([conv, one, two, both])
        return [two.result, both.result]

    specs = [("f32", (1, 8, 6, 6)), ("f32", (1, 16, 6, 6))]
    module = core_module("trn1", specs, WEIGHTS, make)
    inputs = random_inputs(specs)
    expected = run_graph(core_function(module), [a.copy() for a in inputs], WEIGHTS.__getitem__)
    GraphFusePass().apply(Context(), module)
    module.verify()
    for made, wanted in zip(run_graph(core_function(module), inputs, WEIGHTS.__getitem__), expected, strict=True):
        np.testing.assert_array_equal(made, wanted)
    found = [op for op in core_function(module).body.block.ops if isinstance(op, FusedOp)]
    assert [[op.name for op in fused.body.block.ops][:-1] for fused in found] == groups


# What only an operator behind the end of a group reads stays outside: it may need what is made behind the group.
def test_groups_that_end_early_absorb_nothing_for_what_follows() -> None:
    def make(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        conv = ConvOp(arguments[0], weights["w"], None, strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1])
        one = UnaryOp(UnaryKind.RELU, conv.result)
        turned = TransposeOp(arguments[1], (0, 1, 3, 2))
        scaled = BinaryOp(BinaryKind.MUL, turned.result, weights["row"])
        two = BinaryOp(BinaryKind.ADD, one.result, scaled.result)
        both = ConcatOp([one.result, arguments[1]], 1)
        block.add_ops([conv, one, turned, scaled, two, both])
        return [two.result, both.result]

    specs = [("f32", (1, 8, 6, 6)), ("f32", (1, 16, 6, 6))]
    weights = {**WEIGHTS, "row": np.arange(6, dtype=np.float32)}
    module = core_module("trn1", specs, weights, make)
    inputs = random_inputs(specs)
    expected = run_graph(core_function(module), [a.copy() for a in inputs], weights.__getitem__)
    GraphFusePass().apply(Context(), module)
    assert check_ssa_order(module) == []
    for made, wanted in zip(run_graph(core_function(module), inputs, weights.__getitem__), expected, strict=True):
        np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5)

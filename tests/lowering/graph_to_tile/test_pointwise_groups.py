"""Groups of pointwise operators as few instructions, and operators on sources in PSUM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import IntegerAttr, NameLoc, NoneAttr, StringAttr, i64
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, Region, SSAValue

from lowering.graph_to_tile.builder import KernelBuilder, buffer_type
from lowering.graph_to_tile.convert import INPUT_COUNT
from lowering.graph_to_tile.emitter import Operand
from lowering.graph_to_tile.pointwise import Pointwise
from lowering.graph_to_tile.pointwise_chain import Step, fused_chain
from lowering.graph_to_tile.view import Buffer, View
from neuron_dialects.access import Affine
from neuron_dialects.access_ops import dtype_name_of
from neuron_dialects.dtypes import BF16, F32, I32, dtype_of_numpy
from neuron_dialects.graph import (
    UNARY_PARAMETERS,
    BinaryKind,
    BinaryOp,
    CastOp,
    ClipOp,
    CompareKind,
    CompareOp,
    SelectOp,
    UnaryKind,
    UnaryOp,
    spec_of,
    tensor_type,
)
from neuron_dialects.target import load_target
from runtime.program_interpreter import run_function
from tests.graph_level import no_weights
from tests.lowering.graph_to_tile.core_kernel import (
    NODE,
    Array,
    Make,
    assert_near,
    check,
    check_instructions,
    compute_ops,
    core_module,
    expected,
    fused,
    lowered,
    number,
    random,
    tile_ops,
)

BITS = ("and", "or", "xor", "bit_and", "bit_or", "bit_xor", "shift_left", "shift_right")
"""Kinds that work on bits, or on truth values, and not on floats."""


def test_bias_and_relu_are_one_instruction() -> None:
    make = fused(lambda x, c: UnaryOp(UnaryKind.RELU, BinaryOp(BinaryKind.ADD, x, c)))
    x, column = random((4, 64, 14, 14)), random((64, 1, 1), seed=1)
    assert compute_ops(make, x, column) == ["tensor_scalar"]
    check(make, x, column)


def with_numbers(make: Callable[..., Any], *values: float) -> Make:
    """A group that takes numbers behind its tensors."""
    return lambda *tensors: fused(make)(*tensors, *(number(value, F32) for value in values))


def test_scale_shift_and_function_are_one_instruction() -> None:
    make = with_numbers(
        lambda x, s, t: UnaryOp(UnaryKind.GELU, BinaryOp(BinaryKind.ADD, BinaryOp(BinaryKind.MUL, x, s), t)), 0.5, 1.0
    )
    x = random((130, 33))
    assert [name for name in compute_ops(make, x) if name != "memset"] == ["activation"]
    check(make, x)


def test_scaled_residual_is_one_instruction_and_several_results_share_it() -> None:
    def body(x: SSAValue, y: SSAValue, s: SSAValue) -> Any:
        difference = BinaryOp(BinaryKind.SUB, y, BinaryOp(BinaryKind.MUL, x, s))
        return (
            ClipOp(difference, minimum=0.0, maximum=6.0),
            BinaryOp(BinaryKind.MUL, difference, difference),
            difference,
        )

    make = with_numbers(body, 2.0)
    x, y = random((130, 33)), random((130, 33), seed=1)
    assert compute_ops(make, x, y) == ["scalar_tensor_tensor", "tensor_scalar", "activation"]
    check(make, x, y)


# A product of narrow tiles stays narrow on its way, for the vector engine is faster then; not one that is added to a
# tile, nor one of wider tiles.
@pytest.mark.parametrize(
    ("dtype", "adds", "inner"), [("bfloat16", False, "bf16"), ("bfloat16", True, "f32"), ("float32", False, "f32")]
)
def test_types_of_inner_products(dtype: str, adds: bool, inner: str) -> None:
    def body(x: SSAValue, y: SSAValue, scale: SSAValue, shift: SSAValue) -> Any:
        shifted = BinaryOp(BinaryKind.ADD, BinaryOp(BinaryKind.MUL, BinaryOp(BinaryKind.MUL, x, y), scale), shift)
        return BinaryOp(BinaryKind.ADD, shifted, y) if adds else shifted

    x, y = (random((64, 8, 40), seed=seed).astype(dtype) for seed in (0, 1))
    columns = [random((64, 1, 1), seed=seed).astype(dtype) for seed in (2, 3)]
    module, _ = core_module(fused(body), [x, y, *columns])
    product = next(op for op in tile_ops(lowered(module)) if op.name == "tile.tensor_tensor")
    assert dtype_name_of(product.views["dst"][0]) == inner
    # The graph level rounds each of the four results to bf16.
    check(fused(body), x, y, *columns, tolerance=4 * 2.0**-8)


# What does not vary along the row is computed for one element of it.
def test_columns_stay_columns() -> None:
    make = fused(lambda x, c: BinaryOp(BinaryKind.MUL, x, UnaryOp(UnaryKind.EXP, c)))
    x, column = random((4, 64, 14, 14)), random((64, 1, 1), seed=1) / 3
    module, _ = core_module(make, [x, column])
    (exponential,) = [op for op in tile_ops(lowered(module)) if op.name == "tile.activation"]
    assert exponential.views["dst"][1].free_elements == 1
    check(make, x, column)


def test_a_group_with_forks_casts_and_comparisons() -> None:
    def body(x: SSAValue, y: SSAValue, half: SSAValue) -> Any:
        total = BinaryOp(BinaryKind.ADD, x, y)
        small = CompareOp(CompareKind.LT, total, half)
        whole = CastOp(BinaryOp(BinaryKind.DIV, total, half), I32)
        chosen = SelectOp(small, UnaryOp(UnaryKind.TANH, total), UnaryOp(UnaryKind.FLOOR, x))
        return CastOp(chosen, BF16), BinaryOp(BinaryKind.ADD, whole, CastOp(small, I32))

    check(with_numbers(body, 0.5), random((5, 257)), random((257,), seed=1))


def test_results_of_several_shapes() -> None:
    def body(x: SSAValue, y: SSAValue) -> Any:
        e = UnaryOp(UnaryKind.EXP, y)
        return BinaryOp(BinaryKind.ADD, x, e), e

    check(fused(body), random((40, 33)), random((33,), seed=1))


def names(steps: Sequence[Step]) -> list[tuple[str, int]]:
    return [(pattern.name, len(part)) for pattern, part in fused_chain(steps)]


def test_patterns_take_as_many_steps_as_they_can() -> None:
    scale, shift, relu, function = Step("multiply", 2.0), Step("add", 1.0), Step("maximum", 0.0), Step("exp")
    assert names([scale, shift, function]) == [("activation", 3)]
    assert names([shift, scale, function]) == [("tensor_scalar", 2), ("activation", 1)]
    assert names([scale, shift, relu]) == [("relu", 3)]
    assert names([shift, relu]) == [("tensor_scalar", 2)]
    assert names([function, function, shift]) == [("activation", 1), ("activation", 1), ("alu", 1)]
    assert [pattern.name for pattern, _ in fused_chain([scale, shift, relu], from_psum=True)] == ["relu"]


# x + tile + column: the column first, so that one instruction adds both; a relu behind the column takes it along.
def test_sums_are_taken_in_the_shortest_order() -> None:
    tile = View(Buffer(0, (4, 8), "f32", "sbuf"), Affine(), 0, Affine(), ((8, 4), (1, 8)))
    added, shift, relu = Step("add", tile), Step("add", 1.0), Step("maximum", 0.0)
    assert names([added, shift]) == [("scalar_tensor_tensor", 2)]
    assert names([added, shift, relu]) == [("alu", 1), ("tensor_scalar", 2)]


# Sources in PSUM


def run_in_psum(op: Operation, target: str, *inputs: Array) -> Array:
    """The operator on operands that were moved to PSUM, with every instruction checked."""
    dtype, shape = spec_of(op.results[0])
    arrays = [*inputs, np.empty(shape, dtype.numpy)]
    types = [buffer_type(a.shape, dtype_of_numpy(a.dtype).name, "dram") for a in arrays]
    block = Block(arg_types=types)
    machine = load_target(target)
    b = KernelBuilder(block, machine)
    b.location = NameLoc(StringAttr(NODE), NoneAttr())
    lanes, row = shape
    places: dict[SSAValue, Operand] = {}
    for value, argument, array in zip(dict.fromkeys(op.operands), block.args, inputs, strict=False):
        name = dtype_of_numpy(array.dtype).name
        loaded, moved = b.alloc((lanes, row), name).view(), b.alloc((lanes, row), name, "psum").view()
        b.load(loaded, whole(b, argument, array.shape, name))
        b.copy(moved, loaded)
        places[value] = moved
    result = b.alloc((lanes, row), dtype.name).view()
    Pointwise(b, machine).emit(op, [places[value] for value in op.operands], result)
    b.store(whole(b, block.args[-1], shape, dtype.name), result)
    block.add_op(ReturnOp())
    function = FuncOp("main", (types, []), Region(block))
    function.attributes[INPUT_COUNT] = IntegerAttr(len(inputs), i64)
    check_instructions(function, machine)
    return run_function(function, list(inputs), no_weights)[0]


def whole(b: KernelBuilder, value: SSAValue, shape: Sequence[int], dtype: str) -> Any:
    return b.adopt(value, tuple(shape), dtype).view()


def arguments(*arrays: Array) -> Sequence[SSAValue]:
    return Block(arg_types=[tensor_type(dtype_of_numpy(a.dtype), a.shape) for a in arrays]).args


def check_in_psum(make: Make, target: str, *inputs: Array) -> None:
    """The operator on sources in PSUM does what it does anywhere."""
    assert_near(run_in_psum(make(*arguments(*inputs)), target, *inputs), expected(make, *inputs)[0], 4e-6)


@pytest.mark.parametrize("target", ["inf1", "trn1"])
def test_every_kind_reads_psum(target: str) -> None:
    x, y = np.abs(random((64, 24))) + np.float32(0.1), np.abs(random((64, 24), seed=1)) + np.float32(0.5)
    for kind in UnaryKind:
        if kind is not UnaryKind.NOT:
            parameters = dict.fromkeys(UNARY_PARAMETERS.get(kind, ()), 0.7)
            check_in_psum(partial(UnaryOp, kind, **parameters), target, x)
    for kind in BinaryKind:
        if kind not in BITS:
            check_in_psum(partial(BinaryOp, kind), target, x, y)
    check_in_psum(SelectOp, target, random((64, 24), np.bool_), x, y)
    check_in_psum(lambda a: BinaryOp(BinaryKind.MUL, a, a), target, x)

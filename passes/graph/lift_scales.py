"""`graph-lift-scales`: layers multiply the integers of quantised tensors, and the scales follow behind.

Given graph-level functions, leaves layers (matmul, conv, conv_transpose) whose operands were 8-bit integers less a zero
point times a scale with the integers alone as operands, and a multiplication with the scales behind them. The numbers
are the same in exact arithmetic. On a core they get better: every such integer is a number of bf16 and of all wider
types, so that `graph-auto-cast` loses nothing, and sums below 2**24 are exact in f32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.dtypes import F32
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    BroadcastOp,
    ConvOp,
    ConvTransposeOp,
    MatMulOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.shapes import Shape
from passes.graph.intervals import EXACT_INTEGERS
from passes.graph.value_ranges import Ranges, interval_of, value_ranges

LARGEST_INTEGER = EXACT_INTEGERS["bf16"]
"""Magnitude up to which the integers of a tensor are left to be multiplied: the narrowest type holds them."""

Layer = MatMulOp | ConvOp | ConvTransposeOp


@dataclass(frozen=True)
class GraphLiftScalesPass(ModulePass):
    """Move the scales of quantised operands behind the layer that multiplies them.

        %0 = graph.cast %q : (tensor<4x8xui8>) -> tensor<4x8xf32>
        %1 = graph.binary mul %0, %s : (tensor<4x8xf32>, tensor<f32>) -> tensor<4x8xf32>
        %2 = graph.matmul %1, %w : (tensor<4x8xf32>, tensor<8x2xf32>) -> tensor<4x2xf32>

    becomes

        %0 = graph.cast %q : (tensor<4x8xui8>) -> tensor<4x8xf32>
        %1 = graph.matmul %0, %w : (tensor<4x8xf32>, tensor<8x2xf32>) -> tensor<4x2xf32>
        %2 = graph.binary mul %1, %s : (tensor<4x2xf32>, tensor<f32>) -> tensor<4x2xf32>

    A scale may be one number, or differ along what the layer does not sum over: per row of a matrix, per output channel
    of a weight. It is found behind what moves elements if it is one number.
    """

    name = "graph-lift-scales"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Lift in every function."""
        for function in op.ops:
            if isinstance(function, FuncOp):
                for block in function.body.blocks:
                    lift_block(block, op)


def lift_block(block: Block, module: ModuleOp) -> None:
    """Lift the scales of every layer of a block."""
    ranges = value_ranges(block, module)
    for op in list(block.ops):
        if isinstance(op, Layer) and all(spec_of(value)[0] is F32 for value in (*op.operands, *op.results)):
            found = [_scaled(value, ranges) for value in op.operands[:2]]
            shapes = [
                _shape_behind(op, index, shape_of(scaled.scale)) if scaled is not None else None
                for index, scaled in enumerate(found)
            ]
            lifted = [
                (scaled, shape) if scaled is not None and shape is not None else None
                for scaled, shape in zip(found, shapes, strict=True)
            ]
            if any(lifted):
                _lift(op, lifted, block)


@dataclass(frozen=True)
class _Scaled:
    """A tensor that is integers times a scale."""

    integers: SSAValue
    scale: SSAValue
    moves: tuple[Operation, ...]
    """What moves the elements between the product and its use, first to last; the scale is one number if there is
    any."""


def _scaled(value: SSAValue, ranges: Ranges) -> _Scaled | None:
    """The integers and the scale of a quantised tensor; None if it is not known to be one."""
    moves: list[Operation] = []
    while isinstance(value.owner, TransposeOp | ReshapeOp | BroadcastOp | SliceOp):
        moves.append(value.owner)
        value = value.owner.x
    owner = value.owner
    if not isinstance(owner, BinaryOp) or owner.kind.data is not BinaryKind.MUL:
        return None
    for integers, scale in ((owner.a, owner.b), (owner.b, owner.a)):
        known = interval_of(ranges, integers)
        if known.integral and known.magnitude <= LARGEST_INTEGER and shape_of(integers) == shape_of(value):
            if not moves or prod(shape_of(scale)) == 1:
                return _Scaled(integers, scale, tuple(reversed(moves)))
    return None


def _shape_behind(op: Layer, index: int, scale: Shape) -> Shape | None:
    """The shape in which the scale of operand `index` multiplies the layer's result; None where it cannot."""
    if prod(scale) == 1:
        return ()
    rank = len(shape_of(op.operands[index]))
    aligned = (*[1] * (rank - len(scale)), *scale)
    if isinstance(op, MatMulOp):
        transposed = (op.transpose_a if index == 0 else op.transpose_b).value.data
        summed = rank - (2 if transposed == (index == 0) else 1)
        if aligned[summed] != 1:
            return None
        # One of the two matrix dimensions is 1, so that a transpose is a reshape.
        other = prod(aligned[-2:])
        return (*aligned[:-2], *((other, 1) if index == 0 else (1, other)))
    channel = 0 if isinstance(op, ConvOp) else 1
    per_channel = index == 1 and prod(aligned) == aligned[channel]
    if not per_channel or (isinstance(op, ConvTransposeOp) and op.groups.value.data > 1):
        return None
    return (aligned[channel], *[1] * (rank - 2))


def _lift(op: Layer, lifted: Sequence[tuple[_Scaled, Shape] | None], block: Block) -> None:
    """Replace a layer by one on integers, its scales and its bias behind it."""

    def add(new: Operation) -> SSAValue:
        new.location = op.location
        block.insert_op_before(new, op)
        return new.results[0]

    operands = list(op.operands[:2])
    scales: list[SSAValue] = []
    for index, entry in enumerate(lifted):
        if entry is None:
            continue
        scaled, shape = entry
        operands[index] = scaled.integers
        for move in scaled.moves:
            operands[index] = add(move.clone({move.operands[0]: operands[index]}))
        reshaped = scaled.scale if shape_of(scaled.scale) == shape else add(ReshapeOp(scaled.scale, shape))
        scales.append(reshaped)
    result = add(
        type(op).create(
            operands=operands,
            properties=_without_bias(op.properties),
            attributes=op.attributes,
            result_types=[op.result.type],
        )
    )
    factor = scales[0] if len(scales) == 1 else add(BinaryOp(BinaryKind.MUL, *scales))
    result = add(BinaryOp(BinaryKind.MUL, result, factor))
    bias = None if isinstance(op, MatMulOp) else op.bias
    if bias is not None:
        column = add(ReshapeOp(bias, (*shape_of(bias), *[1] * (len(shape_of(op.result)) - 2))))
        result = add(BinaryOp(BinaryKind.ADD, result, column))
    result.name_hint = op.result.name_hint
    op.result.replace_all_uses_with(result)
    block.erase_op(op)


def _without_bias(properties: dict[str, Attribute]) -> dict[str, Attribute]:
    return {name: value for name, value in properties.items() if name != "operandSegmentSizes"}

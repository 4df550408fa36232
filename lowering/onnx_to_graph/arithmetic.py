"""Formulas on graph values, for converters that put an ONNX operator together from elementwise graph operators.

`Arithmetic` emits one graph operator per call. A Python number among the operands stands for a constant of the other
operand's element type, so that a converter reads like the formula that it states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from xdsl.ir import SSAValue

from lowering.onnx_to_graph.node import Node
from neuron_dialects.dtypes import DType
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ClipOp,
    CompareKind,
    CompareOp,
    ConcatOp,
    MatMulOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    SelectOp,
    SliceOp,
    TransposeOp,
    UnaryKind,
    UnaryOp,
    shape_of,
    spec_of,
)

Term: TypeAlias = SSAValue | float | int
"""An operand: a value, or a number."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Emits graph operators for one node; every method returns the result."""

    node: Node

    def number(self, value: float, dtype: DType) -> SSAValue:
        """A constant of no dimension."""
        return self.node.constant_value("number", value, dtype)

    def _pair(self, a: Term, b: Term) -> tuple[SSAValue, SSAValue]:
        if isinstance(a, SSAValue):
            return a, b if isinstance(b, SSAValue) else self.number(b, spec_of(a)[0])
        assert isinstance(b, SSAValue), "one operand is a value"
        return self.number(a, spec_of(b)[0]), b

    # Elementwise

    def binary(self, kind: BinaryKind, a: Term, b: Term) -> SSAValue:
        """`kind` of every pair of elements, broadcast."""
        return self.node.emit(BinaryOp(kind, *self._pair(a, b)))

    def add(self, a: Term, b: Term) -> SSAValue:
        """a + b."""
        return self.binary(BinaryKind.ADD, a, b)

    def sub(self, a: Term, b: Term) -> SSAValue:
        """a - b."""
        return self.binary(BinaryKind.SUB, a, b)

    def mul(self, a: Term, b: Term) -> SSAValue:
        """a * b."""
        return self.binary(BinaryKind.MUL, a, b)

    def div(self, a: Term, b: Term) -> SSAValue:
        """a / b; towards zero for integers."""
        return self.binary(BinaryKind.DIV, a, b)

    def maximum(self, a: Term, b: Term) -> SSAValue:
        """The greater of a and b."""
        return self.binary(BinaryKind.MAX, a, b)

    def minimum(self, a: Term, b: Term) -> SSAValue:
        """The lesser of a and b."""
        return self.binary(BinaryKind.MIN, a, b)

    def both(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a and b, of truth values."""
        return self.binary(BinaryKind.AND, a, b)

    def compare(self, kind: CompareKind, a: Term, b: Term) -> SSAValue:
        """Whether a and b are in the relation `kind`, broadcast."""
        return self.node.emit(CompareOp(kind, *self._pair(a, b)))

    def where(self, condition: SSAValue, a: Term, b: Term) -> SSAValue:
        """a where the condition holds, else b, broadcast."""
        return self.node.emit(SelectOp(condition, *self._pair(a, b)))

    def unary(self, kind: UnaryKind, x: SSAValue) -> SSAValue:
        """`kind` of every element."""
        return self.node.emit(UnaryOp(kind, x))

    def clip(self, x: SSAValue, minimum: float | None, maximum: float | None) -> SSAValue:
        """x within the bounds."""
        return self.node.emit(ClipOp(x, minimum=minimum, maximum=maximum))

    def cast(self, x: SSAValue, dtype: DType) -> SSAValue:
        """x in another element type."""
        return self.node.cast(x, dtype)

    # Rows and matrices

    def reduce(self, kind: ReduceKind, x: SSAValue, axes: Sequence[int], keep_dims: bool = False) -> SSAValue:
        """`kind` over the axes."""
        return self.node.emit(ReduceOp(kind, x, axes, keep_dims=keep_dims))

    def sum(self, x: SSAValue, *axes: int, keep_dims: bool = False) -> SSAValue:
        """The sum over the axes."""
        return self.reduce(ReduceKind.SUM, x, axes, keep_dims)

    def matmul(self, a: SSAValue, b: SSAValue, *, transpose_a: bool = False, transpose_b: bool = False) -> SSAValue:
        """The product of the last two dimensions."""
        return self.node.emit(MatMulOp(a, b, transpose_a=transpose_a, transpose_b=transpose_b))

    # Movement

    def reshape(self, x: SSAValue, shape: Sequence[int]) -> SSAValue:
        """x with another shape."""
        return x if shape_of(x) == tuple(shape) else self.node.emit(ReshapeOp(x, shape))

    def transpose(self, x: SSAValue, permutation: Sequence[int]) -> SSAValue:
        """x with its dimensions in another order."""
        return x if list(permutation) == sorted(permutation) else self.node.emit(TransposeOp(x, permutation))

    def part(self, x: SSAValue, axis: int, start: int, size: int, step: int = 1) -> SSAValue:
        """`size` slices of x along one axis."""
        starts, sizes, steps = [0] * len(shape_of(x)), list(shape_of(x)), [1] * len(shape_of(x))
        if (start, size, step) == (0, sizes[axis], 1):
            return x
        starts[axis], sizes[axis], steps[axis] = start, size, step
        return self.node.emit(SliceOp(x, starts, sizes, steps))

    def position(self, x: SSAValue, axis: int, index: int) -> SSAValue:
        """One slice of x along an axis, without that dimension."""
        shape = shape_of(x)
        return self.reshape(self.part(x, axis, index, 1), (*shape[:axis], *shape[axis + 1 :]))

    def concat(self, xs: Sequence[SSAValue], axis: int) -> SSAValue:
        """The operands one after the other along the axis."""
        return xs[0] if len(xs) == 1 else self.node.emit(ConcatOp(xs, axis))

"""Parts of a matrix product or convolution along its output channels: operators of their own that make part of it.

Given an operator, or a fused group whose anchor is one, whose filter is a weight, `output_axis` says along which
dimension its result can be cut, and `make_part` builds the operators that compute one slice of it: what varies along
that dimension (filter, bias, what pointwise operators add) is sliced, the rest is taken whole. A product that contracts
over what was made in parts needs not put them together: `make_sum` adds up what it gives for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.rewriter import Rewriter

from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ConvOp,
    FusedOp,
    MatMulOp,
    SliceOp,
    WeightOp,
    YieldOp,
    shape_of,
)
from neuron_dialects.graph.base import spec_of, tensor_type
from passes.graph.kernel_layouts import POINTWISE, outer_value


def output_axis(op: Operation) -> int | None:
    """The dimension of the result of `op` along which it can be made in parts, None where it cannot."""
    if len(op.results) != 1:
        return None
    shape = shape_of(op.results[0])
    anchor = op.body.block.first_op if isinstance(op, FusedOp) else op
    if isinstance(anchor, ConvOp) and anchor.groups.value.data == 1:
        axis, weight = 1, anchor.w
    elif isinstance(anchor, MatMulOp) and len(shape_of(anchor.b)) == 2:
        axis, weight = len(shape) - 1, anchor.b
    else:
        return None
    if not isinstance(outer_value(op, weight).owner, WeightOp) or shape_of(anchor.results[0]) != shape:
        return None
    if isinstance(op, FusedOp):
        inner = [child for child in op.body.block.ops if child is not anchor and not isinstance(child, YieldOp)]
        if any(not isinstance(child, POINTWISE) or shape_of(child.results[0]) != shape for child in inner):
            return None
    return axis


def make_part(
    op: Operation, low: int, size: int, value_of: Callable[[SSAValue], SSAValue], add: Callable[[Operation], None]
) -> SSAValue:
    """Positions `low` to `low + size` - 1 of the result of `op` along its output axis.

    `value_of` gives the value that stands for an operand of `op`; `add` is given the operators made, in order.
    """
    axis = output_axis(op)
    assert axis is not None
    part = _Part(op, axis, low, size, value_of, add)
    made = part.group(op) if isinstance(op, FusedOp) else part.plain(op)
    made.location = op.location
    made.attributes = dict(op.attributes)
    add(made)
    return made.results[0]


def is_summed(op: Operation, value: SSAValue) -> bool:
    """Whether `op` is a product of `value` with a weight, and reads it for nothing else: parts of it can be summed."""
    anchor = op.body.block.first_op if isinstance(op, FusedOp) else op
    if not isinstance(anchor, MatMulOp) or anchor.transpose_a or len(shape_of(anchor.b)) != 2 or len(op.results) != 1:
        return False
    if outer_value(op, anchor.a) is not value or not isinstance(outer_value(op, anchor.b).owner, WeightOp):
        return False
    read_once = not isinstance(op, FusedOp) or len(list(anchor.a.uses)) == 1
    return list(op.operands).count(value) == 1 and read_once


def make_sum(
    op: Operation,
    cut: SSAValue,
    parts: Sequence[SSAValue],
    value_of: Callable[[SSAValue], SSAValue],
    add: Callable[[Operation], None],
) -> SSAValue:
    """The result of a product whose first operand `cut` is there in `parts` along its last dimension.

    Each part is multiplied with its rows of the weight; the last one's product takes the sum of the others, in f32,
    before what follows in the group. `value_of` and `add` as in `make_part`.
    """
    low, total = 0, None
    for number, part in enumerate(parts):
        total = add_to_sum(op, part, low, total, number == len(parts) - 1, value_of, add)
        low += shape_of(part)[-1]
    assert total is not None
    return total


def add_to_sum(
    op: Operation,
    part: SSAValue,
    low: int,
    total: SSAValue | None,
    is_last: bool,
    value_of: Callable[[SSAValue], SSAValue],
    add: Callable[[Operation], None],
) -> SSAValue:
    """What a product gives for positions from `low` of its first operand, `part`, added to the sum of those before it.

    The last part gives the result of `op`, what follows in its group included; the others an f32 sum.
    """
    anchor = op.body.block.first_op if isinstance(op, FusedOp) else op
    assert isinstance(anchor, MatMulOp)
    weight, turned = value_of(outer_value(op, anchor.b)), bool(anchor.transpose_b)

    def put(made: Operation) -> SSAValue:
        made.location = op.location
        add(made)
        return made.results[0]

    size, (rows, columns) = shape_of(part)[-1], shape_of(weight)
    starts, sizes = ((0, low), (rows, size)) if turned else ((low, 0), (size, columns))
    share = put(SliceOp(weight, starts, sizes, (1, 1)))
    if is_last:
        assert total is not None
        return put(_last_product(op, anchor, part, share, total, value_of))
    if total is None:
        return put(MatMulOp(part, share, transpose_b=turned, accumulate_f32=True))
    return put(_sum(op, [part, share, total], turned))


def _sum(op: Operation, operands: Sequence[SSAValue], turned: bool) -> FusedOp:
    """The product of the first two operands plus the third one, as one group."""
    block = Block(arg_types=[value.type for value in operands])
    x, w, earlier = block.args
    inner = MatMulOp(x, w, transpose_b=turned, accumulate_f32=True)
    summed = BinaryOp(BinaryKind.ADD, inner.result, earlier)
    block.add_ops([inner, summed, YieldOp(summed.result)])
    for made in block.ops:
        made.location = op.location
    return FusedOp(operands, [summed.result.type], Region(block))


def _last_product(
    op: Operation,
    anchor: MatMulOp,
    part: SSAValue,
    share: SSAValue,
    total: SSAValue,
    value_of: Callable[[SSAValue], SSAValue],
) -> FusedOp:
    """The product of the last part, plus `total`, and what the group of `op` does with it."""
    used = {use.operation for use in anchor.b.uses} if isinstance(op, FusedOp) else set[Operation]()
    sliced = {outer_value(op, anchor.a), *([outer_value(op, anchor.b)] if used == {anchor} else [])}
    others = [o for o in op.operands if o not in sliced] if isinstance(op, FusedOp) else []
    operands = [part, share, total, *map(value_of, others)]
    block = Block(arg_types=[value.type for value in operands])
    x, w, earlier, *rest = block.args
    product = MatMulOp(x, w, transpose_b=bool(anchor.transpose_b), accumulate_f32=True)
    summed = BinaryOp(BinaryKind.ADD, product.result, earlier)
    block.add_ops([product, summed])
    result = summed.result
    dtype = spec_of(anchor.result)[0]
    if dtype is not spec_of(result)[0]:
        narrowed = CastOp(result, dtype)
        block.add_op(narrowed)
        result = narrowed.result
    values: dict[SSAValue, SSAValue] = {anchor.result: result}
    if isinstance(op, FusedOp):
        inside = dict(zip(others, rest, strict=True))
        for argument, outer in zip(op.body.block.args, op.operands, strict=True):
            if outer in inside:
                values[argument] = inside[outer]
        for inner in op.body.block.ops:
            if inner is not anchor:
                made = inner.clone(value_mapper=values)
                made.location = inner.location
                block.add_op(made)
    else:
        block.add_op(YieldOp(result))
    for inner in block.ops:
        inner.location = op.location
    terminator = block.last_op
    assert terminator is not None
    return FusedOp(operands, [value.type for value in terminator.operands], Region(block))


@dataclass
class _Part:
    """Builds one part. `_sliced`: operand and the dimension that it was cut along -> the slice."""

    op: Operation
    axis: int
    low: int
    size: int
    value_of: Callable[[SSAValue], SSAValue]
    add: Callable[[Operation], None]
    _sliced: dict[tuple[SSAValue, int], SSAValue] = field(default_factory=dict[tuple[SSAValue, int], SSAValue])

    def plain(self, op: Operation) -> Operation:
        """A part of an operator that stands alone."""
        made = op.clone()
        made.operands = [
            self._outer(operand, self._cut_dimension(op, index)) for index, operand in enumerate(op.operands)
        ]
        self._narrow(made)
        return made

    def group(self, op: FusedOp) -> FusedOp:
        """A part of a fused group: an argument that is taken whole and sliced becomes two."""
        block, values = Block(), dict[SSAValue, SSAValue]()
        arguments: dict[tuple[SSAValue, int | None], SSAValue] = {}
        operands: list[SSAValue] = []

        def argument(value: SSAValue, dimension: int | None) -> SSAValue:
            if (value, dimension) not in arguments:
                operands.append(self._outer(outer_value(op, value), dimension))
                arguments[value, dimension] = block.insert_arg(operands[-1].type, len(block.args))
            return arguments[value, dimension]

        for inner in op.body.block.ops:
            made = inner.clone()
            made.operands = [
                values[operand] if operand in values else argument(operand, self._cut_dimension(inner, index))
                for index, operand in enumerate(inner.operands)
            ]
            made.location = inner.location
            block.add_op(made)
            if not isinstance(made, YieldOp):
                self._narrow(made)
            values.update(zip(inner.results, made.results, strict=True))
        terminator = block.last_op
        assert terminator is not None
        return FusedOp(operands, [value.type for value in terminator.operands], Region(block))

    def _cut_dimension(self, op: Operation, index: int) -> int | None:
        """The dimension along which operand `index` of an operator is cut; None where it is taken whole."""
        shape = shape_of(op.operands[index])
        if isinstance(op, ConvOp):
            return None if index == 0 else 0
        if isinstance(op, MatMulOp):
            return None if index == 0 else (0 if op.transpose_b else 1)
        if isinstance(op, YieldOp):
            return self.axis
        dimension = len(shape) - (len(shape_of(op.results[0])) - self.axis)
        return dimension if dimension >= 0 and shape[dimension] > 1 else None

    def _outer(self, value: SSAValue, dimension: int | None) -> SSAValue:
        """What stands for an operand, or a slice of it."""
        if dimension is None:
            return self.value_of(value)
        if (value, dimension) not in self._sliced:
            shape = shape_of(value)
            starts = [self.low if d == dimension else 0 for d in range(len(shape))]
            sizes = [self.size if d == dimension else n for d, n in enumerate(shape)]
            slice_ = SliceOp(self.value_of(value), starts, sizes, [1] * len(shape))
            slice_.location = self.op.location
            self.add(slice_)
            self._sliced[value, dimension] = slice_.result
        return self._sliced[value, dimension]

    def _narrow(self, op: Operation) -> None:
        """Give the result its size along the axis."""
        dtype, shape = spec_of(op.results[0])
        narrowed = [self.size if d == self.axis else n for d, n in enumerate(shape)]
        type_ = tensor_type(dtype, narrowed)
        assert isinstance(op.results[0].type, TensorType)
        Rewriter.replace_value_with_new_type(op.results[0], type_)

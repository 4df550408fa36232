"""Between which bounds the values of a graph-level program lie, and which floats are whole numbers.

`value_ranges` goes once over a block in program order, from what element types, constants, weights and operators say.
What it proves lets a product of 8-bit integers be computed in a narrow float type without loss, and a 64-bit integer in
32 bits. Weights of integers carry their bounds in the attribute `neuron.range`, which the import writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue

from neuron_dialects.dtypes import dtype_of_or_none
from neuron_dialects.graph import (
    BinaryOp,
    BroadcastOp,
    CastOp,
    ClipOp,
    CompareOp,
    ConcatOp,
    ConstantOp,
    ConvOp,
    ConvTransposeOp,
    DerivedWeightOp,
    GatherOp,
    MatMulOp,
    OnnxNodeOp,
    PadMode,
    PadOp,
    PoolKind,
    PoolOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    SelectOp,
    SliceOp,
    TransposeOp,
    UnaryOp,
    WeightOp,
    YieldOp,
    ints,
    shape_of,
    spec_of,
)
from passes.graph.intervals import ANY, BINARY, UNARY, Interval, clipped, held, join, of_dtype, product, repeated_sum

_COUNTING = ("ArgMax", "ArgMin", "NonZero", "Shape", "Size", "TopK", "Unique")
"""ONNX operators whose 64-bit results are positions in a tensor or sizes of one."""
_LARGEST_COUNT = 2**31 - 1
"""No tensor has more elements."""

Ranges = Mapping[SSAValue, Interval]
_Lookup = Callable[[SSAValue], Interval]


def value_ranges(block: Block, module: ModuleOp | None = None, given: Ranges | None = None) -> dict[SSAValue, Interval]:
    """The interval of every value of a block of graph operators.

    Args:
        block: its operators in program order.
        module: where the recipes of derived weights are looked up.
        given: what is known of the block's arguments; their element type says the rest.
    """
    analysis = _Analysis()
    for op in module.ops if module is not None else ():
        if isinstance(op, DerivedWeightOp):
            analysis.add_recipe(op)
    return analysis.run(block, given or {})


def interval_of(ranges: Ranges, value: SSAValue) -> Interval:
    """What is known of a value, at least what its element type says."""
    if (known := ranges.get(value)) is not None:
        return known
    dtype = dtype_of_or_none(value.type)
    return ANY if dtype is None else of_dtype(dtype)


class _Analysis:
    """One analysis, and what it knows of derived weights."""

    def __init__(self) -> None:
        self._weights: dict[str, Interval] = {}

    def add_recipe(self, recipe: DerivedWeightOp) -> None:
        """Look at a recipe; those whose weights it names stand before it."""
        ranges = self.run(recipe.body.block, {})
        final = recipe.body.block.last_op
        if isinstance(final, YieldOp):
            self._weights[recipe.sym_name.data] = interval_of(ranges, final.values[0])

    def run(self, block: Block, given: Ranges) -> dict[SSAValue, Interval]:
        ranges: dict[SSAValue, Interval] = {**given}
        for op in block.ops:
            self._note(op, ranges)
        return ranges

    def _note(self, op: Operation, ranges: dict[SSAValue, Interval]) -> None:
        """Add what is known of an operator's results, where that is more than the element type says."""
        if isinstance(op, OnnxNodeOp):
            if op.op_type.data in _COUNTING and not op.domain.data:
                for result in op.results:
                    dtype = dtype_of_or_none(result.type)
                    if dtype is not None and dtype.is_integer:
                        ranges[result] = Interval(0, _LARGEST_COUNT)
            return
        found = self._weight(op) if isinstance(op, WeightOp) else _result(op, ranges)
        if found is not None:
            dtype = dtype_of_or_none(op.results[0].type)
            if dtype is not None:
                ranges[op.results[0]] = held(found, dtype)

    def _weight(self, op: WeightOp) -> Interval | None:
        return self._weights.get(op.weight_name) if op.bounds is None else Interval(*op.bounds)


def _result(op: Operation, ranges: Ranges) -> Interval | None:
    """The interval of an operator's result, before its element type has its say; None if nothing is known."""

    def of(value: SSAValue) -> Interval:
        return interval_of(ranges, value)

    match op:
        case ConstantOp():
            return _constant(op)
        case UnaryOp() if (rule := UNARY.get(op.kind.data)) is not None:
            return rule(of(op.x)) if of(op.x).integral else None
        case BinaryOp() if (binary := BINARY.get(op.kind.data)) is not None:
            a, b = of(op.a), of(op.b)
            is_integer = spec_of(op.a)[0].is_integer
            # Floats that are divided are seldom whole.
            exact = is_integer or op.kind.data.value not in ("div", "mod", "fmod")
            return binary(a, b) if a.integral and b.integral and exact else None
        case CompareOp():
            return Interval(0, 1)
        case SelectOp():
            return join(of(op.a), of(op.b))
        case CastOp():
            return of(op.x) if of(op.x).integral else None
        case ClipOp():
            minimum, maximum = (b.value.data if b is not None else None for b in (op.minimum, op.maximum))
            return clipped(of(op.x), minimum, maximum)
        case _:
            return _moved(op, of) or _accumulated(op, of)


def _constant(op: ConstantOp) -> Interval | None:
    values = op.array()
    if not values.size:
        return None
    values = values[(0,) * values.ndim] if op.is_splat else values
    if not spec_of(op.result)[0].is_float:
        return Interval(int(np.min(values)), int(np.max(values)))
    wide = np.asarray(values, np.float64)
    if np.isfinite(wide).all() and (wide == np.rint(wide)).all():
        return Interval(int(wide.min()), int(wide.max()))
    return None


def _moved(op: Operation, of: _Lookup) -> Interval | None:
    """Of operators whose results are elements of their operands."""
    match op:
        case TransposeOp() | ReshapeOp() | BroadcastOp() | SliceOp():
            return of(op.x)
        case GatherOp():
            return of(op.data)
        case ConcatOp():
            return join(*(of(x) for x in op.xs))
        case PadOp():
            value = op.value.value.data
            if op.mode.data is not PadMode.CONSTANT:
                return of(op.x)
            return join(of(op.x), Interval(int(value), int(value))) if float(value).is_integer() else None
        case PoolOp() if op.kind.data is PoolKind.MAX:
            return of(op.x)
        case ReduceOp() if op.kind.data in (ReduceKind.MAX, ReduceKind.MIN):
            return of(op.x)
        case _:
            return None


def _accumulated(op: Operation, of: _Lookup) -> Interval | None:
    """Of sums."""
    match op:
        case ReduceOp() if op.kind.data is ReduceKind.SUM and of(op.x).integral:
            count = prod(shape_of(op.x)[axis] for axis in ints(op.axes))
            return repeated_sum(of(op.x), count)
        case MatMulOp() | ConvOp() if not (isinstance(op, ConvOp) and op.bias is not None):
            return product_sum(op, of(op.operands[0]), of(op.operands[1]))
        case _:
            return None


def product_sum(op: MatMulOp | ConvOp | ConvTransposeOp, a: Interval, b: Interval) -> Interval | None:
    """The interval of every partial sum of products that a layer adds up; None unless they are whole numbers."""
    if not (a.integral and b.integral):
        return None
    terms = product(a, b)
    if isinstance(op, ConvOp):
        return repeated_sum(terms, prod(shape_of(op.w)[1:]))
    if isinstance(op, ConvTransposeOp):
        channels, _, *window = shape_of(op.w)
        return repeated_sum(terms, channels // op.groups.value.data * prod(window))
    return repeated_sum(terms, shape_of(op.a)[-2 if op.transpose_a.value.data else -1])

"""Pointwise graph operators on views: one operator at a time, or a group as few instructions as its chains allow.

`Pointwise` is given views of one shape, [P, free...], in SBUF or PSUM (repeated views have stride 0), per-partition
columns and numbers, and emits engine ops that leave the result in a destination view. It picks the recipe by operator,
kind and element type; the recipes are in pointwise_unary.py, pointwise_binary.py and integers.py, the fusion of chains
in pointwise_chain.py. Kernels use it for their sweeps, matmul and convolution for what rides on the eviction from PSUM.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from xdsl.dialects.builtin import FusedLoc, LocationAttr, NoneAttr
from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.emitter import Emitter, Operand, within_rank
from lowering.graph_to_tile.integers import INTEGER_DTYPES, NARROW_DTYPES, Integers
from lowering.graph_to_tile.pointwise_binary import emit_binary
from lowering.graph_to_tile.pointwise_chain import chains, emit_chain, head_operand, is_step, parameters, steps_of
from lowering.graph_to_tile.pointwise_unary import emit_unary
from lowering.graph_to_tile.view import View
from neuron_dialects.dtypes import DType
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ClipOp,
    CompareKind,
    CompareOp,
    SelectOp,
    UnaryOp,
    spec_of,
)
from neuron_dialects.neuron import location_name
from neuron_dialects.target import Target

POINTWISE_OPS: tuple[type[Operation], ...] = (UnaryOp, BinaryOp, CompareOp, SelectOp, ClipOp, CastOp)
"""Operators that `Pointwise` emits."""

FLOAT_DTYPES = ("f32", "tf32", "f16", "bf16")
"""Floating point types that the engines read and write with rounding to nearest even."""

COMPARISONS: dict[CompareKind, str] = {
    CompareKind.EQ: "equal",
    CompareKind.NE: "not_equal",
    CompareKind.LT: "less",
    CompareKind.LE: "less_equal",
    CompareKind.GT: "greater",
    CompareKind.GE: "greater_equal",
}
"""ALU operator of a comparison."""


def is_supported(dtype: DType) -> bool:
    """Whether a core computes with this element type."""
    return dtype.name in (*FLOAT_DTYPES, *INTEGER_DTYPES, "i1")


def require_supported(op: Operation) -> None:
    """NeuronError NX-OP-002 where an operand or result has an element type that a core does not compute with."""
    for value in (*op.operands, *op.results):
        dtype, _ = spec_of(value)
        if not is_supported(dtype):
            raise NeuronError(
                "NX-OP-002",
                f"{op.name} on {dtype}; a core computes with {', '.join((*FLOAT_DTYPES, *INTEGER_DTYPES))} and i1",
                node=location_name(op.location),
                help="run it on the host",
            )


class Pointwise:
    """Emits pointwise operators at the builder's current place."""

    def __init__(self, b: KernelBuilder, target: Target):
        self.b = b
        self.e = Emitter(b, target)
        self.integers = Integers(self.e)

    # -- one operator
    # -----------------------------------------------------------------------------------------------------

    def emit(self, op: Operation, operands: Sequence[Operand], dst: View) -> None:
        """dst = op(operands): one of `POINTWISE_OPS`, with one view or number for each of its operands.

        All views have dst's shape; any number of free dimensions. Raises NeuronError NX-OP-002 for an element type that
        the engines do not compute with.
        """
        require_supported(op)
        places = [i for i, operand in enumerate(operands) if isinstance(operand, View)]
        views = [operand for operand in operands if isinstance(operand, View)]

        def piece(parts: Sequence[View]) -> None:
            given = list(operands)
            for place, view in zip(places, parts, strict=False):
                given[place] = view
            with self.e.scope():
                self._dispatch(op, given, parts[-1])

        within_rank(self.b, [*views, dst], piece)

    def _dispatch(self, op: Operation, operands: Sequence[Operand], dst: View) -> None:
        dtype = spec_of(op.operands[0])[0]
        match op:
            case UnaryOp():
                self._unary(op, dtype, dst, self.e.tile(operands[0], dst, dtype.name))
            case BinaryOp():
                self._binary(op.kind.data, dtype, dst, operands[0], operands[1])
            case CompareOp():
                self._compare(COMPARISONS[op.kind.data], dtype, dst, operands[0], operands[1])
            case SelectOp():
                self._select(spec_of(op.a)[0], dst, operands)
            case ClipOp():
                self._clip(op, dtype, dst, operands[0])
            case CastOp():
                self._cast(dtype, spec_of(op.result)[0], dst, operands[0])
            case _:
                raise NeuronError("NX-OP-002", f"{op.name} is not pointwise", node=location_name(op.location))

    def _unary(self, op: UnaryOp, dtype: DType, dst: View, x: View) -> None:
        kind = op.kind.data
        if not dtype.is_integer:
            emit_unary(self.e, kind, dst, x, *parameters(op))
            return
        wide = self._wide(dst)
        self.integers.unary(kind, wide, self.e.converted(x, "i32"))
        self._narrow(dst, wide)

    def _binary(self, kind: BinaryKind, dtype: DType, dst: View, a: Operand, b: Operand) -> None:
        if not dtype.is_integer or (dtype.name in NARROW_DTYPES and kind in (BinaryKind.MAX, BinaryKind.MIN)):
            emit_binary(self.e, kind, dst, a, b)
            return
        wide = self._wide(dst)
        self.integers.binary(kind, wide, self._widened(a), self._widened(b), 8 * dtype.size_bytes)
        self._narrow(dst, wide)

    def _compare(self, comparison: str, dtype: DType, dst: View, a: Operand, b: Operand) -> None:
        if dtype.name == "i32":
            self.integers.compare(dst, a, b, comparison)
        else:
            self.e.alu(dst, a, b, comparison)

    def _select(self, dtype: DType, dst: View, operands: Sequence[Operand]) -> None:
        condition, a, b = operands
        if not isinstance(condition, View):
            self._assign(dtype, dst, a if condition else b)
            return
        self._assign(dtype, dst, b)
        chosen = a if isinstance(a, View) or dtype.name != "i32" else self.integers.number(a, dst)
        self.e.select(dst, chosen, condition)

    def _assign(self, dtype: DType, dst: View, src: Operand) -> None:
        if not isinstance(src, View) and dtype.name == "i32":
            src = self.integers.number(src, dst)
        self.e.assign(dst, src)

    def _clip(self, op: ClipOp, dtype: DType, dst: View, x: Operand) -> None:
        bounds: list[tuple[str, Operand]] = []
        for name, bound in (("maximum", op.minimum), ("minimum", op.maximum)):
            if bound is not None:
                bounds.append((name, bound_of(bound.value.data, dtype)))
        if not bounds:
            self._assign(dtype, dst, x)
        elif dtype.name != "i32":
            self.e.run(dst, self.e.tile(x, dst, dtype.name), bounds)
        else:
            for position, (name, bound) in enumerate(bounds):
                target = dst if position == len(bounds) - 1 else self.e.temp(dst, "i32")
                self.integers.extreme(target, x, bound, "greater" if name == "maximum" else "less")
                x = target

    def _cast(self, source: DType, target: DType, dst: View, x: Operand) -> None:
        if not isinstance(x, View):
            x = self.integers.number(x, dst) if source.name == "i32" else self.e.filled(dst, x, source.name)
        if target.name == "i1":
            self.e.scalar(dst, x, "not_equal", 0.0)
        elif target.is_integer and source.is_float:
            self._truncate(dst, x)
        elif target.is_integer and source.is_integer and target is not source:
            self.integers.narrow(dst, self.e.converted(x, "i32"))
        else:
            self.e.assign(dst, x)

    def _truncate(self, dst: View, x: View) -> None:
        """Float to integer towards zero: the hardware's cast rounds to even, so one comes off where it rounded up."""
        e = self.e
        magnitude, whole, excess, sign = e.temp(x), e.temp(x, "i32"), e.temp(x), e.temp(x)
        e.function(magnitude, x, "abs")
        e.assign(whole, magnitude)
        e.alu(excess, whole, magnitude, "greater")
        e.alu(magnitude, whole, excess, "subtract")
        e.function(sign, x, "sign")
        wide = self._wide(dst)
        e.alu(wide, magnitude, sign, "multiply")
        self._narrow(dst, wide)

    def _wide(self, dst: View) -> View:
        return dst if dst.dtype == "i32" else self.e.temp(dst, "i32")

    def _narrow(self, dst: View, wide: View) -> None:
        if wide is not dst:
            self.integers.narrow(dst, wide)

    def _widened(self, operand: Operand) -> Operand:
        return self.e.converted(operand, "i32") if isinstance(operand, View) else operand

    # -- groups
    # -----------------------------------------------------------------------------------------------------------

    def emit_group(
        self,
        ops: Sequence[Operation],
        values: Mapping[SSAValue, Operand],
        results: Mapping[SSAValue, View],
        sums: Mapping[SSAValue, View] | None = None,
    ) -> None:
        """Emit pointwise operators in program order, fusing chains.

        `values` has a view or number for every operand that no op of the group produces; `results` the destination of
        every value that is wanted. All views have one shape. Other results become temporaries of their own element
        type. Instructions carry the locations of the ops that they do. `sums`: [P, 1] views that receive the sums of
        rows of some results; these rows are what an engine can address at once.
        """
        for op in ops:
            require_supported(op)
        keys = [value for value, operand in values.items() if isinstance(operand, View)]
        views = [operand for operand in values.values() if isinstance(operand, View)]
        wanted = list(results)
        numbers = {value for value, operand in values.items() if not isinstance(operand, View)}
        columns = {value for value, operand in values.items() if isinstance(operand, View) and operand.is_column}

        def piece(parts: Sequence[View]) -> None:
            known: dict[SSAValue, Operand] = {**values, **dict(zip(keys, parts, strict=False))}
            targets = dict(zip(wanted, parts[len(keys) :], strict=True))
            location = self.b.location
            found = chains(ops, wanted, numbers, columns)
            for chain, last_used in zip(found, _last_uses(found), strict=True):
                with self.e.scope():
                    self._emit_part(chain, known, targets, (sums or {}).get(chain[-1].results[0]))
                for value in last_used:
                    tile = known[value]
                    if value not in targets and isinstance(tile, View) and not tile.is_column:
                        self.e.release(tile)
            self.b.location = location

        within_rank(self.b, [*views, *results.values()], piece)

    def _emit_part(
        self,
        chain: Sequence[Operation],
        known: dict[SSAValue, Operand],
        targets: Mapping[SSAValue, View],
        row_sum: View | None = None,
    ) -> None:
        """One chain: its operands are known, its last result becomes known."""
        self.b.location = fused_location([op.location for op in chain])
        last = chain[-1].results[0]
        operands = {value: known[value] for op in chain for value in op.operands if value in known}
        like = next(iter(targets.values()))
        dst = targets.get(last)
        if dst is None and all(not isinstance(x, View) or x.is_column for x in operands.values()):
            # Nothing in it varies along the row: one element per partition is enough.
            operands = {v: x.column if isinstance(x, View) else x for v, x in operands.items()}
            column = self.b.alloc((like.partitions, 1), spec_of(last)[0].name, "sbuf", self.b.rotation).view()
            self._emit_chain(chain, operands, column)
            known[last] = self.e.repeated(column, like)
            return
        if dst is None:
            dst = self.e.temp(like, spec_of(last)[0].name, rotating=True)
        self._emit_chain(chain, operands, dst, row_sum)
        known[last] = dst

    def _emit_chain(
        self,
        chain: Sequence[Operation],
        operands: Mapping[SSAValue, Operand],
        dst: View,
        row_sum: View | None = None,
    ) -> None:
        numbers = {value for value, operand in operands.items() if not isinstance(operand, View)}
        if len(chain) > 1 or (row_sum is not None and is_step(chain[0], numbers)):
            head = head_operand(chain[0], operands)
            emit_chain(self.e, dst, operands[head], steps_of(chain, head, operands), row_sum)
            return
        self._dispatch(chain[0], [operands[value] for value in chain[0].operands], dst)
        if row_sum is not None:
            self.e.total(row_sum, dst)


def _last_uses(found: Sequence[Sequence[Operation]]) -> list[list[SSAValue]]:
    """For each chain of a group, the results of earlier chains that it is the last to use."""
    made = {chain[-1].results[0] for chain in found}
    users = {value: number for number, chain in enumerate(found) for op in chain for value in op.operands}
    last: list[list[SSAValue]] = [[] for _ in found]
    for value, number in users.items():
        if value in made:
            last[number].append(value)
    return last


def bound_of(bound: float, dtype: DType) -> float:
    """A clip bound as a number of the element type; one that an integer cannot reach is its extreme value."""
    if not dtype.is_integer:
        return bound
    limits = np.iinfo(dtype.numpy)
    return float(int(min(max(bound, float(limits.min)), float(limits.max))))


def fused_location(locations: Sequence[LocationAttr]) -> LocationAttr:
    """One location for what was made from several ops."""
    distinct = list(dict.fromkeys(locations))
    return distinct[0] if len(distinct) == 1 else FusedLoc(tuple(distinct), NoneAttr())

"""A loop that turns tiles becomes part of the loop whose products make them, `behind` iterations later.

    for i in 0 .. n: product i            product 0
    for i in 0 .. n: turn i               for i in 0 .. n - 1: product i + 1; turn i
                                          turn n - 1

The tensor engine works in program order. It would wait for what the other engines make of a product before it could
turn that in the same iteration; a product or some later it is there. The engines that bring turned tiles out of PSUM do
so beside the products, instead of all of it after the last one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from xdsl.dialects import arith
from xdsl.dialects.builtin import IndexType, IntegerAttr
from xdsl.dialects.scf import ForOp, YieldOp
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.access_ops import AccessAttr, AccessOp, FieldsAttr
from neuron_dialects.loops import trip_count


def turn_later(products: ForOp, turns: ForOp, behind: int) -> tuple[list[Operation], list[Operation]]:
    """Make `turns`, of as many iterations, a part of `products` as above; nothing between may depend on either.

    `behind`: at least 1, less than the iterations. Gives the new operations before `products`, among them those of the
    first products, and those of the last turns, which stand before `turns`. That loop is left empty.
    """
    trips = trip_count(products)
    first = iterations(products, 0, behind, InsertPoint.before(products))
    end = iterations(turns, trips - behind, behind, InsertPoint.before(turns))
    _move(products, behind)
    move_body(turns, products)
    return [*first, _bound(products, trips - behind)], end


def peel_last(loop: ForOp) -> tuple[Operation, list[Operation]]:
    """Let a loop run once less; gives the new bound, right before it, and its last iteration, right behind it."""
    trips = trip_count(loop)
    last = iterations(loop, trips - 1, 1, InsertPoint.after(loop))
    return _bound(loop, trips - 1), last


def move_body(loop: ForOp, into: ForOp, *, first: bool = False) -> None:
    """Do what a loop does at the end of another one of as many iterations, or `first`; the loop is left empty."""
    target, source = into.body.block, loop.body.block
    place = target.first_op if first else target.last_op
    assert place is not None
    source.args[0].replace_all_uses_with(target.args[0])
    for op in list(source.ops):
        if not isinstance(op, YieldOp):
            op.detach()
            target.insert_op_before(op, place)


def nested_loop(loop: ForOp) -> ForOp | None:
    """The loop that another one consists of, with bounds from outside of both; None where there is none."""
    inner = loop.body.block.first_op
    if not isinstance(inner, ForOp) or not isinstance(inner.next_op, YieldOp):
        return None
    inside = any(
        isinstance(value.owner, Operation) and value.owner.parent is loop.body.block for value in inner.operands
    )
    return None if inside else inner


def swap_loops(loop: ForOp, inner: ForOp) -> None:
    """Let a loop go over what `inner`, which it consists of, goes over, and that over what the loop goes over."""
    outside, inside = list(loop.operands), list(inner.operands)
    loop.operands, inner.operands = inside, outside
    own, other = loop.body.block.args[0], inner.body.block.args[0]
    swapped: dict[SSAValue, SSAValue] = {own: other, other: own}
    for op in inner.body.block.walk():
        if any(value in swapped for value in op.operands):
            op.operands = [swapped.get(value, value) for value in op.operands]


def group_iterations(loop: ForOp, size: int) -> list[Operation]:
    """Let a loop do `size` iterations, a divisor of their number, in one; gives the new operations before it.

    f(i) becomes f(size * i + j) in a loop over j.
    """
    outer, trips = loop.body.block, trip_count(loop)
    bound = arith.ConstantOp(IntegerAttr(size, IndexType()))
    Rewriter.insert_op(bound, InsertPoint.before(loop))
    inner = Block(arg_types=[IndexType()])
    inner.args[0].name_hint = outer.args[0].name_hint
    end = outer.last_op
    assert isinstance(end, YieldOp)
    for op in list(outer.ops):
        if op is not end:
            op.detach()
            inner.add_op(op)
    inner.add_op(YieldOp())
    for op in inner.walk():
        if isinstance(op, AccessOp):
            _split(op, outer.args[0], inner.args[0], size)
    nested = ForOp(loop.lb, bound.result, loop.step, [], Region(inner))
    nested.location = loop.location
    outer.insert_op_before(nested, end)
    return [bound, _bound(loop, trips // size)]


def _bound(loop: ForOp, trips: int) -> Operation:
    """Let a loop run `trips` times; the constant that says so, before it."""
    bound = arith.ConstantOp(IntegerAttr(trips, IndexType()))
    Rewriter.insert_op(bound, InsertPoint.before(loop))
    loop.operands[1] = bound.result
    return bound


def iterations(loop: ForOp, start: int, number: int, place: InsertPoint) -> list[Operation]:
    """Copies of `number` iterations of a loop from `start` on, at `place`: a loop where there are several."""
    if number == 1:
        return _at_iteration(loop, start, place)
    copy = loop.clone()
    _keep_locations(loop, copy)
    Rewriter.insert_op(copy, place)
    if start:
        _move(copy, start)
    return [_bound(copy, number), copy]


def _move(loop: ForOp, iterations: int) -> None:
    """Let a loop begin so many iterations later."""
    for op in loop.body.block.walk():
        if isinstance(op, AccessOp):
            _replace(op, loop.body.block.args[0], Affine.variable(0) + iterations)


def _at_iteration(loop: ForOp, number: int, place: InsertPoint) -> list[Operation]:
    """A copy of one iteration of a loop, at `place`."""
    made: list[Operation] = []
    values: dict[SSAValue, SSAValue] = {}
    for op in loop.body.block.ops:
        if isinstance(op, YieldOp):
            continue
        copy = op.clone(value_mapper=values)
        _keep_locations(op, copy)
        made.append(copy)
    Rewriter.insert_op(made, place)
    for copy in made:
        for op in copy.walk():
            if isinstance(op, AccessOp):
                _replace(op, loop.body.block.args[0], Affine(number))
    return made


def _keep_locations(op: Operation, copy: Operation) -> None:
    """Give a copy, and all in it, the locations of what it is a copy of."""
    for old, new in zip(op.walk(), copy.walk(), strict=True):
        new.location = old.location


def _replace(op: AccessOp, variable: SSAValue, value: Affine) -> None:
    """Put `value`, a constant or `$0` (the variable itself) and a constant, in place of a loop variable."""
    if variable not in op.indices:
        return
    position = list(op.indices).index(variable)
    kept: Sequence[SSAValue] = [v for v in op.indices if v is not variable]
    indices = kept if value.is_constant else list(op.indices)
    numbers = {i: indices.index(v) for i, v in enumerate(op.indices) if v in indices}
    change = _Change(position, value.constant, numbers)
    op.properties["access"] = AccessAttr(tuple((role, change.pattern(p)) for role, p in op.access.data))
    op.properties["fields"] = FieldsAttr(
        type(op).normal_fields({name: change.field(field) for name, field in op.fields.data})
    )
    if value.is_constant:
        op.set_operands(op.buffers, indices)


def _split(op: AccessOp, variable: SSAValue, inner: SSAValue, size: int) -> None:
    """Put `size` * variable + inner in place of a loop variable."""
    if variable not in op.indices:
        return
    place = list(op.indices).index(variable)

    def affine(expression: Affine) -> Affine:
        terms = {v + int(v > place): c * (size if v == place else 1) for v, c in expression.terms}
        return Affine.of(expression.constant, {**terms, place + 1: expression.coefficient(place)})

    indices = [*op.indices[: place + 1], inner, *op.indices[place + 1 :]]
    op.properties["access"] = AccessAttr(
        tuple(
            (role, AccessPattern(affine(p.partition), p.partitions, affine(p.offset), p.dims))
            for role, p in op.access.data
        )
    )
    fields = {name: affine(field) if isinstance(field, Affine) else field for name, field in op.fields.data}
    op.properties["fields"] = FieldsAttr(type(op).normal_fields(fields))
    op.set_operands(op.buffers, indices)


class _Change:
    """Puts (own variable, where it is kept) + `constant` in place of variable `position`; others are renumbered."""

    def __init__(self, position: int, constant: int, numbers: Mapping[int, int]):
        self.position, self.constant, self.numbers = position, constant, numbers

    def affine(self, expression: Affine) -> Affine:
        """The changed expression."""
        kept = [(self.numbers[v], c) for v, c in expression.terms if v in self.numbers]
        return Affine.of(expression.constant + expression.coefficient(self.position) * self.constant, kept)

    def pattern(self, pattern: AccessPattern) -> AccessPattern:
        """The changed view."""
        return AccessPattern(
            self.affine(pattern.partition), pattern.partitions, self.affine(pattern.offset), pattern.dims
        )

    def field(self, value: Any) -> Any:
        """The changed immediate."""
        return self.affine(value) if isinstance(value, Affine) else value

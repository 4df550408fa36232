"""`tile-fuse-loops`: kernels that go over the same tiles in the same order become one loop.

Engines work in program order: where a product of all tiles of rows is followed by a normalisation of all of them, the
vector engine evicts the last row of the product before it normalises the first. In one loop it normalises a tile while
the tensor engine is at the next one. Given core functions of tile ops, leaves fewer, longer loops.

A loop moves up to an earlier one of as many trips when no iteration of it is needed by, or meets, a later iteration of
that one; what stands between the two, and is needed, moves up before both. Where the earlier one has one trip less, the
last iteration of the later one stays behind. Loops stay apart where one order of both
would make engines wait: where the later one loads from DRAM what the earlier one stores there, or multiplies what
other engines make of the earlier one's products. A loop that only turns that follows long products some
iterations behind (`later_turns.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, MemRefType, ModuleOp, i64
from xdsl.dialects.scf import ForOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.utils.hints import isa

from neuron_dialects.access import AccessPattern
from neuron_dialects.access_ops import dtype_name_of, space_of
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.loops import trip_count
from neuron_dialects.neuron import core_functions, target_of
from neuron_dialects.target import Target
from neuron_dialects.tile import AllocOp, TileOp
from passes.tile.block_order import BlockOrder
from passes.tile.footprint import Footprint, apart, stays_ahead
from passes.tile.later_turns import move_body, peel_last, turn_later

MEMORY_SHARE = 0.97
"""Part of SBUF that a fused loop may take, with what lives across it."""

LOOK_BACK = 24
"""Statements of the function that a loop moves over at most."""

LEAST_PRODUCT_NS = 4000.0
"""Products must keep the tensor engine so long between those that make a tile and its turn."""

MOST_BEHIND = 3
"""At most so many iterations lie between; as many products are written out before the loop."""

LEAST_TRIPS = 3
"""A loop that leaves an iteration behind has more than one to be fused."""

TENSOR_ENGINE = ("tile.matmul", "tile.transpose")


@dataclass(eq=False)
class _Statement:
    """A top-level op of the function with what it touches: buffer -> (writes, footprint) of every operand."""

    op: Operation
    trips: int
    touches: dict[SSAValue, list[tuple[bool, Footprint]]] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    own_bytes: int = 0
    own_banks: int = 0
    product_columns: int = 0
    """Moving columns of the products of one iteration."""

    def joined(self, other: _Statement) -> None:
        """Take in what another statement does, which becomes part of this one."""
        for buffer, touches in other.touches.items():
            self.touches.setdefault(buffer, []).extend(touches)
        self.kinds |= other.kinds
        self.own_bytes += other.own_bytes
        self.own_banks += other.own_banks
        self.product_columns += other.product_columns

    def shorter(self) -> _Statement:
        """What a loop does without its last iteration."""
        touches = {
            buffer: [(writes, replace(footprint, trips=self.trips - 1)) for writes, footprint in found]
            for buffer, found in self.touches.items()
        }
        return replace(self, trips=self.trips - 1, touches=touches)

    def writes(self, buffer: SSAValue) -> bool:
        """Whether it writes a buffer."""
        return any(write for write, _ in self.touches.get(buffer, ()))


@dataclass(frozen=True)
class TileFuseLoopsPass(ModulePass):
    """Fuse loops over the same tiles.

        scf.for %i = 0 to 8 { tile.matmul ... ; tile.activation dst %y[0:128][64*%i : 64] ... }
        scf.for %j = 0 to 8 { tile.bn_stats ... data %y[0:128][64*%j : 64] }

    becomes

        scf.for %i = 0 to 8 {
          tile.matmul ... ; tile.activation dst %y[0:128][64*%i : 64] ...
          tile.bn_stats ... data %y[0:128][64*%i : 64]
        }
    """

    name = "tile-fuse-loops"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Fuse in every core function of tile ops."""
        for function in core_functions(op):
            _Fuser(function.body.block, target_of(op)).run()


class _Fuser:
    """One pass over the top-level statements of a function, in program order."""

    def __init__(self, block: Block, target: Target):
        self.block, self.target = block, target
        self.capacity = int(int(target.sbuf_bytes_per_partition) * MEMORY_SHARE)
        self.done: list[_Statement] = []
        self.order = BlockOrder(block)
        self.touching = Counter[SSAValue]()
        """How many of the statements that are done touch a buffer."""
        self.coming = Counter[SSAValue]()
        """How many of those that are not done yet do."""
        self.alive: set[SSAValue] = set()
        """Buffers that statements of both kinds touch."""

    def run(self) -> None:
        """Fuse each loop into an earlier one where that can and should be."""
        statements = [_statement(op) for op in self.block.ops if isinstance(op, TileOp | ForOp)]
        self.coming = Counter(buffer for statement in statements for buffer in statement.touches)
        for statement in statements:
            op = statement.op
            self._meet(statement)
            index = self._partner(statement) if isinstance(op, ForOp) else None
            if index is not None:
                self._fuse(index, statement)
            elif not self._fuse_but_last(statement):
                self.done.append(statement)

    def _fuse_but_last(self, statement: _Statement) -> bool:
        """Fuse all but the last iteration into an earlier loop, where one iteration of that stands behind it."""
        loop = statement.op
        if not isinstance(loop, ForOp) or statement.trips < LEAST_TRIPS:
            return False
        shorter = statement.shorter()
        index = self._partner(shorter)
        if index is None or not _gains(self.done[index], shorter):
            return False
        made = peel_last(loop)
        for op in made:
            self.order.added_before(op, loop)
        last = [_statement(op) for op in made if isinstance(op, TileOp | ForOp)]
        self.touching.update(buffer for part in last for buffer in part.touches)
        self._fuse(index, shorter)
        self.done.extend(last)
        return True

    def _meet(self, statement: _Statement) -> None:
        """Count a statement among those that are done, which it is about to be."""
        for buffer in statement.touches:
            self.touching[buffer] += 1
            self.coming[buffer] -= 1
            (self.alive.add if self.coming[buffer] else self.alive.discard)(buffer)

    def _partner(self, loop: _Statement) -> int | None:
        """The statement that `loop` can become a part of, the latest there is; None where there is none."""
        needed: list[_Statement] = []
        for index in range(len(self.done) - 1, max(-1, len(self.done) - 1 - LOOK_BACK), -1):
            earlier = self.done[index]
            if isinstance(earlier.op, ForOp) and earlier.trips == loop.trips:
                if any(_conflict(earlier, statement) for statement in needed):
                    return None
                gains = _gains(earlier, loop) or self._turns_later(earlier, loop)
                return index if gains and _ordered(earlier, loop) and self._fits(earlier, loop) else None
            depends = [statement for statement in (loop, *needed) if _conflict(earlier, statement)]
            if not depends:
                continue
            # It has to stay before the loop, and so must come before the partner.
            if isinstance(earlier.op, ForOp) and earlier.kinds - {"tile.load"}:
                return None
            needed.insert(0, earlier)
        return None

    def _turns_later(self, earlier: _Statement, loop: _Statement) -> bool:
        """Whether `loop` turns what products of `earlier` end in, and these are long enough to turn it beside them."""
        if not _feeds(earlier, loop) or loop.kinds & set(TENSOR_ENGINE) != {"tile.transpose"}:
            return False
        return 0 < self._behind(earlier) <= min(MOST_BEHIND, loop.trips - 2)

    def _behind(self, products: _Statement) -> int:
        """How many iterations of products it takes until what the other engines make of one is there."""
        product_ns = products.product_columns / self.target.clock_ghz("pe")
        return ceil(LEAST_PRODUCT_NS / product_ns) if product_ns else 0

    def _fits(self, earlier: _Statement, loop: _Statement) -> bool:
        """Whether both loops and what they share, or what lives across them, fit on chip."""
        if earlier.own_banks + loop.own_banks > int(self.target.psum_banks):
            return False
        window = self.done[self.done.index(earlier) :]
        shared: set[SSAValue] = {*earlier.touches, *loop.touches}
        here = Counter(buffer for statement in (*window, loop) for buffer in statement.touches)
        after = {buffer for statement in window[1:] for buffer in statement.touches} | self.alive
        shared |= {buffer for buffer in after if self.touching[buffer] > here[buffer]}
        live = sum(_row_bytes(buffer) for buffer in shared if space_of(buffer) == "sbuf")
        return live + earlier.own_bytes + loop.own_bytes <= self.capacity

    def _fuse(self, index: int, loop: _Statement) -> None:
        """Make `loop` the end of the body of statement `index`; what it needs from between moves up before both."""
        partner, between = self.done[index], self.done[index + 1 :]
        needed: list[_Statement] = []
        for statement in reversed(between):
            if any(_conflict(statement, other) for other in (loop, *needed)):
                needed.insert(0, statement)
        _hoist_definitions(self.order, partner.op, [loop.op, *(s.op for s in needed)])
        for statement in needed:
            self.order.move_before(statement.op, partner.op)
        stay = [statement for statement in between if statement not in needed]
        if not _gains(partner, loop):
            self._fuse_later(index, [*needed], loop, stay)
            return
        self.done[index:] = [*needed, partner, *stay]
        _merge(partner.op, loop.op)
        # Both are one statement from now on.
        self.touching.subtract(partner.touches.keys() & loop.touches.keys())
        partner.joined(loop)

    def _fuse_later(
        self, index: int, needed: Sequence[_Statement], loop: _Statement, stay: Sequence[_Statement]
    ) -> None:
        """Make `loop`, which turns tiles, a part of statement `index`, some iterations behind."""
        partner = self.done[index]
        assert isinstance(partner.op, ForOp)
        assert isinstance(loop.op, ForOp)
        if partner.own_banks + 2 * loop.own_banks <= int(self.target.psum_banks):
            # What brings a turned tile out of PSUM may stand behind what waits for the newest product.
            _double_banks(loop.op)
        ahead, behind = turn_later(partner.op, loop.op, self._behind(partner))
        for op in ahead:
            self.order.added_before(op, partner.op)
        for op in behind:
            self.order.added_before(op, loop.op)
        loop.op.detach()
        loop.op.erase()
        first, last = ([_statement(op) for op in ops if isinstance(op, TileOp | ForOp)] for ops in (ahead, behind))
        both = _statement(partner.op)
        self.touching.subtract(partner.touches.keys())
        self.touching.subtract(loop.touches.keys())
        self.touching.update(buffer for statement in (*first, both, *last) for buffer in statement.touches)
        self.done[index:] = [*needed, *first, both, *stay, *last]


def _merge(into: Operation, loop: Operation) -> None:
    """Append the body of one loop to the body of another."""
    assert isinstance(into, ForOp)
    assert isinstance(loop, ForOp)
    move_body(loop, into)
    loop.detach()
    loop.erase()


def _double_banks(loop: Operation) -> None:
    """Let the tiles of PSUM in a loop rotate over twice as many copies."""
    for op in loop.walk():
        if isinstance(op, AllocOp) and space_of(op.buffer) == "psum":
            op.copies = IntegerAttr(2 * op.copies.value.data, i64)


def _hoist_definitions(order: BlockOrder, before: Operation, ops: Sequence[Operation]) -> None:
    """Move allocations and constants of the function that `ops` use, and that stand behind `before`, up to it."""
    for op in ops:
        for inner in op.walk():
            for operand in inner.operands:
                owner = operand.owner
                if isinstance(owner, Operation) and order.is_before(before, owner):
                    order.move_before(owner, before)


def _row_bytes(buffer: SSAValue) -> int:
    """SBUF bytes per partition of one copy."""
    assert isa(buffer.type, MemRefType)
    elements = 1
    for size in buffer.type.get_shape()[1:]:
        elements *= size
    return elements * dtype_by_name(dtype_name_of(buffer)).size_bytes


def _statement(op: Operation) -> _Statement:
    """What a top-level op touches, seen from the function."""
    trips = trip_count(op) if isinstance(op, ForOp) else 1
    statement = _Statement(op, trips)
    own: set[SSAValue] = set()
    for inner in op.walk():
        if isinstance(inner, AllocOp):
            own.add(inner.buffer)
            size = _row_bytes(inner.buffer) * inner.copies.value.data
            if space_of(inner.buffer) == "sbuf":
                statement.own_bytes += size
            elif space_of(inner.buffer) == "psum":
                statement.own_banks += inner.copies.value.data
        elif isinstance(inner, TileOp):
            statement.kinds.add(inner.name)
            if inner.name == "tile.matmul":
                statement.product_columns += inner.views["moving"][1].free_elements * _trips_inside(inner, op)
            for buffer, writes, footprint in _operands(inner, op):
                if buffer not in own:
                    statement.touches.setdefault(buffer, []).append((writes, footprint))
    return statement


def _trips_inside(op: Operation, outer: Operation) -> int:
    """How often an op is executed in one iteration of `outer`."""
    trips, loop = 1, op.parent_op()
    while op is not outer and isinstance(loop, ForOp) and loop is not outer:
        trips, loop = trips * trip_count(loop), loop.parent_op()
    return trips


def _operands(op: TileOp, outer: Operation) -> Iterator[tuple[SSAValue, bool, Footprint]]:
    """(buffer, written, footprint over the loops inside of `outer`) of every operand; `outer` itself is the step."""
    trips: list[tuple[int, bool]] = []
    for index in op.indices:
        owner = index.owner
        assert isinstance(owner, Block)
        loop = owner.parent_op()
        assert isinstance(loop, ForOp)
        trips.append((trip_count(loop), loop is outer))
    roles = {role.name: role for role in op.ROLES}
    for role, (buffer, pattern) in op.views.items():
        writes = roles[role].writes
        footprint = _footprint(pattern, trips)
        yield buffer, writes, replace(footprint, everything=True) if role == "table" else footprint


def _footprint(pattern: AccessPattern, trips: Sequence[tuple[int, bool]]) -> Footprint:
    step, count, strides = 0, 1, list(pattern.dims)
    for variable, coefficient in pattern.offset.terms:
        times, is_outer = trips[variable]
        if is_outer:
            step = coefficient
        else:
            strides.append((coefficient, times))
    count = next((times for times, is_outer in trips if is_outer), 1)
    first, last = pattern.partition.bounds({v: times for v, (times, _) in enumerate(trips)})
    partitions = last + pattern.partitions - first if pattern.partitions else 0
    kept = tuple((stride, size) for stride, size in strides if size > 1 and stride)
    return Footprint(first, partitions, pattern.offset.constant, kept, step, count)


def _conflict(a: _Statement, b: _Statement) -> bool:
    """Whether the two statements, over all of their iterations, may touch an element that one of them writes."""
    for buffer in a.touches.keys() & b.touches.keys():
        for writes, footprint in a.touches[buffer]:
            for other_writes, other in b.touches[buffer]:
                if (writes or other_writes) and not apart(footprint.over_loop, other.over_loop):
                    return True
    return False


def _ordered(earlier: _Statement, loop: _Statement) -> bool:
    """Whether iteration j of `loop` may follow iteration j of `earlier` at once."""
    for buffer in earlier.touches.keys() & loop.touches.keys():
        for writes, footprint in earlier.touches[buffer]:
            for other_writes, other in loop.touches[buffer]:
                same = replace(footprint, trips=earlier.trips), replace(other, trips=loop.trips)
                if (writes or other_writes) and not stays_ahead(*same):
                    return False
    return True


def _gains(earlier: _Statement, loop: _Statement) -> bool:
    """Whether one loop makes no engine wait for another that did not wait before; see the module's head."""
    if not _feeds(earlier, loop):
        return False
    # What follows turning at once waits for no more than the copy out of PSUM; the rest would wait for a whole tile.
    only_turns = earlier.kinds & set(TENSOR_ENGINE) == {"tile.transpose"}
    # A loop that fetches rows takes the DMA longer than any engine.
    return only_turns or "tile.gather" in earlier.kinds or not loop.kinds & set(TENSOR_ENGINE)


def _feeds(earlier: _Statement, loop: _Statement) -> bool:
    """Whether `loop` needs on chip, and only there, what `earlier` makes."""
    shared = earlier.touches.keys() & loop.touches.keys()
    spaces = {space_of(buffer) for buffer in shared if earlier.writes(buffer)}
    return "sbuf" in spaces and "dram" not in spaces

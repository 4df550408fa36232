"""`tile-fuse-loops`: kernels that go over the same tiles in the same order become one loop.

Engines work in program order: where a product of all tiles of rows is followed by a normalisation of all of them, the
vector engine evicts the last row of the product before it normalises the first. In one loop it normalises a tile while
the tensor engine is at the next one. Given core functions of tile ops, leaves fewer, longer loops.

A loop moves up to an earlier one of as many trips when no iteration of it is needed by, or meets, a later iteration of
that one; what stands between the two, and is needed, moves up before both. Where the earlier one has one trip less, the
last iteration of the later one stays behind; where it has some times as many short ones, these are taken in groups.
Loops stay apart where one order of both would make engines wait: where the later one loads from DRAM what the earlier
one stores there, or multiplies what other engines make of the earlier one's products. A loop that only turns that
follows long products some iterations behind (`later_turns.py`). So does one that multiplies what other engines sweep
over in the earlier one, as in a densely connected block: these sweeps, those of lanes that the earlier loop does not
make among them, run beside its products, and its last iterations stand behind the first one of the next layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.dialects.scf import ForOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.access_ops import space_of
from neuron_dialects.loops import trip_count
from neuron_dialects.neuron import core_functions, target_of
from neuron_dialects.target import Target
from neuron_dialects.tile import AllocOp, TileOp
from passes.tile.block_order import BlockOrder
from passes.tile.footprint import apart, stays_ahead
from passes.tile.later_turns import group_iterations, move_body, nested_loop, peel_last, swap_loops, turn_later
from passes.tile.statements import (
    TENSOR_ENGINE,
    Statement,
    conflict,
    hoist_definitions,
    is_sweep,
    row_bytes,
    statement_of,
    trips_inside,
)

MEMORY_SHARE = 0.97
"""Part of SBUF that a fused loop may take, with what lives across it."""

LOOK_BACK = 24
"""Statements of the function that a loop moves over at most."""

LEAST_PRODUCT_NS = 4000.0
"""Products must keep the tensor engine so long between those that make a tile and its turn."""

MOST_TOGETHER_NS = 2000.0
"""Products of several iterations that stand beside one iteration of a loop behind them take so long at most: what comes
after them waits for all."""

LEAST_SWEPT_NS = 2000.0
"""Products of an iteration must take so long that other engines can sweep over what is multiplied in the next one."""

BANKS = 2
"""Banks in which such products take turns."""

MOST_BEHIND = 3
"""At most so many iterations lie between; as many products are written out before the loop."""

LEAST_TRIPS = 3
"""A loop that leaves an iteration behind has more than one to be fused."""


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
        self.done: list[Statement] = []
        self.order = BlockOrder(block)
        self.touching = Counter[SSAValue]()
        """How many of the statements that are done touch a buffer."""
        self.coming = Counter[SSAValue]()
        """How many of those that are not done yet do."""
        self.behind: list[Statement] = []
        """The last iterations of the loop that became a part of an earlier one last, some iterations behind."""
        self.alive: set[SSAValue] = set()
        """Buffers that statements of both kinds touch."""

    def run(self) -> None:
        """Fuse each loop into an earlier one where that can and should be."""
        statements = [statement_of(op) for op in self.block.ops if isinstance(op, TileOp | ForOp)]
        self.coming = Counter(buffer for statement in statements for buffer in statement.touches)
        for statement in statements:
            op = statement.op
            self._meet(statement)
            index = self._partner(statement) if isinstance(op, ForOp) else None
            if index is not None:
                self._fuse(index, statement)
            elif not self._fuse_but_last(statement):
                self.done.append(statement)

    def _fuse_but_last(self, statement: Statement) -> bool:
        """Fuse all but the last iteration into an earlier loop, where one iteration of that stands behind it."""
        loop = statement.op
        if not isinstance(loop, ForOp) or statement.trips < LEAST_TRIPS:
            return False
        shorter = statement.shorter()
        index = self._partner(shorter)
        if index is None or not _gains(self.done[index], shorter):
            return False
        following = loop.next_op
        assert following is not None
        bound, made = peel_last(loop)
        self.order.added_before(bound, loop)
        for op in made:
            self.order.added_before(op, following)
        last = [statement_of(op) for op in made if isinstance(op, TileOp | ForOp)]
        self.touching.update(buffer for part in last for buffer in part.touches)
        self._fuse(index, shorter)
        self.done.extend(last)
        return True

    def _meet(self, statement: Statement) -> None:
        """Count a statement among those that are done, which it is about to be."""
        for buffer in statement.touches:
            self.touching[buffer] += 1
            self.coming[buffer] -= 1
            (self.alive.add if self.coming[buffer] else self.alive.discard)(buffer)

    def _partner(self, loop: Statement) -> int | None:
        """The statement that `loop` can become a part of, the latest there is; None where there is none."""
        needed: list[Statement] = []
        for index in range(len(self.done) - 1, max(-1, len(self.done) - 1 - LOOK_BACK), -1):
            earlier = self.done[index]
            if self._takes_groups(earlier, loop):
                grouped = earlier.in_groups(earlier.trips // loop.trips)
                meets = any(conflict(earlier, statement) for statement in needed)
                if not meets and _ordered(grouped, loop) and self._fits(index, grouped, loop):
                    return index
            if self._multiplies_sweeps(earlier, loop):
                grouped = loop.in_groups(loop.trips // earlier.trips)
                meets = any(conflict(earlier, statement) for statement in needed)
                if not meets and _ordered(earlier, grouped) and self._fits(index, earlier, grouped):
                    return index
            if isinstance(earlier.op, ForOp) and earlier.trips == loop.trips:
                if any(conflict(earlier, statement) for statement in needed):
                    return None
                if _gains(earlier, loop) or self._turns_later(earlier, loop):
                    return index if _ordered(earlier, loop) and self._fits(index, earlier, loop) else None
                if not _passes(loop, earlier):
                    return None
                continue
            depends = [statement for statement in (loop, *needed) if conflict(earlier, statement)]
            if not depends:
                continue
            # It has to stay before the loop, and so must come before the partner.
            if isinstance(earlier.op, ForOp) and earlier.kinds - {"tile.load"}:
                return None
            needed.insert(0, earlier)
        return None

    def _takes_groups(self, earlier: Statement, loop: Statement) -> bool:
        """Whether several short products of `earlier` may stand beside an iteration of `loop`, which sweeps over it."""
        if not isinstance(earlier.op, ForOp) or earlier.trips <= loop.trips or earlier.trips % loop.trips:
            return False
        columns = earlier.product_columns * (earlier.trips // loop.trips)
        short = 0 < columns / self.target.clock_ghz("pe") <= MOST_TOGETHER_NS
        return short and not loop.kinds & set(TENSOR_ENGINE) and _gains(earlier, loop)

    def _multiplies_sweeps(self, earlier: Statement, loop: Statement) -> bool:
        """Whether products of `loop` read what `earlier` sweeps over, whose own products are long enough to hide it."""
        if not isinstance(earlier.op, ForOp) or earlier.trips < LEAST_TRIPS or loop.trips % earlier.trips:
            return False
        if _gains(earlier, loop):
            return False
        if loop.kinds & set(TENSOR_ENGINE) != {"tile.matmul"} or not earlier.swept & loop.multiplied:
            return False
        long = earlier.product_columns / self.target.clock_ghz("pe") >= LEAST_SWEPT_NS
        return long and _feeds(earlier, loop)

    def _turns_later(self, earlier: Statement, loop: Statement) -> bool:
        """Whether `loop` turns what products of `earlier` end in, and these are long enough to turn it beside them."""
        if not _feeds(earlier, loop) or loop.kinds & set(TENSOR_ENGINE) != {"tile.transpose"}:
            return False
        return 0 < self._behind(earlier) <= min(MOST_BEHIND, loop.trips - 2)

    def _behind(self, products: Statement) -> int:
        """How many iterations of products it takes until what the other engines make of one is there."""
        product_ns = products.product_columns / self.target.clock_ghz("pe")
        return ceil(LEAST_PRODUCT_NS / product_ns) if product_ns else 0

    def _fits(self, index: int, earlier: Statement, loop: Statement) -> bool:
        """Whether both loops, statement `index` first, and what they share, or lives across them, fit on chip."""
        if earlier.own_banks + loop.own_banks > int(self.target.psum_banks):
            return False
        window = self.done[index:]
        shared: set[SSAValue] = {*earlier.touches, *loop.touches}
        here = Counter(buffer for statement in (*window, loop) for buffer in statement.touches)
        after = {buffer for statement in window[1:] for buffer in statement.touches} | self.alive
        shared |= {buffer for buffer in after if self.touching[buffer] > here[buffer]}
        live = sum(row_bytes(buffer) for buffer in shared if space_of(buffer) == "sbuf")
        return live + earlier.own_bytes + loop.own_bytes <= self.capacity

    def _fuse(self, index: int, loop: Statement) -> None:
        """Make `loop` the end of the body of statement `index`; what it needs from between moves up before both."""
        partner, between = self.done[index], self.done[index + 1 :]
        sweeps = self._multiplies_sweeps(partner, loop)
        if sweeps and partner.trips != loop.trips:
            assert isinstance(loop.op, ForOp)
            for op in group_iterations(loop.op, loop.trips // partner.trips):
                self.order.added_before(op, loop.op)
            loop = statement_of(loop.op)
        elif partner.trips != loop.trips:
            assert isinstance(partner.op, ForOp)
            for op in group_iterations(partner.op, partner.trips // loop.trips):
                self.order.added_before(op, partner.op)
            self.done[index] = partner = statement_of(partner.op)
        needed: list[Statement] = []
        for statement in reversed(between):
            if any(conflict(statement, other) for other in (loop, *needed)):
                needed.insert(0, statement)
        hoist_definitions(self.order, partner.op, [loop.op, *(s.op for s in needed)])
        for statement in needed:
            self.order.move_before(statement.op, partner.op)
        stay = [statement for statement in between if statement not in needed]
        if sweeps:
            self._share_banks(partner, loop)
            earlier = self.behind
            self._fuse_later(index, needed, loop, stay, 1)
            self._put_off(index, earlier, partner.op)
            return
        if not _gains(partner, loop):
            if partner.own_banks + 2 * loop.own_banks <= int(self.target.psum_banks):
                # What brings a turned tile out of PSUM may stand behind what waits for the newest product.
                _double_banks(loop.op)
            self._fuse_later(index, needed, loop, stay, self._behind(partner))
            return
        if self._multiplies_at_once(partner, loop):
            self._fuse_later(index, needed, loop, stay, 1)
            return
        self.done[index:] = [*needed, partner, *stay]
        _merge(partner.op, loop.op)
        # Both are one statement from now on.
        self.touching.subtract(partner.touches.keys() & loop.touches.keys())
        partner.joined(loop)
        if is_sweep(loop) and partner.product_columns:
            self._take_sweeps(index + len(needed), loop)

    def _take_sweeps(self, index: int, swept: Statement) -> None:
        """Let statement `index`, which has just taken `swept`, do the sweeps of other lanes of the same buffer as well.

        Products of the loop keep the tensor engine busy meanwhile; elsewhere those that read the buffer wait for them.
        """
        partner, start = self.done[index], max(0, index - LOOK_BACK)
        for statement in self.done[start:]:
            if is_sweep(statement) and statement.swept == swept.swept:
                self._take_sweep(start, partner, statement)

    def _take_sweep(self, start: int, partner: Statement, sweep: Statement) -> None:
        """Put the iterations of a sweep in front of those of a loop, where it has as many and nothing is in its way.

        Of a sweep in two loops, these are the ones of the inner loop. Both are among the statements from number `start`
        on.
        """
        window = self.done[start:]
        place, index = window.index(sweep), window.index(partner)
        between = window[min(place, index) : max(place, index) + 1]
        between.remove(sweep)
        # What a sweep behind the loop needs moves up before the loop.
        needed: list[Statement] = []
        for other in reversed(between if place > index else ()):
            if other is not partner and any(conflict(other, one) for one in (sweep, *needed)):
                needed.insert(0, other)
        stay = [other for other in between if other not in needed]
        if any(conflict(other, one) for other in stay for one in (sweep, *needed)):
            return
        if not isinstance(sweep.op, ForOp):
            return
        nested = nested_loop(sweep.op)
        if trip_count(nested or sweep.op) != partner.trips or (nested is not None and not _swaps(nested)):
            return
        hoist_definitions(self.order, partner.op, [sweep.op, *(one.op for one in needed)])
        for one in needed:
            self.order.move_before(one.op, partner.op)
        window = [one for one in window if one is not sweep and one not in needed]
        window[window.index(partner) : window.index(partner)] = needed
        self.done[start:] = window
        assert isinstance(partner.op, ForOp)
        if nested is not None:
            swap_loops(sweep.op, nested)
        moved = statement_of(sweep.op)
        move_body(sweep.op, partner.op, first=True)
        sweep.op.detach()
        sweep.op.erase()
        self.touching.subtract(partner.touches.keys() & moved.touches.keys())
        partner.joined(moved)

    def _multiplies_at_once(self, turns: Statement, loop: Statement) -> bool:
        """Whether short products of `loop` would wait for the tile that `turns` has just turned, not for one before."""
        fetches = "tile.gather" in turns.kinds  # and every engine waits for its rows
        if fetches or turns.kinds & set(TENSOR_ENGINE) != {"tile.transpose"} or turns.trips < LEAST_TRIPS:
            return False
        return 0 < loop.product_columns / self.target.clock_ghz("pe") <= MOST_TOGETHER_NS

    def _fuse_later(
        self, index: int, needed: Sequence[Statement], loop: Statement, stay: Sequence[Statement], behind_by: int
    ) -> None:
        """Make `loop` a part of statement `index`, some iterations behind."""
        partner = self.done[index]
        assert isinstance(partner.op, ForOp)
        assert isinstance(loop.op, ForOp)
        ahead, behind = turn_later(partner.op, loop.op, behind_by)
        for op in ahead:
            self.order.added_before(op, partner.op)
        for op in behind:
            self.order.added_before(op, loop.op)
        loop.op.detach()
        loop.op.erase()
        first, last = ([statement_of(op) for op in ops if isinstance(op, TileOp | ForOp)] for ops in (ahead, behind))
        both = statement_of(partner.op)
        self.touching.subtract(partner.touches.keys())
        self.touching.subtract(loop.touches.keys())
        self.touching.update(buffer for statement in (*first, both, *last) for buffer in statement.touches)
        self.done[index:] = [*needed, *first, both, *stay, *last]
        self.behind = last

    def _put_off(self, index: int, last: Sequence[Statement], loop: Operation) -> None:
        """Move the last iterations of an earlier loop behind the first one of `loop`, which needs nothing of them.

        What they multiply is being swept over until then. What stands between is near statement `index`.
        """
        start = max(0, index - LOOK_BACK)
        window = self.done[start:]
        end = next(i for i, statement in enumerate(window) if statement.op is loop)
        begin = next((i for i, statement in enumerate(window[:end]) if statement in last), end)
        moved = [statement for statement in window[begin:end] if statement in last]
        others = [statement for statement in window[begin:end] if statement not in last]
        live = {buffer for statement in window[begin:end] for buffer in statement.touches} | self.alive
        size_bytes = sum(row_bytes(buffer) for buffer in live if space_of(buffer) == "sbuf")
        if size_bytes > self.capacity or any(conflict(one, other) for one in moved for other in others):
            return
        for statement in moved:
            self.order.move_before(statement.op, loop)
        self.done[start + begin : start + end] = [*others, *moved]

    def _share_banks(self, products: Statement, loop: Statement) -> None:
        """Leave long products in a loop a bank to fill while another is emptied, and those of `loop` behind them, which
        are short and come all at once, the others.
        """
        long, short = _psum_tiles(products.op), _psum_tiles(loop.op)
        for tile in long:
            tile.copies = IntegerAttr(min(BANKS, tile.copies.value.data), i64)
        if len(short) == 1:
            left = int(self.target.psum_banks) - sum(tile.copies.value.data for tile in long)
            copies = min(left, trips_inside(short[0], loop.op))
            short[0].copies = IntegerAttr(max(short[0].copies.value.data, copies), i64)


def _merge(into: Operation, loop: Operation) -> None:
    """Append the body of one loop to the body of another."""
    assert isinstance(into, ForOp)
    assert isinstance(loop, ForOp)
    move_body(loop, into)
    loop.detach()
    loop.erase()


def _double_banks(loop: Operation) -> None:
    """Let the tiles of PSUM in a loop rotate over twice as many copies."""
    for tile in _psum_tiles(loop):
        tile.copies = IntegerAttr(2 * tile.copies.value.data, i64)


def _passes(loop: Statement, earlier: Statement) -> bool:
    """Whether a loop without products may become a part of what stands before `earlier`, a loop of as many iterations
    with which it has nothing in common: products, or another sweep. Other engines would be busy with both at once.
    """
    if conflict(earlier, loop) or loop.kinds & set(TENSOR_ENGINE):
        return False
    return bool(earlier.kinds & set(TENSOR_ENGINE)) or (is_sweep(earlier) and is_sweep(loop))


def _psum_tiles(loop: Operation) -> list[AllocOp]:
    """The tiles of PSUM in a loop."""
    return [op for op in loop.walk() if isinstance(op, AllocOp) and space_of(op.buffer) == "psum"]


def _ordered(earlier: Statement, loop: Statement) -> bool:
    """Whether iteration j of `loop` may follow iteration j of `earlier` at once."""
    for buffer in earlier.touches.keys() & loop.touches.keys():
        for writes, footprint in earlier.touches[buffer]:
            for other_writes, other in loop.touches[buffer]:
                same = replace(footprint, trips=earlier.trips), replace(other, trips=loop.trips)
                if (writes or other_writes) and not stays_ahead(*same):
                    return False
    return True


def _swaps(inner: ForOp) -> bool:
    """Whether an inner loop may become the outer one: no iteration of it meets another, whatever that one goes over."""
    alone = statement_of(inner)
    return _ordered(alone, alone)


def _gains(earlier: Statement, loop: Statement) -> bool:
    """Whether one loop makes no engine wait for another that did not wait before; see the module's head."""
    # What fetches rows waits for no engine, and would.
    if not _feeds(earlier, loop) or "tile.gather" in loop.kinds:
        return False
    # What follows turning at once waits for no more than the copy out of PSUM; the rest would wait for a whole tile.
    only_turns = earlier.kinds & set(TENSOR_ENGINE) == {"tile.transpose"}
    # A loop that fetches rows takes the DMA longer than any engine.
    return only_turns or "tile.gather" in earlier.kinds or not loop.kinds & set(TENSOR_ENGINE)


def _feeds(earlier: Statement, loop: Statement) -> bool:
    """Whether `loop` needs on chip, and only there, what `earlier` makes."""
    spaces = {
        space_of(buffer)
        for buffer in earlier.touches.keys() & loop.touches.keys()
        for writes, footprint in earlier.touches[buffer]
        for _, other in loop.touches[buffer]
        if writes and not apart(footprint.over_loop, other.over_loop)
    }
    return "sbuf" in spaces and "dram" not in spaces

"""`tile-advance-sweeps`: activations of tensors in SBUF run beside products that they have nothing to do with.

Engines work in program order. In a densely connected block each layer normalises all channels before it; where that
stands behind the products of the layer before, the scalar engine waits for the last of these although all but a few
channels were there all the time, and the tensor engine waits for the scalar engine then. Given core functions of tile
ops, a sweep of activations moves up before the products in front of it that it does not depend on, with the loads of
its columns, as long as no other sweep of activations stands in its way, and the memory of its result has room for
longer. Leaves the same statements in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.scf import ForOp
from xdsl.ir import Block, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.access_ops import space_of
from neuron_dialects.neuron import core_functions, target_of
from neuron_dialects.tile import TileOp
from passes.tile.block_order import BlockOrder
from passes.tile.statements import Statement, conflict, hoist_definitions, is_sweep, row_bytes, statement_of

MEMORY_SHARE = 0.9
"""Part of SBUF that may be in use where a result lives for longer."""

LOOK_BACK = 24
"""Statements of the function that a sweep moves over at most."""

PRODUCTS = "tile.matmul"


@dataclass(frozen=True)
class TileAdvanceSweepsPass(ModulePass):
    """Move sweeps of activations up.

        scf.for %i = 0 to 8 { tile.matmul ... ; tile.copy dst %x[0:32][6272 + 64*%i : 64] ... }
        scf.for %j = 0 to 4 { tile.activation dst %y[0:128][64*%j : 64] data %x[0:128][64*%j : 64] ... }

    becomes

        scf.for %j = 0 to 4 { tile.activation dst %y[0:128][64*%j : 64] data %x[0:128][64*%j : 64] ... }
        scf.for %i = 0 to 8 { tile.matmul ... ; tile.copy dst %x[0:32][6272 + 64*%i : 64] ... }
    """

    name = "tile-advance-sweeps"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Move sweeps in every core function of tile ops."""
        capacity = int(int(target_of(op).sbuf_bytes_per_partition) * MEMORY_SHARE)
        for function in core_functions(op):
            advance_sweeps(function.body.block, capacity)


def advance_sweeps(block: Block, capacity_bytes: int) -> None:
    """Move the sweeps of one block, whose buffers may take so many bytes of each partition."""
    statements = [statement_of(op) for op in block.ops if isinstance(op, TileOp | ForOp)]
    order, memory = BlockOrder(block), _Memory(statements, capacity_bytes)
    done: list[tuple[int, Statement]] = []
    for number, statement in enumerate(statements):
        place, needed = _place(done, statement) if is_sweep(statement) else (len(done), [])
        first = done[place][0] if place < len(done) else number
        moved = [*(load for _, load in needed), statement]
        if first < number and memory.extends(moved, first, number):
            before = done[place][1].op
            hoist_definitions(order, before, [each.op for each in moved])
            for each in moved:
                order.move_before(each.op, before)
            rest = [entry for entry in done[place:] if entry not in needed]
            done[place:] = [*((first, each) for each in moved), *rest]
        else:
            done.append((number, statement))


def _place(done: Sequence[tuple[int, Statement]], sweep: Statement) -> tuple[int, list[tuple[int, Statement]]]:
    """Where among the statements before it a sweep can stand, and the loads that it needs there; the end if nowhere."""
    place, needed = len(done), list[tuple[int, Statement]]()
    at_place = needed
    for index in range(len(done) - 1, max(-1, len(done) - 1 - LOOK_BACK), -1):
        _, earlier = done[index]
        if is_sweep(earlier):
            break
        if any(conflict(earlier, statement) for statement in (sweep, *(load for _, load in needed))):
            if earlier.kinds != {"tile.load"}:
                break
            needed = [done[index], *needed]
        elif PRODUCTS in earlier.kinds:
            place, at_place = index, needed
    return place, at_place


class _Memory:
    """Bytes of a partition that buffers take while each statement runs, in the order that statements had."""

    def __init__(self, statements: Sequence[Statement], capacity_bytes: int):
        self.capacity = capacity_bytes
        self.first: dict[SSAValue, int] = {}
        last: dict[SSAValue, int] = {}
        for number, statement in enumerate(statements):
            for buffer in statement.touches:
                if space_of(buffer) == "sbuf":
                    self.first.setdefault(buffer, number)
                    last[buffer] = number
        own = [statement.own_bytes for statement in statements]
        changes = [0] * (len(statements) + 1)
        for buffer, start in self.first.items():
            changes[start] += row_bytes(buffer)
            changes[last[buffer] + 1] -= row_bytes(buffer)
        self.used = [alone + shared for alone, shared in zip(own, accumulate(changes[:-1]), strict=True)]

    def extends(self, moved: Sequence[Statement], start: int, number: int) -> bool:
        """Whether what `moved`, the last of them statement `number`, touch first has room from statement `start` on.

        Reserves it.
        """
        touched = dict.fromkeys(buffer for statement in moved for buffer in statement.touches)
        new = [buffer for buffer in touched if start < self.first.get(buffer, -1) <= number]
        more = [sum(row_bytes(b) for b in new if i < self.first[b]) for i in range(start, number)]
        if any(used + size > self.capacity for used, size in zip(self.used[start:number], more, strict=True)):
            return False
        self.used[start:number] = [used + size for used, size in zip(self.used[start:number], more, strict=True)]
        self.first.update(dict.fromkeys(new, start))
        return True

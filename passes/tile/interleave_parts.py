"""`tile-interleave-parts`: what follows a loop that fetches rows is done part by part, between parts of that loop.

A loop that gathers rows keeps the DMA busy, and the tensor engine hardly; the layers behind it keep the tensor engine
busy, and the DMA not at all. Engines work in program order, so these layers begin when the last row is there. Given
core functions of tile ops after `tile-fuse-loops`, the loop is cut into parts, and so are the loops behind it as far as
each of their parts needs no later part of an earlier loop. A part of them stands one iteration behind what it needs:
the queue that asks for rows would wait for what it loads, and has rows of one more iteration to ask for until then.

What the loop needs of the function's inputs alone, indices above all, moves to the front, before layers that compute
something else that it reads; what the loops behind it load comes after the first part of the loop, so that rows are
asked for at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from xdsl.context import Context
from xdsl.dialects.builtin import MemRefType, ModuleOp
from xdsl.dialects.scf import ForOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.utils.hints import isa

from neuron_dialects.access_ops import space_of
from neuron_dialects.neuron import core_functions, target_of
from neuron_dialects.target import Target
from neuron_dialects.tile import AllocOp, TileOp
from passes.tile.block_order import BlockOrder
from passes.tile.fuse_loops import MEMORY_SHARE
from passes.tile.later_turns import iterations
from passes.tile.part_buffers import Window, use_window, window_of
from passes.tile.statements import (
    TENSOR_ENGINE,
    Statement,
    StatementSet,
    conflict,
    hoist_definitions,
    row_bytes,
    statement_of,
)

PARTS = 4
"""Parts of a loop. More would be finished earlier, and give the tensor engine fewer columns at a time."""

WORK = ("tile.gather", "tile.local_gather", "tile.scatter", "tile.store", *TENSOR_ENGINE)
"""What a statement that prepares something does not do."""


@dataclass(frozen=True)
class TileInterleavePartsPass(ModulePass):
    """Put parts of loops between parts of a loop that gathers.

        scf.for %i = 0 to 8 { tile.gather dst %x[0:128][64*%i : 64] ... }
        tile.load dst %w ...
        scf.for %j = 0 to 4 { tile.matmul ... moving %x[0:128][128*%j : 128] ... }

    becomes

        scf.for %i = 0 to 3 { tile.gather dst %x[0:128][64*%i : 64] ... }
        tile.load dst %w ...
        tile.matmul ... moving %x[0:128][0 : 128] ...
        scf.for %i = 0 to 2 { tile.gather dst %x[0:128][64*%i + 192 : 64] ... }
        tile.matmul ... moving %x[0:128][128 : 128] ...
        ...
    """

    name = "tile-interleave-parts"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Interleave in every core function of tile ops."""
        for function in core_functions(op):
            interleave(function.body.block, target_of(op))


def interleave(block: Block, target: Target) -> None:
    """Interleave what follows the first loop of a block that gathers."""
    statements = [statement_of(op) for op in block.ops if isinstance(op, TileOp | ForOp)]
    number = next((i for i, s in enumerate(statements) if _is_fetching(s)), None)
    if number is None:
        return
    chain, others = _chain(statements, number)
    ranges = [_ranges(loop, first=loop is chain[0]) for loop in chain]
    windows = _windows(statements, chain)
    if len(chain) < 2 or not _fits([*chain, *others], windows, target) or not _independent(chain, ranges):
        return
    order = BlockOrder(block)
    early, place = _early(statements[:number], chain[0])
    last = chain[-1].op
    hoist_definitions(order, place.op, [statement.op for statement in early])
    for statement in early:
        order.move_before(statement.op, place.op)
    hoist_definitions(order, chain[0].op, [loop.op for loop in chain])
    small = _small_buffers(windows, chain[0].op)
    for part in range(PARTS):
        for loop, of_loop in zip(chain, ranges, strict=True):
            assert isinstance(loop.op, ForOp)
            made = iterations(loop.op, *of_loop[part], InsertPoint.before(last))
            for buffer in loop.touches.keys() & windows.keys():
                use_window(made, buffer, windows[buffer], part * windows[buffer].rows, small[buffer])
            if part == 0 and loop is chain[0]:
                for statement in others:
                    order.move_before(statement.op, last)
    for op in [*(loop.op for loop in chain), *(buffer.owner for buffer in windows)]:
        assert isinstance(op, Operation)
        op.detach()
        op.erase()


def _small_buffers(windows: Mapping[SSAValue, Window], place: Operation) -> dict[SSAValue, SSAValue]:
    """Buffers of one window, made before `place`, by the ones that they are used instead of."""
    small: dict[SSAValue, SSAValue] = {}
    for buffer, window in windows.items():
        assert isa(buffer.type, MemRefType)
        lanes, *rest = buffer.type.get_shape()
        shape = (lanes, prod(rest) // window.whole, window.rows)
        alloc = AllocOp(MemRefType(buffer.type.element_type, shape, memory_space=buffer.type.memory_space))
        assert isinstance(buffer.owner, Operation)
        alloc.location, alloc.buffer.name_hint = buffer.owner.location, buffer.name_hint
        Rewriter.insert_op(alloc, InsertPoint.before(place))
        small[buffer] = alloc.buffer
    return small


def _windows(statements: Sequence[Statement], chain: Sequence[Statement]) -> dict[SSAValue, Window]:
    """Buffers that only loops behind the first one touch, part by part."""
    behind = set(chain[1:])
    shared = {buffer for statement in statements if statement not in behind for buffer in statement.touches}
    loops: dict[SSAValue, list[ForOp]] = {}
    for loop in chain[1:]:
        assert isinstance(loop.op, ForOp)
        for buffer in loop.touches:
            if buffer not in shared:
                loops.setdefault(buffer, []).append(loop.op)
    windows = {buffer: window_of(buffer, users, PARTS) for buffer, users in loops.items()}
    return {buffer: window for buffer, window in windows.items() if window is not None}


def _is_fetching(statement: Statement) -> bool:
    """Whether a statement is a loop over rows to fetch with iterations for all parts."""
    return "tile.gather" in statement.kinds and statement.trips % PARTS == 0 and statement.trips >= 2 * PARTS


def _chain(statements: Sequence[Statement], number: int) -> tuple[list[Statement], list[Statement]]:
    """Loop `number` and the loops that work on what it leaves, and what stands between them and has nothing to do with
    any of them: up to the first statement that is neither.
    """
    chain, others = StatementSet([statements[number]]), list[Statement]()
    between: list[Statement] = []
    for statement in statements[number + 1 :]:
        if not chain.meets(statement):
            between.append(statement)
        elif isinstance(statement.op, ForOp) and statement.trips % PARTS == 0:
            chain.add(statement)
            others.extend(between)
            between.clear()
        else:
            break
    return list(chain), others


def _ranges(loop: Statement, *, first: bool) -> list[tuple[int, int]]:
    """(first iteration, number) of each part; the `first` loop is an iteration ahead of the others."""
    each = loop.trips // PARTS
    ends = [each * part + int(first) for part in range(1, PARTS)]
    return [(start, end - start) for start, end in pairwise([0, *ends, loop.trips])]


def _independent(chain: Sequence[Statement], ranges: Sequence[Sequence[tuple[int, int]]]) -> bool:
    """Whether no part of a loop meets a later part of an earlier one."""
    parts = [[loop.part(*span) for span in spans] for loop, spans in zip(chain, ranges, strict=True)]
    return not any(
        conflict(earlier, part)
        for number, later in enumerate(parts)
        for place, part in enumerate(later)
        for before in parts[:number]
        for earlier in before[place + 1 :]
    )


def _early(before: Sequence[Statement], loop: Statement) -> tuple[list[Statement], Statement]:
    """Statements that prepare something for `loop` of what nothing else before them makes, in order, and the first of
    the others, or the loop: what they move up to. Those that stand in front of that already are not among them.
    """
    needed = StatementSet([loop])
    for statement in reversed(before):
        if not statement.kinds & set(WORK) and needed.meets(statement):
            needed.add(statement)
    stay, early = StatementSet(), list[Statement]()
    place = loop
    for statement in before:
        if statement not in needed or stay.meets(statement):
            place = place if stay else statement
            stay.add(statement)
        elif stay:
            early.append(statement)
    return early, place


def _fits(statements: Sequence[Statement], windows: Mapping[SSAValue, Window], target: Target) -> bool:
    """Whether all that the statements share fits on chip, beside what one of them needs for itself."""
    buffers = {buffer for statement in statements for buffer in statement.touches if space_of(buffer) == "sbuf"}
    live = sum(row_bytes(buffer) // (PARTS if buffer in windows else 1) for buffer in buffers) + max(
        statement.own_bytes for statement in statements
    )
    return live <= int(int(target.sbuf_bytes_per_partition) * MEMORY_SHARE)

"""`tile-interleave-parts`: what follows a loop that fetches rows is done part by part, between pieces of that loop.

A loop that gathers rows keeps the DMA busy, and the tensor engine hardly; the layers behind it keep the tensor engine
busy, and the DMA not at all. Engines work in program order, so these layers begin when the last row is there. Given
core functions of tile ops after `tile-fuse-loops`, the loop is cut into parts, and so are the loops behind it as far as
each of their parts needs no later part of an earlier loop. A part of them goes with the next part of the loop, piece by
piece: the tensor engine would wait for what empties PSUM between the little products made of rows, and for rows.

What the loop needs of the function's inputs alone, indices above all, moves to the front, before layers that compute
something else that it reads; what the loops behind it load comes after the first part of the loop, so that rows are
asked for at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, MemRefType, ModuleOp, i64
from xdsl.dialects.scf import ForOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.utils.hints import isa

from neuron_dialects.access_ops import space_of
from neuron_dialects.loops import trip_count
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

PARTS = (16, 8, 4)
"""Parts of a loop, the best first: the last of many is finished early, and little that lies between loops is live."""

TURNS = 2
"""Windows of what the first loop makes: for the part that is made and the one that is read."""

LEAST_TRIPS = 2
"""Iterations of a part of the loop that fetches."""

MOST_TRIPS = 32
"""Iterations of that loop that are written out. The parts of longer ones are loops, and follow each other whole."""

WORK = ("tile.gather", "tile.local_gather", "tile.scatter", "tile.store", *TENSOR_ENGINE)
"""What a statement that prepares something does not do."""


@dataclass(frozen=True)
class TileInterleavePartsPass(ModulePass):
    """Put parts of loops between parts of a loop that gathers.

        scf.for %i = 0 to 8 { tile.gather dst %x[0:128][64*%i : 64] ... }
        tile.load dst %w ...
        scf.for %j = 0 to 4 { tile.matmul ... moving %x[0:128][128*%j : 128] ... }

    becomes

        tile.gather dst %x0[0:128][0 : 64] ...
        tile.gather dst %x0[0:128][64 : 64] ...
        tile.load dst %w ...
        tile.gather dst %x1[0:128][0 : 64] ...
        tile.matmul ... moving %x0[0:128][0 : 128] ...
        tile.gather dst %x1[0:128][64 : 64] ...
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
    plans = [_plan(statements, number, parts, target) for parts in PARTS]
    plan = max((plan for plan in plans if plan is not None), key=lambda plan: len(plan.chain), default=None)
    if plan is None:
        return
    order = BlockOrder(block)
    chain, windows = plan.chain, plan.windows
    early, place = _early(statements[:number], chain[0])
    last = chain[-1].op
    hoist_definitions(order, place.op, [statement.op for statement in early])
    for statement in early:
        order.move_before(statement.op, place.op)
    hoist_definitions(order, chain[0].op, [loop.op for loop in chain])
    small = {buffer: _small_buffers(buffer, parted, chain[0].op) for buffer, parted in windows.items()}

    def made(loop: Statement, part: int) -> list[Operation]:
        """A part of a loop, iteration by iteration where these are written out, in front of the last one."""
        assert isinstance(loop.op, ForOp)
        each, ops = loop.trips // plan.parts, list[Operation]()
        together = 1 if plan.is_written_out else each
        for number in range(part * each, (part + 1) * each, together):
            ops += iterations(loop.op, number, together, InsertPoint.before(last))
        for buffer in loop.touches.keys() & windows.keys():
            window, copies = windows[buffer].window, small[buffer]
            use_window(ops, buffer, window, part * window.rows, copies[part % len(copies)])
        return ops

    for part in range(plan.parts + 1):
        fetched = made(chain[0], part) if part < plan.parts else []
        if part == 0:
            for statement in plan.others:
                order.move_before(statement.op, last)
            continue
        behind = [op for loop in chain[1:] for op in made(loop, part - 1)]
        if plan.is_written_out:
            _weave(fetched, behind)
    for op in [*(loop.op for loop in chain), *(buffer.owner for buffer in windows)]:
        assert isinstance(op, Operation)
        op.detach()
        op.erase()


def _unrolled(ops: Sequence[Operation]) -> list[Operation]:
    """Operations with the iterations of those loops that multiply and do something else, one after the other."""
    made: list[Operation] = []
    for op in ops:
        if isinstance(op, ForOp) and statement_of(op).kinds - set(TENSOR_ENGINE) and _multiplies(op):
            place = InsertPoint.before(op)
            made += [copy for number in range(trip_count(op)) for copy in iterations(op, number, 1, place)]
            op.detach()
            op.erase()
        else:
            made.append(op)
    for op in made:
        if isinstance(op, AllocOp):
            op.copies = IntegerAttr(1, i64)
    return made


def _multiplies(op: Operation) -> bool:
    return isinstance(op, TileOp | ForOp) and bool(statement_of(op).kinds & set(TENSOR_ENGINE))


def _pieces(ops: Sequence[Operation]) -> list[list[Operation]]:
    """Operations in order, cut where the tensor engine works again after other engines did."""
    pieces: list[list[Operation]] = [[]]
    multiplied = emptied = False
    for op in _unrolled(ops):
        multiplies = _multiplies(op)
        if emptied and (multiplies or not isinstance(op, TileOp | ForOp)):
            pieces.append([])
            multiplied = emptied = False
        pieces[-1].append(op)
        multiplied = multiplied or multiplies
        emptied = emptied or (multiplied and isinstance(op, TileOp | ForOp) and not multiplies)
    return pieces


def _weave(fetched: Sequence[Operation], behind: Sequence[Operation]) -> None:
    """Put what `behind` does, piece by piece, between the pieces of `fetched`, which stands in front of it.

    The tensor engine turns, and multiplies little matrices, in less time than it takes to empty PSUM.
    """
    places, pieces = [piece[0] for piece in _pieces(fetched)[1:]], _pieces(behind)
    for number, piece in enumerate(pieces if places else ()):
        place = InsertPoint.before(places[number * len(places) // len(pieces)])
        for op in piece:
            op.detach()
            Rewriter.insert_op(op, place)


@dataclass(frozen=True)
class _Plan:
    """Loops in so many `parts` and the `others` between them; `windows` are buffers that become smaller."""

    parts: int
    chain: Sequence[Statement]
    others: Sequence[Statement]
    windows: Mapping[SSAValue, _Parted]

    @property
    def is_written_out(self) -> bool:
        """Whether iterations are written out, so that those of the first loop and of others can take turns."""
        return self.chain[0].trips <= MOST_TRIPS


def _plan(statements: Sequence[Statement], number: int, parts: int, target: Target) -> _Plan | None:
    """How loop `number` and those behind it go in so many parts; None where they cannot."""
    if statements[number].trips % parts or statements[number].trips < LEAST_TRIPS * parts:
        return None
    chain, others = _chain(statements, number, parts)
    plan = _Plan(parts, chain, others, _windows(statements, chain, parts))
    return plan if len(chain) > 1 and _fits(plan, target) and _independent(chain, parts) else None


@dataclass(frozen=True)
class _Parted:
    """A buffer of which each part of the loops touches one `window`; so many `copies` of that take turns."""

    window: Window
    copies: int


def _small_buffers(buffer: SSAValue, parted: _Parted, place: Operation) -> list[SSAValue]:
    """Buffers of one window, made before `place`, that are used instead of `buffer`."""
    assert isa(buffer.type, MemRefType)
    assert isinstance(buffer.owner, Operation)
    lanes, *rest = buffer.type.get_shape()
    shape = (lanes, prod(rest) // parted.window.whole, parted.window.rows)
    made: list[SSAValue] = []
    for _ in range(parted.copies):
        alloc = AllocOp(MemRefType(buffer.type.element_type, shape, memory_space=buffer.type.memory_space))
        alloc.location, alloc.buffer.name_hint = buffer.owner.location, buffer.name_hint
        Rewriter.insert_op(alloc, InsertPoint.before(place))
        made.append(alloc.buffer)
    return made


def _windows(statements: Sequence[Statement], chain: Sequence[Statement], parts: int) -> dict[SSAValue, _Parted]:
    """Buffers that the loops alone touch, part by part. What the first loop makes, which is a part ahead, goes into two
    windows in turn.
    """
    inside = set(chain)
    shared = {buffer for statement in statements if statement not in inside for buffer in statement.touches}
    loops: dict[SSAValue, list[ForOp]] = {}
    for loop in chain:
        assert isinstance(loop.op, ForOp)
        for buffer in loop.touches:
            if buffer not in shared:
                loops.setdefault(buffer, []).append(loop.op)
    found: dict[SSAValue, _Parted] = {}
    for buffer, users in loops.items():
        ahead = buffer in chain[0].touches
        if (window := window_of(buffer, users, parts)) is not None and not (ahead and len(users) == 1):
            found[buffer] = _Parted(window, TURNS if ahead else 1)
    return found


def _is_fetching(statement: Statement) -> bool:
    """Whether a statement is a loop over rows to fetch with iterations for some parts."""
    return "tile.gather" in statement.kinds and statement.trips >= LEAST_TRIPS * min(PARTS)


def _chain(statements: Sequence[Statement], number: int, parts: int) -> tuple[list[Statement], list[Statement]]:
    """Loop `number` and the loops, of so many `parts`, that work on what it leaves; and what stands between them and
    has nothing to do with any of them, up to the first statement that is neither.
    """
    chain, others = StatementSet([statements[number]]), list[Statement]()
    between: list[Statement] = []
    for statement in statements[number + 1 :]:
        if not chain.meets(statement):
            between.append(statement)
        elif isinstance(statement.op, ForOp) and statement.trips % parts == 0:
            chain.add(statement)
            others.extend(between)
            between.clear()
        else:
            break
    return list(chain), others


def _independent(chain: Sequence[Statement], number: int) -> bool:
    """Whether no part of a loop, of so many, meets a later part of an earlier one."""
    parts = [
        [loop.part(part * each, each) for part in range(number)] for loop in chain for each in [loop.trips // number]
    ]
    return not any(
        conflict(earlier, part)
        for position, later in enumerate(parts)
        for place, part in enumerate(later)
        for before in parts[:position]
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


def _fits(plan: _Plan, target: Target) -> bool:
    """Whether all that the statements share fits on chip, beside what one of them needs for itself."""
    statements, windows = [*plan.chain, *plan.others], plan.windows
    buffers = {buffer for statement in statements for buffer in statement.touches if space_of(buffer) == "sbuf"}
    live = sum(
        row_bytes(buffer) * windows[buffer].copies // plan.parts if buffer in windows else row_bytes(buffer)
        for buffer in buffers
    )
    live += max(statement.own_bytes for statement in statements)
    return live <= int(int(target.sbuf_bytes_per_partition) * MEMORY_SHARE)

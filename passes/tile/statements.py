"""Top-level ops of a function of tile ops, with what they touch: whether two may meet, and how they move.

What passes that reorder loops have in common. Operands are footprints (`footprint.py`), which err towards meeting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from xdsl.dialects.builtin import MemRefType
from xdsl.dialects.scf import ForOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.utils.hints import isa

from neuron_dialects.access import AccessPattern
from neuron_dialects.access_ops import dtype_name_of, space_of
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.loops import trip_count
from neuron_dialects.tile import AllocOp, TileOp
from passes.tile.block_order import BlockOrder
from passes.tile.footprint import Footprint, apart

TENSOR_ENGINE = ("tile.matmul", "tile.transpose")
"""What only the tensor engine does."""


SWEEP = "tile.activation"
"""What sweeps over a tensor in SBUF."""


@dataclass(eq=False)
class Statement:
    """A top-level op of the function with what it touches: buffer -> (writes, footprint) of every operand."""

    op: Operation
    trips: int
    touches: dict[SSAValue, list[tuple[bool, Footprint]]] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    own_bytes: int = 0
    own_banks: int = 0
    product_columns: int = 0
    """Moving columns of the products of one iteration."""
    swept: set[SSAValue] = field(default_factory=set[SSAValue])
    """Buffers in SBUF that activations of what lies there write."""
    multiplied: set[SSAValue] = field(default_factory=set[SSAValue])
    """Buffers that its products read."""

    def joined(self, other: Statement) -> None:
        """Take in what another statement does, which becomes part of this one."""
        for buffer, touches in other.touches.items():
            self.touches.setdefault(buffer, []).extend(touches)
        self.kinds |= other.kinds
        self.own_bytes += other.own_bytes
        self.own_banks += other.own_banks
        self.product_columns += other.product_columns
        self.swept |= other.swept
        self.multiplied |= other.multiplied

    def shorter(self) -> Statement:
        """What a loop does without its last iteration."""
        return self.part(0, self.trips - 1)

    def part(self, start: int, number: int) -> Statement:
        """What `number` iterations of a loop do, from iteration `start` on."""
        touches = {
            buffer: [
                (writes, replace(footprint, base=footprint.base + start * footprint.step, trips=number))
                for writes, footprint in found
            ]
            for buffer, found in self.touches.items()
        }
        return replace(self, trips=number, touches=touches)

    def in_groups(self, size: int) -> Statement:
        """A loop that does `size` iterations, a divisor of their number, in one."""
        touches = {
            buffer: [(writes, footprint.in_groups(size)) for writes, footprint in found]
            for buffer, found in self.touches.items()
        }
        return replace(self, trips=self.trips // size, touches=touches, product_columns=self.product_columns * size)

    def writes(self, buffer: SSAValue) -> bool:
        """Whether it writes a buffer."""
        return any(write for write, _ in self.touches.get(buffer, ()))


def is_sweep(statement: Statement) -> bool:
    """Whether a statement does nothing but activations of tensors in SBUF."""
    return statement.kinds == {SWEEP} and all(space_of(buffer) == "sbuf" for buffer in statement.touches)


def hoist_definitions(order: BlockOrder, before: Operation, ops: Sequence[Operation]) -> None:
    """Move allocations and constants of the function that `ops` use, and that stand behind `before`, up to it."""
    for op in ops:
        for inner in op.walk():
            for operand in inner.operands:
                owner = operand.owner
                if isinstance(owner, Operation) and order.is_before(before, owner):
                    order.move_before(owner, before)


def row_bytes(buffer: SSAValue) -> int:
    """SBUF bytes per partition of one copy."""
    assert isa(buffer.type, MemRefType)
    elements = 1
    for size in buffer.type.get_shape()[1:]:
        elements *= size
    return elements * dtype_by_name(dtype_name_of(buffer)).size_bytes


def statement_of(op: Operation) -> Statement:
    """What a top-level op touches, seen from the function."""
    trips = trip_count(op) if isinstance(op, ForOp) else 1
    statement = Statement(op, trips)
    own: set[SSAValue] = set()
    for inner in op.walk():
        if isinstance(inner, AllocOp):
            own.add(inner.buffer)
            size = row_bytes(inner.buffer) * inner.copies.value.data
            if space_of(inner.buffer) == "sbuf":
                statement.own_bytes += size
            elif space_of(inner.buffer) == "psum":
                statement.own_banks += inner.copies.value.data
        elif isinstance(inner, TileOp):
            statement.kinds.add(inner.name)
            if inner.name == "tile.matmul":
                statement.product_columns += inner.views["moving"][1].free_elements * trips_inside(inner, op)
                statement.multiplied |= {inner.views["moving"][0], inner.views["stationary"][0]} - own
            elif inner.name == SWEEP and all(space_of(buffer) == "sbuf" for buffer, _ in inner.views.values()):
                statement.swept |= {inner.views["dst"][0]} - own
            for buffer, writes, footprint in _operands(inner, op):
                if buffer not in own:
                    statement.touches.setdefault(buffer, []).append((writes, footprint))
    return statement


def trips_inside(op: Operation, outer: Operation) -> int:
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


def conflict(a: Statement, b: Statement) -> bool:
    """Whether the two statements, over all of their iterations, may touch an element that one of them writes."""
    for buffer in a.touches.keys() & b.touches.keys():
        for writes, footprint in a.touches[buffer]:
            for other_writes, other in b.touches[buffer]:
                if (writes or other_writes) and not apart(footprint.over_loop, other.over_loop):
                    return True
    return False


class StatementSet:
    """Statements, in the order in which they were added, and whether another one meets any of them.

    Only those that touch one of its buffers are looked at.
    """

    def __init__(self, statements: Iterable[Statement] = ()) -> None:
        self._members: dict[Statement, None] = {}
        self._by_buffer: dict[SSAValue, list[Statement]] = {}
        for statement in statements:
            self.add(statement)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Statement]:
        return iter(self._members)

    def __contains__(self, statement: Statement) -> bool:
        return statement in self._members

    def add(self, statement: Statement) -> None:
        """Add a statement."""
        self._members[statement] = None
        for buffer in statement.touches:
            self._by_buffer.setdefault(buffer, []).append(statement)

    def meets(self, statement: Statement) -> bool:
        """Whether a statement conflicts with any of them."""
        near = dict.fromkeys(each for buffer in statement.touches for each in self._by_buffer.get(buffer, ()))
        return any(conflict(each, statement) for each in near)

"""`nisa-pin-weights`: parameters that a run would load again and again are brought on chip once, when it is loaded.

Given functions in program order (nisa form 1), the loads of parameters move out of the program of a function that is
marked `neuron.pin_weights` into a `nisa.pinned`, and what reads them reads buffers that live for ever. Which buffers
can be pinned is decided by `pinned_fill`; those that save the most transfer time for the memory that they take are
pinned first, as long as the program's own buffers fit beside them. Functions on one core share its memory. Tables that
are gathered from stay in DRAM.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

from xdsl.context import Context
from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, MemRefType, ModuleOp, StringAttr, i64
from xdsl.dialects.func import FuncOp
from xdsl.dialects.scf import ForOp, YieldOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from neuron_dialects.access import AccessPattern
from neuron_dialects.access_ops import space_of
from neuron_dialects.cost import dma_cost
from neuron_dialects.errors import NeuronError, in_segment
from neuron_dialects.neuron import PIN_ATTRIBUTE, STAGE_ATTRIBUTE, core_groups, location_name, target_of
from neuron_dialects.nisa import NISA_OPS, AllocOp, NisaOp, ParamOp, PinnedOp
from neuron_dialects.target import Target
from passes.nisa.live_ranges import OnChipBuffer, on_chip_buffers, row_bytes_of, top_level_statements
from passes.nisa.memory_plan import LiveBuffer, plan_memory
from passes.nisa.pinned_fill import Fill, PinnedContents, expand
from passes.nisa.place_buffers import shift_views
from passes.nisa.program_tree import nisa_functions, trip_count

PINNED_BYTES_ATTRIBUTE = "neuron.pinned_bytes"
"""Function attribute: bytes of each partition that pinned buffers take."""

STREAMED_ATTRIBUTE = "neuron.streamed_weights"
"""Function attribute: loads of parameters that every run repeats, in words."""

PINNED_RING = "pinned"
ALIGNMENT_BYTES = 64
FEW_PARTITIONS = 8
"""A buffer of fewer partitions takes far more room on chip than its bytes are worth: it comes last."""


@dataclass(frozen=True)
class NisaPinWeightsPass(ModulePass):
    """Load parameters once, not in each run.

        %w = nisa.param "w" : memref<1024x512xbf16, #neuron.space<dram>>
        scf.for %i = %c0 to %c8 step %c1 {
          %t = nisa.alloc copies 2 : memref<128x512xbf16, #neuron.space<sbuf>>
          nisa.dma_copy on sp ring load0 dst %t[0:128][0 : 512] src %w[65536*%i : 128 step 512, 512]
          nisa.nc_matmul on pe dst ... stationary ... moving %t[0:128][0 : 512] {accumulate = %i}
        }

    becomes

        %t = nisa.alloc : memref<128x8x512xbf16, #neuron.space<sbuf>>
        nisa.pinned {
          nisa.dma_copy on sp ring pinned dst %t[0:128][0 : 512] src %w[0 : 128 step 512, 512]
          nisa.dma_copy on sp ring pinned dst %t[0:128][512 : 512] src %w[65536 : 128 step 512, 512]
          ...
        }
        scf.for %i = %c0 to %c8 step %c1 {
          nisa.nc_matmul on pe dst ... stationary ... moving %t[0:128][512*%i : 512] {accumulate = %i}
        }

    in functions marked `neuron.pin_weights` (in all of them with `all=true`). What stays is listed on the function
    (`neuron.streamed_weights`).
    """

    name = "nisa-pin-weights"

    all: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Pin the weights of each function that asks for it."""
        marked = [f for f in nisa_functions(op) if self.all or PIN_ATTRIBUTE in f.attributes]
        for functions in core_groups(marked):
            pin_weights(functions, target_of(op))


@dataclass(eq=False)
class _Candidate:
    """A buffer that could be pinned.

    `row_bytes`: of all places; `saved_ns`: DMA time that a run would save; `is_repeated`: it holds the same for each
    partition, or something for few, so that it takes far more room on chip than in DRAM.
    """

    function: FuncOp
    alloc: AllocOp
    contents: PinnedContents
    loads: list[NisaOp]
    variables: dict[int, SSAValue]
    row_bytes: int
    saved_ns: float
    is_repeated: bool

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for buffers of a function that hold the same."""
        return (self.function, self.alloc.buffer.type, self.contents.places, self.contents.transfers)


def pin_weights(functions: Sequence[FuncOp], target: Target, *, repeated: bool = True) -> None:
    """Pin what the functions of one core load again and again, as much of it as fits beside the buffers of each.

    What is the same for all partitions comes last, and not at all unless `repeated`. NX-PIPE-001 when something else of
    a pipeline stage does not fit.
    """
    candidates = [
        c for function in functions for alloc in _buffers(function) if (c := _candidate(function, alloc, target))
    ]
    groups: dict[tuple[object, ...], list[_Candidate]] = {}
    for candidate in candidates:
        if repeated or not candidate.is_repeated:
            groups.setdefault(candidate.key, []).append(candidate)
    order = sorted(groups.values(), key=_priority)
    chosen = {id(group) for group in order[: _most_that_fits(functions, order, target)]}
    for function in functions:
        own = [group for group in groups.values() if group[0].function is function]
        kept = [group for group in own if id(group) in chosen]
        left = [group for group in own if id(group) not in chosen]
        if STAGE_ATTRIBUTE in function.attributes:
            with in_segment(function.sym_name.data):
                _require([group for group in left if not group[0].is_repeated], target)
        _pin(function, kept, target)
        function.attributes[PINNED_BYTES_ATTRIBUTE] = IntegerAttr(sum(group[0].row_bytes for group in kept), i64)
        function.attributes[STREAMED_ATTRIBUTE] = ArrayAttr([StringAttr(_described(group)) for group in left])


def _priority(group: Sequence[_Candidate]) -> tuple[bool, float]:
    """What is pinned first: distinct values before repeated ones, then by time saved for the room taken."""
    return group[0].is_repeated, -sum(candidate.saved_ns for candidate in group) / group[0].row_bytes


def _require(left: Sequence[Sequence[_Candidate]], target: Target) -> None:
    """NX-PIPE-001 when weights of a pipeline stage would have to be loaded by each run."""
    if left:
        missing = sum(group[0].row_bytes for group in left)
        raise NeuronError(
            "NX-PIPE-001",
            f"{missing} bytes of weights per partition do not fit beside the buffers of their stage,"
            f" limit {target.sbuf_bytes_per_partition}",
            node=location_name(left[0][0].alloc.location),
            help="ask for more cores, or for `auto`",
        )


def _described(group: Sequence[_Candidate]) -> str:
    """A load that stays, in words."""
    first = group[0]
    node = location_name(first.alloc.location)
    sources = sorted({transfer.source for transfer in first.contents.transfers})
    owner = f" of node '{node}'" if node else ""
    return f"{first.row_bytes} bytes per partition from {', '.join(sources)}{owner}"


def _buffers(function: FuncOp) -> list[AllocOp]:
    return [op for op in function.walk() if isinstance(op, AllocOp) and space_of(op.buffer) == "sbuf"]


def _candidate(function: FuncOp, alloc: AllocOp, target: Target) -> _Candidate | None:
    """The buffer as one that could be pinned; None where something else than loads of parameters writes it."""
    loads: list[NisaOp] = []
    for use in alloc.buffer.uses:
        op = use.operation
        assert isinstance(op, NisaOp)
        if not op.DEFINITION.operand(op.access.data[use.index][0]).writes:
            continue
        if op.DEFINITION.name != "dma_copy" or not isinstance(op.buffers[1].owner, ParamOp):
            return None
        loads.append(op)
    if not loads:
        return None
    numbers: dict[SSAValue, int] = {}
    trips: dict[int, int] = {}
    around = [_number(loop, numbers, trips) for loop in _loops_around(alloc)]
    fills: list[Fill] = []
    for op in sorted(loads, key=_order_of):
        loops = [_number(loop, numbers, trips) for loop in _loops_around(op)]
        assert all(value in numbers for value in op.indices)
        names = [numbers[value] for value in op.indices]
        (_, dst), (_, src) = op.access.data
        source = op.buffers[1].owner
        assert isinstance(source, ParamOp)
        assert set(around) <= set(loops)
        fills.append(Fill(source.symbol.data, _renamed(dst, names), _renamed(src, names)))
    shape = tuple(cast("MemRefType[Attribute]", alloc.buffer.type).get_shape())
    contents = expand(fills, trips, around, shape[0], prod(shape[1:]))
    if contents is None:
        return None
    row_bytes = -(-row_bytes_of(alloc) * contents.places // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    saved = sum(dma_cost(op.instruction(), target).busy_ns * _executions(op) for op in loads)
    repeated = shape[0] < FEW_PARTITIONS or all(
        any(stride == 0 and n > 1 for stride, n in fill.src.dims) for fill in fills
    )
    variables = {n: value for value, n in numbers.items()}
    return _Candidate(function, alloc, contents, loads, variables, row_bytes, saved, repeated)


def _order_of(op: NisaOp) -> tuple[str, str]:
    """An order of the loads of one buffer that does not depend on how its uses are listed."""
    return (str(op.access.data[0][1]), str(op.access.data[1][1]))


def _renamed(pattern: AccessPattern, names: Sequence[int]) -> AccessPattern:
    return pattern.rename(lambda position: names[position])


def _loops_around(op: Operation) -> list[ForOp]:
    """The loops around an operation, outermost first."""
    loops: list[ForOp] = []
    parent = op.parent_op()
    while isinstance(parent, ForOp):
        loops.append(parent)
        parent = parent.parent_op()
    return loops[::-1]


def _number(loop: ForOp, numbers: dict[SSAValue, int], trips: dict[int, int]) -> int:
    number = numbers.setdefault(loop.body.block.args[0], len(numbers))
    trips[number] = trip_count(loop)
    return number


def _executions(op: Operation) -> int:
    return prod(trip_count(loop) for loop in _loops_around(op))


def _most_that_fits(functions: Sequence[FuncOp], order: Sequence[Sequence[_Candidate]], target: Target) -> int:
    """How many of the groups can be pinned so that what is left of each program fits beside them.

    Repeated values, which come last, take no copies away from rotating buffers that could have them.
    """
    programs = [on_chip_buffers(function, top_level_statements(function)) for function in functions]
    capacity = int(target.sbuf_bytes_per_partition) // ALIGNMENT_BYTES

    def fits(count: int, *, whole: bool = False) -> bool:
        pinned = {candidate.alloc for group in order[:count] for candidate in group}
        room = capacity - sum(group[0].row_bytes for group in order[:count]) // ALIGNMENT_BYTES
        return room > 0 and all(_has_room(buffers, pinned, room, whole=whole) for buffers in programs)

    distinct = sum(not group[0].is_repeated for group in order)
    whole = fits(distinct, whole=True)
    if fits(len(order), whole=whole):
        return len(order)
    low, high = (distinct, len(order)) if whole else (0, len(order))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle, whole=whole) else (low, middle)
    return low


def _has_room(buffers: Sequence[OnChipBuffer], pinned: Collection[AllocOp], room: int, *, whole: bool) -> bool:
    """Whether the buffers of a program that are not pinned fit into `room` aligned pieces, `whole`: with all copies."""
    live = [
        LiveBuffer(key, -(-buffer.row_bytes // ALIGNMENT_BYTES), buffer.copies, buffer.uses)
        for key, buffer in enumerate(buffers)
        if buffer.space == "sbuf" and buffer.uses and buffer.alloc not in pinned
    ]
    plan = plan_memory(live, room)
    return plan.placement is not None and (not whole or all(plan.copies[own.key] == own.copies for own in live))


def _pin(function: FuncOp, groups: Sequence[Sequence[_Candidate]], target: Target) -> None:
    """Rewrite the function: pinned buffers and their transfers at its top, no loads of them in its program."""
    body = Block()
    made: list[Operation] = []
    parameters = {op.symbol.data: op.buffer for op in function.body.block.ops if isinstance(op, ParamOp)}
    place = {"engine": StringAttr(target.dma_trigger_list["load"]), "ring": StringAttr(PINNED_RING)}
    for group in groups:
        first = group[0]
        buffer = _expanded(first)
        made.append(buffer)
        for transfer in first.contents.transfers:
            views = [("dst", buffer.buffer, transfer.dst), ("src", parameters[transfer.source], transfer.src)]
            body.add_op(NISA_OPS["dma_copy"].make(views, extra=place, location=first.alloc.location))
        for candidate in group:
            _read_pinned(candidate, buffer.buffer)
    if not made:
        return
    section = PinnedOp(Region(body))
    section.location = function.location
    first_op = next(op for op in function.body.block.ops if not isinstance(op, ParamOp | ConstantOp))
    Rewriter.insert_op([*made, section], InsertPoint.before(first_op))
    _drop_empty_loops(function.body.block)


def _expanded(candidate: _Candidate) -> AllocOp:
    """The buffer with all of its places."""
    memref = cast("MemRefType[Attribute]", candidate.alloc.buffer.type)
    partitions, *rest = memref.get_shape()
    places = [candidate.contents.places] if candidate.contents.places > 1 else []
    shape = (partitions, *places, *rest)
    alloc = AllocOp(MemRefType(memref.element_type, shape, memory_space=memref.memory_space))
    alloc.buffer.name_hint = candidate.alloc.buffer.name_hint
    alloc.location = candidate.alloc.location
    return alloc


def _read_pinned(candidate: _Candidate, buffer: SSAValue) -> None:
    """Let the readers of a buffer read the pinned one, and drop the buffer and its loads."""
    for op in candidate.loads:
        Rewriter.erase_op(op)
    old = candidate.alloc.buffer
    for op in {use.operation: None for use in old.uses}:
        assert isinstance(op, NisaOp)
        for variable, step in candidate.contents.steps.items():
            shift_views(op, old, candidate.variables[variable], step)
    old.replace_all_uses_with(buffer)
    Rewriter.erase_op(candidate.alloc)


def _drop_empty_loops(block: Block) -> None:
    """Remove the loops that hold nothing any more."""
    for op in list(block.ops):
        if isinstance(op, ForOp):
            _drop_empty_loops(op.body.block)
            if all(isinstance(inner, YieldOp) for inner in op.body.block.ops):
                Rewriter.erase_op(op)


def streamed_weights(function: FuncOp) -> list[str]:
    """The loads of parameters that every run of a function repeats, in words."""
    found: Mapping[str, Attribute] = function.attributes
    rows = found.get(STREAMED_ATTRIBUTE)
    return [row.data for row in rows.data if isinstance(row, StringAttr)] if isinstance(rows, ArrayAttr) else []

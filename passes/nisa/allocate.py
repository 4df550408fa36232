"""`nisa-allocate`: an address for every on-chip buffer, or a clear report of what does not fit.

Given functions in program order (nisa form 1), leaves them allocated (form 2). Live ranges come from `live_ranges`,
decisions from the pure algorithms of `memory_plan` and `allocation`; this module applies them: it takes copies from
rotating buffers, has idle buffers spilled, moves the allocs to the top of their function and lets accesses of rotating
buffers add the slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, MemRefType, ModuleOp, StringAttr, i64
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from neuron_dialects.access_ops import space_of
from neuron_dialects.errors import NeuronError, in_segment
from neuron_dialects.neuron import RESERVED_ATTRIBUTE, core_groups, location_name, target_of
from neuron_dialects.nisa import AllocOp
from neuron_dialects.remarks import remark
from neuron_dialects.target import Target
from passes.nisa.live_ranges import (
    OnChipBuffer,
    on_chip_buffers,
    pinned_buffers,
    row_bytes_of,
    top_level_statements,
)
from passes.nisa.memory_plan import Judge, LiveBuffer, MemoryPlan, plan_with_prefetch
from passes.nisa.place_buffers import PlacedBuffer, hoist_dram_buffers, place_buffers
from passes.nisa.placement_ladder import DEFAULT_RUNG, RUNGS
from passes.nisa.program_tree import nisa_functions, read_function
from passes.nisa.reuse_stalls import Occupant, ReuseStalls
from passes.nisa.spill import Spill, spill_buffer
from passes.nisa.statement_tasks import statement_tasks

PEAK_SBUF_ATTRIBUTE = "neuron.peak_sbuf_bytes"
PEAK_PSUM_ATTRIBUTE = "neuron.peak_psum_bytes"
SPILLS_ATTRIBUTE = "neuron.spills"
REDUCED_ATTRIBUTE = "neuron.reduced_copies"

LARGEST_NAMED = 5
"""How many buffers a message about a memory that is too small names."""


@dataclass(frozen=True)
class MemoryReport:
    """How a function uses on-chip memory. Bytes per partition, by memory space ("sbuf", "psum").

    `peak_bytes`: what the tightest placement found needs; `live_bytes`: the most that is live at once, a lower bound
    of it. `reduced`: buffers that lost copies, in words. `rungs`: of the placement ladder, that found the addresses;
    `prefetch_share`: the part of SBUF that transfers which run ahead may fill, None where none do.
    """

    function: str
    peak_bytes: dict[str, int]
    live_bytes: dict[str, int]
    spills: tuple[Spill, ...]
    reduced: tuple[str, ...]
    rungs: dict[str, str]
    prefetch_share: float | None


@dataclass(frozen=True)
class NisaAllocatePass(ModulePass):
    """Give every on-chip buffer an address, from live ranges over the program order.

        scf.for %i = %c0 to %c8 step %c1 {
          %x = nisa.alloc copies 2 : memref<128x512xf32, #neuron.space<sbuf>>
          nisa.dma_copy on sp ring load0 dst %x[0:128][0 : 512] src %in[512*%i : 128 step 4096, 512]
        }

    becomes

        %x = nisa.alloc copies 2 at 0, 0 stride 2048 : memref<128x512xf32, #neuron.space<sbuf>>
        scf.for %i = %c0 to %c8 step %c1 {
          %slot = nisa.slot 2
          nisa.dma_copy on sp ring load0 dst %x[0:128][512*%slot : 512] src %in[512*%i : 128 step 4096, 512]
        }

    When buffers do not fit, rotating buffers lose copies, then idle buffers are spilled to DRAM (`spill=false` forbids
    it); both are written on the function (`neuron.reduced_copies`, `neuron.spills`) beside `neuron.peak_sbuf_bytes`.
    What still does not fit is NX-MEM-001. `alignment`: of addresses, in bytes, a power of two of at least 8.
    `placement`: how far to go before copies are lost: `greedy` orders only, a bounded `search`, or the `exact` solver,
    which is a package of its own (the extra `solve`).
    """

    name = "nisa-allocate"

    spill: bool = True
    alignment: int = 64
    placement: str = DEFAULT_RUNG

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Allocate every function at the nisa level."""
        if self.alignment < 8 or self.alignment & (self.alignment - 1):
            raise NeuronError("NX-PASS-001", f"alignment {self.alignment} is not a power of two of at least 8")
        if self.placement not in RUNGS:
            raise NeuronError("NX-PASS-001", f"placement '{self.placement}' is none of {', '.join(RUNGS)}")
        for functions in core_groups(nisa_functions(op)):
            sizes = [pinned_size(function, self.alignment) for function in functions]
            for position, function in enumerate(functions):
                others = OtherPinned(sum(sizes[:position]), sum(sizes[position + 1 :]))
                with in_segment(function.sym_name.data):
                    allocator = _Allocator(function, target_of(op), self.spill, self.alignment, others, self.placement)
                    report = allocator.run()
                function.attributes.update(report_attributes(report))
                if len(functions) > 1:
                    function.attributes[RESERVED_ATTRIBUTE] = IntegerAttr(sum(sizes), i64)
                _tell(function, report)


def _tell(function: FuncOp, report: MemoryReport) -> None:
    """Remarks on what was given up for want of memory, and on how much is used."""
    name = function.sym_name.data
    smaller = "use smaller tiles, a smaller batch, or a narrower type"
    for spill in report.spills:
        reason = "SBUF is full where it lies idle"
        remark("missed", "keep", f"spilled to DRAM: {spill}", function=name, reason=reason, suggestion=smaller)
    for text in report.reduced:
        reason = "not all copies fit"
        remark("missed", "multi-buffer", f"less overlap: {text}", function=name, reason=reason, suggestion=smaller)
    remark(
        "analysis",
        "memory",
        "on-chip memory of a partition",
        function=name,
        peak_sbuf_bytes=report.peak_bytes["sbuf"],
        live_sbuf_bytes=report.live_bytes["sbuf"],
        peak_psum_bytes=report.peak_bytes["psum"],
        sbuf_placement=report.rungs["sbuf"],
        psum_placement=report.rungs["psum"],
        prefetch_share=report.prefetch_share or 0.0,
    )


def report_attributes(report: MemoryReport) -> dict[str, Attribute]:
    """The report as attributes of its function, which the compile report is made from."""
    attributes: dict[str, Attribute] = {
        PEAK_SBUF_ATTRIBUTE: IntegerAttr(report.peak_bytes["sbuf"], i64),
        PEAK_PSUM_ATTRIBUTE: IntegerAttr(report.peak_bytes["psum"], i64),
        SPILLS_ATTRIBUTE: ArrayAttr([StringAttr(str(spill)) for spill in report.spills]),
    }
    if report.reduced:
        attributes[REDUCED_ATTRIBUTE] = ArrayAttr([StringAttr(text) for text in report.reduced])
    return attributes


@dataclass(frozen=True)
class OtherPinned:
    """Bytes of each partition that pinned buffers of other functions on the same core take: those that lie before the
    function's own, and those behind.
    """

    before: int = 0
    behind: int = 0


def allocate_function(
    function: FuncOp,
    target: Target,
    spill: bool = True,
    alignment: int = 64,
    others: OtherPinned = OtherPinned(),
    placement: str = DEFAULT_RUNG,
) -> MemoryReport:
    """Allocate one function; NX-MEM-001 when its buffers do not fit, NX-PASS-002 when it is allocated already.

    Pinned buffers come first in SBUF, those of other functions on the core among them. `placement`: the last rung of
    the placement ladder that is tried, NX-PASS-004 when it is not installed.
    """
    return _Allocator(function, target, spill, alignment, others, placement).run()


def pinned_size(function: FuncOp, alignment: int) -> int:
    """Bytes of each partition that the pinned buffers of a function take."""
    return sum(-(-row_bytes_of(alloc) // alignment) * alignment for alloc in pinned_buffers(function))


@dataclass(frozen=True)
class _Memory:
    """One on-chip memory in the planner's units: aligned pieces of a partition in SBUF, banks in PSUM."""

    space: str
    unit_bytes: int
    capacity: int

    def units(self, row_bytes: int) -> int:
        """Units of one copy of a buffer with `row_bytes` in each partition."""
        return max(1, -(-row_bytes // self.unit_bytes))


def _memories(target: Target, alignment: int, pinned_bytes: int) -> tuple[_Memory, _Memory]:
    """What is left of the memories beside `pinned_bytes` of SBUF."""
    return (
        _Memory("sbuf", alignment, (int(target.sbuf_bytes_per_partition) - pinned_bytes) // alignment),
        _Memory("psum", int(target.psum_bank_bytes), int(target.psum_banks)),
    )


@dataclass
class _Allocator:
    """State of the allocation of one function."""

    function: FuncOp
    target: Target
    spill: bool
    alignment: int
    others: OtherPinned
    placement: str
    spills: list[Spill] = field(default_factory=list)

    def run(self) -> MemoryReport:
        self.drop_unused()
        pinned, pinned_bytes = self.pinned()
        memories = _memories(self.target, self.alignment, pinned_bytes)
        while True:
            statements = top_level_statements(self.function)
            buffers = on_chip_buffers(self.function, statements)
            stalls = self.stalls(buffers)
            plans = [self.plan(memory, buffers, stalls) for memory in memories]
            victims = [key for plan in plans for key in plan.victims]
            if not victims:
                break
            for key in victims:
                self.spills.append(spill_buffer(buffers[key], self.function, statements, self.target))
        placed: dict[int, PlacedBuffer] = {}
        base = {"sbuf": pinned_bytes, "psum": 0}
        for memory, plan in zip(memories, plans, strict=True):
            assert plan.placement is not None
            for key, offset in plan.placement.offsets.items():
                copy_bytes = memory.units(buffers[key].row_bytes) * memory.unit_bytes
                address = base[memory.space] + offset * memory.unit_bytes
                placed[key] = PlacedBuffer(buffers[key].alloc, address, plan.copies[key], copy_bytes)
        reduced = [_reduction(buffers[key], placed[key].copies) for key in sorted(placed)]
        place_buffers(self.function, [*pinned, *(placed[key] for key in sorted(placed))])
        hoist_dram_buffers(self.function)
        pairs = list(zip(memories, plans, strict=True))
        return MemoryReport(
            self.function.sym_name.data,
            {memory.space: base[memory.space] + plan.needed * memory.unit_bytes for memory, plan in pairs},
            {memory.space: base[memory.space] + plan.live_units * memory.unit_bytes for memory, plan in pairs},
            tuple(self.spills),
            tuple(text for text in reduced if text),
            {memory.space: plan.placement.rung for memory, plan in pairs if plan.placement is not None},
            plans[0].prefetch_share,
        )

    def stalls(self, buffers: Sequence[OnChipBuffer]) -> ReuseStalls | None:
        """What tells good placements in SBUF from others; None where no transfer could run ahead."""
        if not any(buffer.is_loaded for buffer in buffers if buffer.space == "sbuf"):
            return None
        tree, _ = read_function(self.function)
        return ReuseStalls(statement_tasks(tree, self.target))

    def pinned(self) -> tuple[list[PlacedBuffer], int]:
        """The buffers that live for ever, one after the other, and where those of the core end."""
        placed: list[PlacedBuffer] = []
        end = self.others.before
        for alloc in pinned_buffers(self.function):
            size = -(-row_bytes_of(alloc) // self.alignment) * self.alignment
            placed.append(PlacedBuffer(alloc, end, 1, size))
            end += size
        end += self.others.behind
        limit = int(self.target.sbuf_bytes_per_partition)
        if end > limit:
            raise NeuronError(
                "NX-MEM-001",
                f"pinned buffers need {end} bytes of SBUF per partition, limit {limit}",
                help="spread the model over more cores",
            )
        return placed, end

    def drop_unused(self) -> None:
        """Remove buffers that nobody accesses; NX-PASS-002 when there are addresses already."""
        pinned = set(pinned_buffers(self.function))
        for alloc in [op for op in self.function.walk() if isinstance(op, AllocOp) and op not in pinned]:
            if space_of(alloc.buffer) == "dram":
                continue
            if alloc.address is not None:
                raise NeuronError(
                    "NX-PASS-002",
                    f"function @{self.function.sym_name.data} is allocated already",
                    node=location_name(alloc.location),
                )
            if not any(True for _ in alloc.buffer.uses):
                Rewriter.erase_op(alloc)

    def plan(self, memory: _Memory, buffers: Sequence[OnChipBuffer], stalls: ReuseStalls | None) -> MemoryPlan:
        live = [
            LiveBuffer(
                key,
                memory.units(buffer.row_bytes),
                buffer.copies,
                buffer.uses,
                movable=self.spill and memory.space == "sbuf" and not buffer.in_loop,
                spill_cost=self.spill_ns(buffer),
            )
            for key, buffer in enumerate(buffers)
            if buffer.space == memory.space
        ]
        loaded = {key for key, buffer in enumerate(buffers) if buffer.space == memory.space and buffer.is_loaded}
        judge, least_ns = (_judge(stalls), stalls.free_ns) if stalls is not None and loaded else (None, 0.0)
        plan = plan_with_prefetch(live, memory.capacity, loaded, self.placement, judge, least_ns)
        if plan.placement is None and not plan.victims:
            # Loops inside a loop share memory, one after the other, before anything is given up.
            apart = [replace(buffer, uses=buffers[buffer.key].span) for buffer in live]
            tighter = plan_with_prefetch(apart, memory.capacity, loaded, self.placement)
            if tighter.placement is not None:
                return tighter
            raise self.shortage(memory, plan, buffers)
        return plan

    def spill_ns(self, buffer: OnChipBuffer) -> float:
        """Time of the transfers if a buffer is spilled, as if they were alone."""
        memref = cast("MemRefType[Attribute]", buffer.alloc.buffer.type)
        moved_ns = buffer.row_bytes * memref.get_shape()[0] / float(self.target.dram_bytes_per_ns)
        return max(1, buffer.spill_transfers) * (float(self.target.dma_start_ns) + moved_ns)

    def shortage(self, memory: _Memory, plan: MemoryPlan, buffers: Sequence[OnChipBuffer]) -> NeuronError:
        """The error that says what is live where memory is short."""
        position, needed = plan.shortage
        live = [
            (memory.units(buffer.row_bytes) * plan.copies[key] * memory.unit_bytes, key, buffer)
            for key, buffer in enumerate(buffers)
            if buffer.space == memory.space and buffer.uses[0] <= position <= buffer.uses[-1]
        ]
        live.sort(key=lambda item: (-item[0], item[1]))
        named = [f"{size} by {_owner(buffer)}" for size, _, buffer in live[:LARGEST_NAMED]]
        node = next((name for _, _, b in live if (name := location_name(b.alloc.location))), None)
        smaller = "use smaller tiles, or cast to a narrower type"
        return NeuronError(
            "NX-MEM-001",
            f"{needed * memory.unit_bytes} bytes of {memory.space.upper()} per partition are needed, limit"
            f" {memory.capacity * memory.unit_bytes}; largest: {', '.join(named)}",
            node=node,
            help=smaller if self.spill or memory.space == "psum" else f"allow spilling (spill=true), or {smaller}",
        )


def _judge(stalls: ReuseStalls) -> Judge:
    """The estimated time of a program with given addresses, in nanoseconds."""

    def time_ns(buffers: Sequence[LiveBuffer], copies: Mapping[int, int], offsets: Mapping[int, int]) -> float:
        return stalls.time_ns(
            [Occupant(b.key, b.uses[0], b.uses[-1], b.units * copies[b.key]) for b in buffers], offsets
        )

    return time_ns


def _owner(buffer: OnChipBuffer) -> str:
    """How a message calls a buffer: by its framework node and its name."""
    node = location_name(buffer.alloc.location)
    name = f"%{buffer.alloc.buffer.name_hint or 'buffer'}"
    return f"{name} of node '{node}'" if node else name


def _reduction(buffer: OnChipBuffer, copies: int) -> str:
    """What became of a rotating buffer that lost copies; empty when it lost none."""
    if copies == buffer.copies:
        return ""
    return f"{_owner(buffer)}: {copies} copies instead of {buffer.copies}, {buffer.row_bytes} bytes per partition each"

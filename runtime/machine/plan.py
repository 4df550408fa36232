"""What the simulator does for each datapath or DMA entry, worked out once: its costs, ports, hazards and counts.

Costs come from `neuron_dialects.cost` alone. Nothing in a cost depends on registers or data, so each is one number per
entry.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuron_dialects.cost import dma_cost, issue_ns, latency_ns, matmul_macs, shared_ports, weight_load_ns
from neuron_dialects.target import Target
from runtime.machine.control import MOST_CHAINED, Control, chained
from runtime.machine.decode import Access, DecodedProgram, Entry
from runtime.semantics.functions import TABLE_SET_OF
from runtime.semantics.registry import Kernel
from runtime.views import OperandView

PORTS = ("sbuf", "psum")
"""Memories whose ports engines may share, by the number of the port."""

Box = tuple[str | int, int, int, int, int]
"""(memory, first partition, one past the last, first byte, one past the last)."""


@dataclass(slots=True, eq=False)
class Work:
    """One entry of a queue as the simulator sees it.

    `prepare_ns`: from an instruction's dispatch to its earliest start (the tensor engine's weight load); `busy_ns`: how
    long the engine (or the DMA engines) cannot start anything else; `span_ns`: from start to end, which is longer than
    that for a transfer whose DMA engines start one after the other; `latency_ns`: from the end until the result can be
    used. `waits`, `control` and `signal` are the entry's, but that `control` also executes `chained` more control
    instructions behind it that neither wait nor signal. `hazard_reads` / `hazard_writes`: accesses through which
    instructions of this engine, or transfers of this ring, may depend on each other; `fixed_hazards`: what they read
    and write, where no register moves it. `table`: function table that the
    scalar engine needs, or "". `kernel` and `views` are set when data is computed. `hands_over`: a transfer of what is
    handed over to or from another core; `link_ns`: how long it has the link to other chips, where it goes to one.
    """

    entry: Entry
    ring: int
    waits: tuple[tuple[int, int, int], ...]
    control: Control | None
    signal: int
    chained: int = 0
    prepare_ns: float = 0.0
    busy_ns: float = 0.0
    span_ns: float = 0.0
    latency_ns: float = 0.0
    ports: tuple[int, ...] = ()
    table: str = ""
    hazard_reads: tuple[Access, ...] = ()
    hazard_writes: tuple[Access, ...] = ()
    fixed_hazards: tuple[Sequence[Box], Sequence[Box]] | None = ((), ())
    bytes: int = 0
    hbm_read_bytes: int = 0
    hbm_write_bytes: int = 0
    macs: int = 0
    pass_macs: float = 0.0
    executions: int = 0
    kernel: Kernel | None = None
    views: tuple[tuple[str, OperandView], ...] = ()
    hands_over: bool = False
    link_ns: float = 0.0


def plan_queues(decoded: DecodedProgram) -> dict[str, list[Work]]:
    """The work of every entry of every queue, in the order of the entries."""
    rings = {ring: number for number, ring in enumerate(decoded.rings)}
    plans: dict[str, list[Work]] = {}
    for engine, entries in decoded.queues.items():
        works = [_work(entry, decoded.target, rings) for entry in entries]
        if engine != "pe":
            # The tensor engine reads SBUF and writes PSUM: no instruction of it reads what another of it writes.
            _add_hazards([work for work in works if work.entry.instruction is not None and work.ring < 0])
        _chain_controls(works)
        plans[engine] = works
    for ring in rings.values():
        _add_hazards([work for works in plans.values() for work in works if work.ring == ring])
    return plans


def _work(entry: Entry, target: Target, rings: dict[str, int]) -> Work:
    instruction = entry.instruction
    made = functools.partial(Work, entry, waits=entry.waits, control=entry.control, signal=entry.signal)
    if instruction is None:
        return made(-1)
    if entry.ring is not None:
        cost = dma_cost(instruction, target)
        return made(
            rings[entry.ring], busy_ns=cost.busy_ns, span_ns=cost.span_ns, latency_ns=float(target.dma_completion_ns),
            bytes=cost.bytes, hbm_read_bytes=cost.dram_read_bytes, hbm_write_bytes=cost.dram_write_bytes,
        )  # fmt: skip
    macs = matmul_macs(instruction)
    factor = target.matmul_rate_factor(instruction.operands["moving"].dtype) if macs else 0.0
    function: Any = instruction.field("func") if instruction.name == "activation" else ""
    busy_ns = issue_ns(instruction, target)
    return made(
        -1, prepare_ns=weight_load_ns(instruction, target), busy_ns=busy_ns, span_ns=busy_ns,
        latency_ns=latency_ns(entry.engine, target), ports=tuple(map(PORTS.index, shared_ports(instruction, target))),
        table=TABLE_SET_OF.get(function, ""), macs=macs, pass_macs=macs * factor,
    )  # fmt: skip


def _chain_controls(works: Sequence[Work]) -> None:
    """Let control instructions that stand behind each other be executed as one."""
    chain: list[Control] = []
    for work in reversed(works):
        control = work.control
        if control is None:
            chain = []
            continue
        # Where the entry behind is no part of it, what stands here begins a chain of its own.
        if not work.entry.goes_on or work.signal >= 0 or len(chain) == MOST_CHAINED:
            chain = []
        chain = [control, *chain]
        work.control, work.chained = chained(chain), len(chain) - 1
        if work.waits or work.signal >= 0:
            chain = []


def _add_hazards(stream: list[Work]) -> None:
    """Keep the accesses by which the works of one stream can depend on each other: reads of a memory that it writes."""
    written = {a.memory for work in stream for a in work.entry.accesses if a.writes}
    read = {a.memory for work in stream for a in work.entry.accesses if a.reads}
    for work in stream:
        accesses = work.entry.accesses
        work.hazard_reads = tuple(a for a in accesses if a.reads and a.memory in written)
        work.hazard_writes = tuple(a for a in accesses if a.writes and a.memory in read)
        both = work.hazard_reads, work.hazard_writes
        moves = any(access.register >= 0 for hazards in both for access in hazards)
        work.fixed_hazards = None if moves else (boxes_of(both[0], ()), boxes_of(both[1], ()))


def boxes_of(accesses: Sequence[Access], registers: Sequence[int]) -> Sequence[Box]:
    """What accesses touch; NX-RUN-001 where that is out of bounds."""
    return [(a.memory, a.first_partition, a.last_partition, *a.interval(registers)) for a in accesses]

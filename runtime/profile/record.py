"""Makes a profile: each core program runs once on the machine, timed and traced, without data.

Given core programs and the order in which they are launched, leaves behind a `Profile`. Time does not depend on data,
so a program that is launched several times runs once, and no inputs are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from neuron_dialects.cost import dma_cost
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.isa import Instruction
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import Target
from runtime.machine import Machine, Trace
from runtime.machine.decode import Access
from runtime.machine.plan import Work
from runtime.neff import CORE, Neff
from runtime.neff.text import instruction_text
from runtime.profile.model import (
    ENGINES,
    PSUM,
    SBUF,
    Accesses,
    Events,
    Instructions,
    Profile,
    ProgramProfile,
    Shifts,
    Signals,
    Variable,
    Waits,
)


def record_neff(neff: Neff, target: Target, bucket: int = 0, pieces: int = 1) -> Profile:
    """The profile of one inference at the shapes of `bucket`, run `pieces` times; host segments take no time in it."""
    names = {node.callee: node.name for node in neff.buckets[bucket].graph if node.executor == CORE}
    used = _callees(neff, bucket)
    launches = [used.index(node.callee) for node in neff.buckets[bucket].graph if node.executor == CORE]
    programs = list(zip((names[index] for index in used), neff_programs(neff, bucket), strict=True))
    return record_programs(neff.name, programs, target, launches * pieces)


def neff_programs(neff: Neff, bucket: int = 0) -> list[CoreProgram]:
    """The core programs that an inference launches, each once, in the order in which a profile has them."""
    return [neff.subgraphs[index].program for index in _callees(neff, bucket)]


def _callees(neff: Neff, bucket: int) -> list[int]:
    return list(dict.fromkeys(node.callee for node in neff.buckets[bucket].graph if node.executor == CORE))


def record_programs(
    model: str, programs: Sequence[tuple[str, CoreProgram]], target: Target, launches: Sequence[int] | None = None
) -> Profile:
    """The profile of named programs, launched in this order or as `launches` says (positions).

    Raises NeuronError as `Machine` and its `run` do.
    """
    recorded = tuple(record_program(name, program, target) for name, program in programs)
    return Profile(model, target, (), recorded, tuple(range(len(recorded))) if launches is None else tuple(launches))


def record_program(name: str, program: CoreProgram, target: Target) -> ProgramProfile:
    """Run one program for its time and keep what happened."""
    machine = Machine(program, target)
    result = machine.run({}, {}, "timing", trace=True)
    assert result.timing is not None and result.trace is not None
    works = [work for work in machine.works if work.entry.instruction is not None]
    codes: dict[str, int] = {}
    instructions = Instructions.of(**_columns([_instruction_row(work, target, codes) for work in works]))
    numbers = {(work.entry.engine, work.entry.index): number for number, work in enumerate(works)}
    memories: dict[str | int, int] = {"sbuf": SBUF, "psum": PSUM}
    memories |= {variable.id: position for position, variable in enumerate(program.variables)}
    accesses = [row for number, work in enumerate(works) for row in _access_rows(number, work.entry.accesses, memories)]
    trace = result.trace
    return ProgramProfile(
        name=name,
        origins=program.origins,
        rings=machine.rings,
        opcodes=tuple(codes),
        semaphores=program.semaphores,
        variables=tuple(Variable(v.name, v.kind, v.size_bytes) for v in program.variables),
        texts=tuple(instruction_text(w.entry.instruction, w.entry.ring) for w in works if w.entry.instruction),
        timing=result.timing,
        instructions=instructions,
        accesses=Accesses.of(**_columns(accesses)),
        events=_events(trace, numbers),
        shifts=Shifts.of(bytes=[shift for shifts in trace.shifts for shift in shifts]),
        waits=Waits.of(
            queue=[ENGINES.index(queue) for queue in trace.wait_queue],
            position=trace.wait_position,
            semaphore=trace.wait_semaphore,
            value=trace.wait_value,
            since=trace.wait_since,
            until=trace.wait_until,
        ),
        signals=Signals.of(semaphore=trace.signal_semaphore, time=trace.signal_time),
    )


def _events(trace: Trace, numbers: Mapping[tuple[str, int], int]) -> Events:
    """The events in the order of their start; shifts stay in the order of the trace."""
    counts = np.array([len(shifts) for shifts in trace.shifts], dtype=np.int64)
    first = np.cumsum(counts) - counts
    keys = zip(trace.queue, trace.position, strict=True)
    events = Events.of(
        instruction=[numbers[key] for key in keys],
        dispatched=trace.dispatched,
        start=trace.start,
        end=trace.end,
        done=trace.done,
        shift=first,
    )
    return events.take(np.argsort(events.start, kind="stable"))


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _instruction_row(work: Work, target: Target, codes: dict[str, int]) -> dict[str, Any]:
    """The row of one instruction; `codes` collects the opcodes."""
    entry, instruction = work.entry, work.entry.instruction
    assert instruction is not None
    matmul, transpose = instruction.name == "nc_matmul", instruction.name == "nc_transpose"
    array = instruction.operands["stationary"].pattern if matmul else None
    data = instruction.operands["data"].pattern if transpose and entry.engine == "pe" else None
    transfer = dma_cost(instruction, target) if work.ring >= 0 else None
    partitions = (o.pattern.partitions for o in instruction.operands.values() if o.space != "dram")
    return {
        "queue": ENGINES.index(entry.engine),
        "position": entry.index,
        "stream": ENGINES.index(entry.engine) if work.ring < 0 else len(ENGINES) + work.ring,
        "opcode": codes.setdefault(instruction.name, len(codes)),
        "origin": entry.origin,
        "signal": entry.signal,
        "macs": work.macs,
        "transpose_macs": data.partitions * data.free_elements * data.partitions if data is not None else 0,
        "passes": work.pass_macs / work.macs if work.macs else 0.0,
        "rows": array.partitions if array is not None else max(partitions, default=0),
        "columns": array.free_elements if array is not None else 0,
        "descriptors": transfer.descriptors if transfer is not None else 0,
        "bytes": work.bytes,
        "run_bytes": transfer.run_bytes if transfer is not None else 0,
        "hbm_read_bytes": work.hbm_read_bytes,
        "hbm_write_bytes": work.hbm_write_bytes,
        "prepare_ns": work.prepare_ns,
        "busy_ns": work.busy_ns,
        "latency_ns": work.latency_ns,
        **_traffic(instruction),
    }


def _traffic(instruction: Instruction) -> dict[str, int]:
    """Bytes that one execution reads and writes on chip."""
    traffic = {f"{memory}_{way}_bytes": 0 for memory in ("sbuf", "psum") for way in ("read", "write")}
    for role, operand in instruction.operands.items():
        if operand.space != "dram":
            definition = instruction.definition.operand(role)
            size = operand.pattern.elements * dtype_by_name(operand.dtype).size_bytes
            traffic[f"{operand.space}_read_bytes"] += size * definition.reads
            traffic[f"{operand.space}_write_bytes"] += size * definition.writes
    return traffic


def _access_rows(
    number: int, accesses: Iterable[Access], memories: Mapping[str | int, int]
) -> Iterable[dict[str, Any]]:
    """The rows of the accesses of instruction `number`."""
    for slot, access in enumerate(accesses):
        yield {
            "instruction": number,
            "memory": memories[access.memory],
            "first_partition": access.first_partition,
            "last_partition": access.last_partition,
            "low": access.low,
            "high": access.high,
            "slot": slot,
            "reads": access.reads,
            "writes": access.writes,
        }

"""The tables of a profile under the names that Neuron Explorer gives to tables and columns.

Timestamps are whole numbers of nanoseconds from the start of the first launch, as there; durations keep their fraction.
One row for each event of each launch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runtime.machine.timing import ENGINE_NAMES
from runtime.profile.advice import advice_of, loads_of
from runtime.profile.analysis import Analysis, ProgramAnalysis
from runtime.profile.causes import Cause
from runtime.profile.columns import Array
from runtime.profile.model import ENGINES
from runtime.profile.operators import UNNAMED, layer_of
from runtime.profile.summary import summary_of

Columns = dict[str, Sequence[Any]]

_TRAFFIC = tuple(f"{memory}_{way}_bytes" for memory in ("hbm", "sbuf", "psum") for way in ("read", "write"))


def explorer_tables(analysis: Analysis) -> dict[str, Columns]:
    """Tables by name, each as columns of equal length."""
    launches = [(program, start) for program in analysis.programs for start in program.starts_ns]
    launches.sort(key=lambda launch: launch[1])
    tables: dict[str, Columns] = {
        "Instruction": _joined([_instructions(*launch) for launch in launches]),
        "DmaPacketAggregated": _joined([_transfers(*launch) for launch in launches]),
        "SemaphoreUpdate": _joined([_updates(*launch) for launch in launches]),
        "Flow": _joined([_flows(program) for program, _ in launches]),
        "SbufAllocation": _joined([_allocations(*launch) for launch in launches]),
        "TensorInfo": _joined([_tensors(program) for program in analysis.programs]),
        "Summary": {name: [value] for name, value in summary_of(analysis.profile).items()},
        "Metadata": _metadata(analysis),
        "Warning": _warnings(analysis),
    }
    fields = [(table, name) for table, columns in tables.items() for name in columns]
    tables["SchemaFields"] = {"table": [row[0] for row in fields], "field": [row[1] for row in fields]}
    return tables


def _joined(parts: Sequence[Columns]) -> Columns:
    return {name: [value for part in parts for value in part[name]] for name in parts[0]} if parts else {}


def _stamps(times: Array, offset: float) -> list[int]:
    return np.rint(times + offset).astype(np.int64).tolist()


def _common(program: ProgramAnalysis, own: Array, offset: float) -> Columns:
    """What instructions and transfers have in common."""
    profile = program.profile
    events, instruction = profile.events, profile.events.instruction[own]
    origins = [profile.origins[origin] or UNNAMED for origin in profile.origin[own].tolist()]
    return {
        "start_ts": _stamps(events.start[own], offset),
        "end_ts": _stamps(events.end[own], offset),
        "duration_ns": (events.end - events.start)[own].tolist(),
        "id": own.tolist(),
        "pc": profile.instructions.position[instruction].tolist(),
        "opcode": [profile.opcodes[code] for code in profile.instructions.opcode[instruction].tolist()],
        "operands": [profile.texts[number] for number in instruction.tolist()],
        "hlo_name": origins,
        "layer": [layer_of(name) for name in origins],
        "subgraph": [profile.name] * len(own),
    }


def _instructions(program: ProgramAnalysis, offset: float) -> Columns:
    profile = program.profile
    own = np.flatnonzero(~profile.is_transfer())
    instruction, table = profile.events.instruction[own], profile.instructions
    streams = [profile.streams[number] for number in profile.stream[own].tolist()]
    transposes = table.transpose_macs[instruction] > 0
    rows = [("TensorMatrix" if s == "tensor" else s.capitalize()) for s in streams]
    columns = _common(program, own, offset) | {"engine": streams, "timeline_track": rows}
    wait, since = program.causes.wait[own], profile.waits
    lengths = np.zeros(len(own))
    waited = (wait >= 0) & (program.causes.dispatch[own] == Cause.SEMAPHORE)
    lengths[waited] = (since.until - since.since)[wait[waited]]
    columns["evt_wait_time_ns"] = lengths.tolist()
    columns |= {name: getattr(table, name)[instruction].tolist() for name in _TRAFFIC}
    flops = 2 * np.where(transposes, table.transpose_macs[instruction], table.macs[instruction])
    columns["raw_flops"] = flops.tolist()
    columns["adjusted_flops"] = (flops * np.maximum(1.0, table.passes[instruction])).tolist()
    columns["tensor_instruction_type"] = [
        ("TRANSPOSE" if transpose else "REGULAR") if stream == "tensor" else ""
        for transpose, stream in zip(transposes.tolist(), streams, strict=True)
    ]
    return columns


def _transfers(program: ProgramAnalysis, offset: float) -> Columns:
    profile = program.profile
    own = np.flatnonzero(profile.is_transfer())
    instruction, table = profile.events.instruction[own], profile.instructions
    columns = _common(program, own, offset)
    size, length = table.bytes[instruction], (profile.events.end - profile.events.start)[own]
    triggers = [ENGINE_NAMES[ENGINES[queue]] for queue in table.queue[instruction].tolist()]
    return columns | {
        "queue_name": [profile.streams[number] for number in profile.stream[own].tolist()],
        "transfer_bytes": size.tolist(),
        "throughput": (size / np.maximum(length, 1e-3)).tolist(),
        "descriptor_count": table.descriptors[instruction].tolist(),
        "contiguous_bytes": table.run_bytes[instruction].tolist(),
        "trigger": triggers,
        "trigger_ts": _stamps(profile.events.dispatched[own], offset),
        "completion_ts": _stamps(profile.events.done[own], offset),
    }


def _updates(program: ProgramAnalysis, offset: float) -> Columns:
    profile = program.profile
    signal = profile.instructions.signal[profile.events.instruction]
    own = np.flatnonzero(signal >= 0)
    own = own[np.argsort(profile.events.done[own], kind="stable")]
    counts = [0] * len(profile.semaphores)
    values: list[int] = []
    for number in signal[own].tolist():
        counts[number] += 1
        values.append(counts[number])
    return {
        "timestamp": _stamps(profile.events.done[own], offset),
        "id": signal[own].tolist(),
        "name": [profile.semaphores[number] for number in signal[own].tolist()],
        "value": values,
        "update_source": [profile.streams[number] for number in profile.stream[own].tolist()],
        "update_operation_type": ["sem_inc"] * len(own),
        "update_trigger_timing": ["complete"] * len(own),
    }


def _flows(program: ProgramAnalysis) -> Columns:
    """What every event that waited for a semaphore waited for."""
    profile, causes = program.profile, program.causes
    own = np.flatnonzero((causes.dispatch == Cause.SEMAPHORE) & (causes.dispatch_event >= 0))
    before, transfer = causes.dispatch_event[own], profile.is_transfer()
    kinds = ("Instruction", "DmaPacketAggregated")
    return {
        "in_id": before.tolist(),
        "out_id": own.tolist(),
        "in_table": [kinds[flag] for flag in transfer[before].tolist()],
        "out_table": [kinds[flag] for flag in transfer[own].tolist()],
        "dependency_type": ["FLOW_DEPENDENCE"] * len(own),
        "gap_time": (profile.events.start[own] - profile.events.end[before]).tolist(),
    }


def _allocations(program: ProgramAnalysis, offset: float) -> Columns:
    profile, values = program.profile, program.memory.sbuf
    instruction = profile.events.instruction[values.event]
    origins = profile.instructions.origin[instruction].tolist()
    return {
        "start_ts": _stamps(values.since, offset),
        "end_ts": _stamps(values.until, offset),
        "start_address": values.low.tolist(),
        "end_address": (values.high - 1).tolist(),
        "partition": values.first_partition.tolist(),
        "partition_count": values.partitions.tolist(),
        "opcode": [profile.opcodes[code] for code in profile.instructions.opcode[instruction].tolist()],
        "hlo_name": [profile.origins[origin] or UNNAMED for origin in origins],
    }


def _tensors(program: ProgramAnalysis) -> Columns:
    loaded = loads_of(program)
    variables = program.profile.variables
    moved = [loaded.get(variable.name, (0, 0))[0] for variable in variables]
    return {
        "name": [variable.name for variable in variables],
        "type": [variable.kind for variable in variables],
        "size": [variable.bytes for variable in variables],
        "load_to_sbuf_total_size_bytes": moved,
        "load_to_sbuf_repeat_factor": [m / v.bytes if v.bytes else 0.0 for m, v in zip(moved, variables, strict=True)],
    }


def _metadata(analysis: Analysis) -> Columns:
    profile = analysis.profile
    figures = {n: f.value for n, f in profile.target.figures.items() if isinstance(f.value, int | float)}
    row = {"model_name": profile.model, "target": profile.target.name, "is_simulation": True}
    return {name: [value] for name, value in (row | figures).items()}


def _warnings(analysis: Analysis) -> Columns:
    advice = advice_of(analysis)
    return {
        "name": [item.rule.name for item in advice],
        "value": [item.value for item in advice],
        "threshold": [item.rule.threshold for item in advice],
        "message": [item.text for item in advice],
        "suggestion": [item.rule.help for item in advice],
    }


def table_rows(columns: Columns) -> Iterator[tuple[Any, ...]]:
    """The rows of a table."""
    return zip(*columns.values(), strict=True)

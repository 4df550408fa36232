"""The machine: runs a core program on data, in simulated time, or both.

Given a `CoreProgram` and its target, a `Machine` decodes it once and runs it any number of times. It owns SBUF, PSUM
and every DRAM variable; whatever of it the program can touch, but inputs, parameters and pinned buffers, is poisoned
before each run, so that a value nobody wrote shows. Pinned buffers are filled when parameters are first given, and
kept. A run leaves behind the outputs and what it took. No order of reads and writes depends on data: the first run's is
kept, and further runs follow it without a clock.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram, DramVariable
from neuron_dialects.target import Target
from runtime.machine.decode import (
    DecodedProgram,
    Entry,
    decode_program,
    memory_limits,
    touched_boxes,
)
from runtime.machine.execution import Step
from runtime.machine.plan import Work, plan_queues
from runtime.machine.schedule import Schedule, replay
from runtime.machine.simulator import STEP_LIMIT, Simulator
from runtime.machine.timing import Timing, timing_of
from runtime.machine.trace import Trace
from runtime.semantics import SEMANTICS, Case
from runtime.semantics.registry import Kernel
from runtime.views import OperandView, Region, view_shape, widened

CACHE_LINE_BYTES = 64
Array = NDArray[Any]
Mode = Literal["functional", "timing", "both"]


@dataclass(frozen=True)
class MachineResult:
    """Outputs by name (empty in timing mode), the timing (None in functional mode), the trace if one was asked for."""

    outputs: dict[str, Array]
    timing: Timing | None
    trace: Trace | None = None


class Machine:
    """One core with a program.

    Raises NeuronError: NX-RUN-004 when the program refers to nothing or the target cannot execute it, NX-RUN-001 when
    an operand with a fixed address leaves its memory. Not thread-safe, but machines may share a decoded program.

    Args:
        program: what it runs.
        target: the target that the program was compiled for.
        decoded: the program, decoded, where somebody has it.
        on_chip: the core's SBUF and PSUM. Machines with the same dictionary are programs on one core, one of which
            runs at a time; by default the machine is alone on its core.
    """

    def __init__(
        self, program: CoreProgram, target: Target, decoded: DecodedProgram | None = None,
        on_chip: dict[str, Region] | None = None,
    ) -> None:  # fmt: skip
        self.program, self.target = program, target
        self._decoded = decode_program(program, target) if decoded is None else decoded
        self._queues = plan_queues(self._decoded)
        self._works = [work for queue in self._queues.values() for work in queue]
        self._arrays: dict[int, Array] = {}
        self._on_chip = {} if on_chip is None else on_chip
        self._touched: list[Region] | None = None
        self._known: dict[int, list[Step]] = {}
        self._files = {variable.id for variable in program.variables if variable.kind == "file"}
        self._constant = {variable.id for variable in program.variables if variable.kind in ("input", "file")}

    @property
    def works(self) -> Sequence[Work]:
        """What the machine does for every entry, queue after queue."""
        return self._works

    @property
    def rings(self) -> tuple[str, ...]:
        """Names of the DMA rings, in the order of their numbers."""
        return self._decoded.rings

    def run(
        self,
        inputs: Mapping[str, Array],
        parameters: Mapping[str, Array],
        mode: Mode = "functional",
        *,
        trace: bool = False,
        step_limit: int = STEP_LIMIT,
    ) -> MachineResult:
        """Run the program once.

        Args:
            inputs, parameters: values of the variables of kind input and file, by variable name, with the variable's
                shape and element type; not looked at in timing mode. Parameters are used in place and must not change.
            mode: "functional" computes outputs, "timing" what the run takes, "both" both. The order of events is the
                same in all; addresses in registers are checked where data is computed.
            trace: keep every instruction and transfer.
            step_limit: control instructions that one queue may execute.

        Raises NeuronError: NX-RUN-001 and -002 for accesses out of bounds, -003 for queues that wait for ever, -005
        when values do not fit their variables, -006 when the step limit is reached.
        """
        functional = mode != "timing"
        if functional:
            self._load(inputs, parameters)
        recorded = Trace() if trace else None
        known = self._known.get(step_limit) if functional else None
        timing = None
        with np.errstate(all="ignore"):
            if known is not None:
                replay(known)
            if known is None or mode != "functional" or trace:
                schedule = Schedule(self._files) if functional and known is None else None
                simulator = self._simulate(schedule, recorded, step_limit)
                timing = timing_of(simulator, self._works, self.program, self.target) if mode != "functional" else None
        outputs = {v.name: self._arrays[v.id].copy() for v in self._variables("output")} if functional else {}
        return MachineResult(outputs, timing, recorded)

    def _simulate(self, schedule: Schedule | None, recorded: Trace | None, step_limit: int) -> Simulator:
        """Run the clock, and the data if there is a schedule, which is kept for further runs with this limit."""
        for work in self._works:
            work.executions = 0
        # Alone, a stage of a pipeline finds all that it waits for.
        arrived = {number: [-inf] * count for number, count in self.program.hand_over_counts.items()}
        simulator = Simulator(
            self._queues, self.program.semaphores, self.target, schedule, recorded, step_limit, arrived=arrived
        )
        try:
            simulator.run()
        finally:
            # What went wrong with the data before the clock did is what the caller hears of.
            if schedule is not None:
                schedule.finish()
        if schedule is not None and schedule.steps is not None:
            self._known = {step_limit: schedule.steps}
        return simulator

    def _variables(self, *kinds: str) -> list[DramVariable]:
        return [variable for variable in self.program.variables if variable.kind in kinds]

    # -- memory -------------------------------------------------------------------------------------------------------

    def _load(self, inputs: Mapping[str, Array], parameters: Mapping[str, Array]) -> None:
        """Fill the memories for a run; the first one, or one with other parameters, also binds the operands to them."""
        values = {v.id: fitting(v, inputs) for v in self._variables("input")}
        self._place(parameters)
        self._refresh(values)

    def _place(self, parameters: Mapping[str, Array]) -> None:
        """Bind operands to the memories, unless they are bound to these parameters already."""
        files = {v.id: fitting(v, parameters) for v in self._variables("file")}
        bound = self._touched is not None and all(
            _same_memory(self._arrays[key], value) for key, value in files.items()
        )
        if not bound:
            self._allocate(files)
            self._bind()

    def _refresh(self, values: Mapping[int, Array], kept: Collection[int] = ()) -> None:
        """Poison what a run may write, but the variables in `kept`, and set inputs to `values`."""
        for region in self._touched or ():
            region.poison()
        for variable in self.program.variables:
            if variable.id not in self._constant and variable.id not in kept:
                Region.of_array(self._arrays[variable.id]).poison()
        for key, value in values.items():
            np.copyto(self._arrays[key], value)

    def _allocate(self, files: Mapping[int, Array]) -> None:
        size = sum(variable.size_bytes for variable in self.program.variables)
        if size > int(self.target.dram_bytes):
            raise NeuronError(
                "NX-MEM-001", f"the program's DRAM variables have {size} bytes, the core has {self.target.dram_bytes}"
            )
        self._arrays = {
            v.id: files[v.id] if v.kind == "file" else np.empty(v.shape, dtype_by_name(v.dtype).numpy)
            for v in self.program.variables
        }
        if not self._on_chip:
            partitions = int(self.target.partitions)
            limits = memory_limits(self.target)
            self._on_chip.update({space: _unwritten(partitions, size, space) for space, size in limits.items()})
        if self._touched is None:
            boxes = touched_boxes(self._decoded)
            kept = {"sbuf": self._decoded.pinned_bytes}
            self._touched = [
                _part(self._on_chip[space], rows, (max(low, kept.get(space, 0)), high))
                for space, (rows, (low, high)) in boxes.items()
                if high > kept.get(space, 0)
            ]

    def _bind(self) -> None:
        self._known = {}
        dram = self._regions()
        for work in self._works:
            if work.entry.instruction is not None:
                work.kernel, work.views = self._bound(work.entry, dram)
        with np.errstate(all="ignore"):
            for entry in self._decoded.pinned:
                kernel, views = self._bound(entry, dram)
                kernel({role: view(()) for role, view in views}, {})()

    def _regions(self) -> dict[int, Region]:
        """The DRAM variables as operands see them."""
        return {v.id: Region.of_array(self._arrays[v.id], v.name) for v in self.program.variables}

    def _bound(self, entry: Entry, dram: Mapping[int, Region]) -> tuple[Kernel, tuple[tuple[str, OperandView], ...]]:
        """Kernel of one entry and the views of its operands."""
        instruction = entry.instruction
        assert instruction is not None
        views: list[tuple[str, OperandView]] = []
        dtypes: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for access in entry.accesses:
            operand = instruction.operands[access.role]
            pattern = widened(instruction.name, access.role, operand.pattern, instruction.fields)
            region = self._on_chip[operand.space] if operand.space != "dram" else dram[operand.buffer or 0]
            views.append((access.role, OperandView(region, pattern, operand.dtype, access.operand, entry.node)))
            dtypes[access.role], shapes[access.role] = operand.dtype, view_shape(pattern)
        constant = frozenset(a.role for a in entry.accesses if a.memory in self._constant)
        case = Case(instruction.name, instruction.engine, dtypes, shapes, instruction.fields, constant)
        return SEMANTICS[instruction.name](case), tuple(views)


def _unwritten(partitions: int, row_bytes: int, label: str) -> Region:
    """An on-chip memory that takes host memory only where it is touched, which is poisoned before each run."""
    # Rows an odd number of cache lines apart: the same bytes of all partitions must not share a few sets of the caches.
    stride = (-(-row_bytes // CACHE_LINE_BYTES) | 1) * CACHE_LINE_BYTES
    return Region(np.empty(partitions * stride, np.uint8), 0, partitions, row_bytes, stride, label)


def _part(whole: Region, partitions: tuple[int, int], extent: tuple[int, int]) -> Region:
    """Bytes `extent` of the rows of `partitions` of an on-chip memory."""
    base = whole.base + partitions[0] * whole.row_stride + extent[0]
    rows, row_bytes = partitions[1] - partitions[0], extent[1] - extent[0]
    return Region(whole.memory, base, rows, row_bytes, whole.row_stride, whole.label)


def _same_memory(own: Array, given: Array) -> bool:
    """Whether two arrays of one shape and element type are the same bytes in memory."""
    return own.ctypes.data == given.ctypes.data


def fitting(variable: DramVariable, given: Mapping[str, Array]) -> Array:
    """The value given for a variable; NX-RUN-005 when it is missing or of another shape or element type."""
    value = given.get(variable.name)
    if value is None:
        raise NeuronError("NX-RUN-005", f"no value given for {variable.kind} {variable.name}")
    dtype = dtype_by_name(variable.dtype).numpy
    if value.shape != variable.shape or value.dtype != dtype:
        given_type, needed = f"{value.dtype}{list(value.shape)}", f"{dtype}{list(variable.shape)}"
        raise NeuronError("NX-RUN-005", f"{variable.kind} {variable.name} is {given_type}, must be {needed}")
    return np.asarray(value, order="C")

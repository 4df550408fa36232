"""A program as one stage of a pipeline: a machine that runs beside others and shares with them what is handed over.

Given the memories of its core and those of the tensors between stages, a `StageMachine` fills its own memories before
each run and makes the simulator of that run. The clock and the order of runs are `runtime.machine.pipeline`'s.
"""

from collections.abc import Hashable, Mapping, MutableMapping
from dataclasses import dataclass
from math import lcm

import numpy as np

from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import Target
from runtime.machine.decode import MemoryKey
from runtime.machine.machine import Array, Machine, fitting
from runtime.machine.plan import Work
from runtime.machine.schedule import NamedSchedule, Schedule
from runtime.machine.simulator import Neighbours, Simulator
from runtime.machine.trace import Trace
from runtime.semantics.registry import Kernel
from runtime.views import OperandView, Region

Binding = tuple[Work, Kernel, tuple[tuple[str, OperandView], ...]]
"""A work with the kernel and the views that its executions use."""


@dataclass(frozen=True)
class Tensor:
    """A variable that is handed over: the program that makes it, its variable there, and how many buffers it has."""

    maker: int
    variable: int
    buffers: int

    def name(self, run: int) -> Hashable:
        """The buffer of a run, among those of all tensors of the pipeline."""
        return ("handed over", self.maker, self.variable, run % self.buffers)


class StageMachine(Machine):
    """Program `number` of a pipeline, on core `core`.

    Args:
        on_chip: SBUF and PSUM of the core, by core.
        between: the buffers of all tensors that are handed over, by name; made by the first stage that needs them.
    """

    def __init__(
        self,
        number: int,
        core: int,
        program: CoreProgram,
        target: Target,
        on_chip: dict[str, Region],
        between: MutableMapping[Hashable, Array],
    ) -> None:
        super().__init__(program, target, on_chip=on_chip)
        self.number, self.core, self._between = number, core, between
        kinds = {variable.id: variable.kind for variable in program.variables}
        self.tensors = {
            row.variable: Tensor(number, row.variable, row.buffers)
            if kinds[row.variable] == "output"
            else Tensor(row.peer, row.peer_variable, row.buffers)
            for row in program.hand_overs
        }
        self._phases = lcm(*(tensor.buffers for tensor in self.tensors.values()))
        self._bindings: dict[int, list[Binding]] = {}

    def transfers(self, variable: int) -> list[Work]:
        """The transfers that take part in the hand-over of a variable."""
        entries = {id(entry) for entry in self._decoded.handing_over(variable)}
        return [work for work in self.works if id(work.entry) in entries]

    # -- one run ------------------------------------------------------------------------------------------------------

    def begin(self, run: int, inputs: Mapping[str, Array], parameters: Mapping[str, Array]) -> None:
        """Fill the memories for run `run`, with the inputs that do not come from another stage."""
        values: dict[int, Array] = {}
        for variable in self._variables("input"):
            if variable.id in self.tensors:
                continue
            if variable.name not in inputs and not self.transfers(variable.id):
                continue
            values[variable.id] = fitting(variable, inputs)
        self._place(parameters)
        for work, kernel, views in self._of_phase(run % self._phases):
            work.kernel, work.views = kernel, views
        self._refresh(values, self.tensors)

    def simulator(
        self,
        run: int,
        start_ns: float,
        arrived: Mapping[int, list[float]],
        schedule: Schedule | None,
        neighbours: Neighbours,
        step_limit: int,
        trace: Trace | None = None,
    ) -> Simulator:
        """The clock of run `run`, which begins at `start_ns`."""
        named = None if schedule is None else NamedSchedule(schedule, self._names(run))
        return Simulator(
            self._queues, self.program.semaphores, self.target, named, trace, step_limit,
            arrived=arrived, start_ns=start_ns, neighbours=neighbours,
        )  # fmt: skip

    def output(self, name: str) -> Array:
        """A copy of an output of the run that has just ended."""
        variable = next(v for v in self._variables("output") if v.name == name)
        return self._arrays[variable.id].copy()

    # -- memories -----------------------------------------------------------------------------------------------------

    def _names(self, run: int) -> dict[MemoryKey, Hashable]:
        """What the memories of the program are called among those of all, in a run."""
        names: dict[MemoryKey, Hashable] = {space: (space, self.core) for space in ("sbuf", "psum")}
        names.update({v.id: ("dram", self.number, v.id) for v in self.program.variables})
        return names | {id_: tensor.name(run) for id_, tensor in self.tensors.items()}

    def _buffers(self, run: int) -> dict[int, Array]:
        """The buffers that a run finds in place of the variables that are handed over."""
        found: dict[int, Array] = {}
        for variable in self.program.variables:
            tensor = self.tensors.get(variable.id)
            if tensor is not None:
                empty = np.zeros(variable.elements, dtype_by_name(variable.dtype).numpy)
                flat = self._between.setdefault(tensor.name(run), empty)
                if flat.dtype != empty.dtype or flat.size != empty.size:
                    raise NeuronError("NX-RUN-004", f"variable {variable.name} is handed over as another type or size")
                found[variable.id] = flat.reshape(variable.shape)
        return found

    def _allocate(self, files: Mapping[int, Array]) -> None:
        super()._allocate(files)
        self._arrays |= self._buffers(0)
        self._bindings = {}

    def _of_phase(self, phase: int) -> list[Binding]:
        """The works that touch what is handed over, bound to the buffers of a run."""
        if phase not in self._bindings:
            self._bindings[phase] = []
            self._arrays |= self._buffers(phase)
            dram = self._regions()
            for work in self.works:
                if work.entry.instruction is not None and any(a.memory in self.tensors for a in work.entry.accesses):
                    self._bindings[phase].append((work, *self._bound(work.entry, dram)))
        self._arrays |= self._buffers(phase)
        return self._bindings[phase]

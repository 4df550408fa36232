"""Several cores at once: the stages of a pipeline over a number of requests, by one clock, with data or without.

Each core runs its programs one at a time, each run in a simulator of its own that begins when the core is done with the
one before. What couples the cores are the semaphores of hand-overs: a transfer of one core that is complete is told to
the core that waits for it, and transfers to another chip take the link of their chip in turn. Events of all cores are
taken in the order of their times, so that data is read and written as the machine would: a missing wait shows.

A core with one program begins with a request as soon as it is free, and the program waits for what it needs. On a core
with several, a program begins when all that it waits for is there, or it could keep the core from the one that would
let it go on; of those that can begin, the one of the latest stage.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

import numpy as np

from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.hand_over import peer_problem
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import Target
from runtime.machine.machine import Array
from runtime.machine.plan import Work
from runtime.machine.schedule import Schedule
from runtime.machine.simulator import STEP_LIMIT, Simulator
from runtime.machine.stage import StageMachine
from runtime.views import Region

_DELIVER, _ADMIT, _FREE = range(3)
"""Kinds of events between cores, in the order of events at one time: a hand-over is complete, a request comes, a core
may begin something.
"""


@dataclass(frozen=True)
class StageRun:
    """One run of a program: for which request, on which core, from when to when (ns)."""

    program: int
    core: int
    request: int
    start_ns: float
    end_ns: float


@dataclass
class PipelineRun:
    """What happened: runs by request and program; of each request, when it was let in and when it was done,
    and the outputs of its programs that were asked for (none in timing mode).
    """

    runs: list[StageRun] = field(default_factory=list[StageRun])
    admitted_ns: list[float] = field(default_factory=list[float])
    finished_ns: list[float] = field(default_factory=list[float])
    outputs: list[dict[tuple[int, str], Array]] = field(default_factory=list[dict[tuple[int, str], Array]])

    @property
    def steady_interval_ns(self) -> float:
        """Time from one request's end to the next one's, without a fifth of the requests at either end."""
        ends = sorted(self.finished_ns)
        first, last = len(ends) // 5, len(ends) - 1 - len(ends) // 5
        return (ends[last] - ends[first]) / (last - first) if last > first else ends[-1]

    @property
    def latencies_ns(self) -> list[float]:
        """Of each request, the time from when it was let in to its end."""
        return [end - start for start, end in zip(self.admitted_ns, self.finished_ns, strict=True)]


@dataclass(frozen=True)
class StageWork:
    """What a pipeline runs: `inputs` of each request that do not come from another stage, by program and by variable;
    `parameters` by program; names of the outputs of each program that are wanted. Nothing of it in timing mode.
    """

    inputs: Sequence[Sequence[Mapping[str, Array]]]
    parameters: Sequence[Mapping[str, Array]]
    wanted: Sequence[Sequence[str]]


class Pipeline:
    """The stages of a pipeline on their cores.

    Args:
        programs: numbered as their hand-overs name them.
        cores: of each program, its core, from 0.
        chips: of each core, its chip.

    Raises NX-RUN-004 for programs that do not fit together, and what `Machine` raises.
    """

    def __init__(
        self, programs: Sequence[CoreProgram], target: Target, cores: Sequence[int], chips: Sequence[int]
    ) -> None:
        on_chip: list[dict[str, Region]] = [{} for _ in chips]
        between: dict[Hashable, Array] = {}
        self._machines = [
            StageMachine(number, core, program, target, on_chip[core], between)
            for number, (program, core) in enumerate(zip(programs, cores, strict=True))
        ]
        if problem := peer_problem(programs):
            raise NeuronError("NX-RUN-004", f"program {problem[0]}: {problem[1]}")
        self._target, self._chips = target, chips
        for machine in self._machines:
            self._connect(machine)

    def _connect(self, machine: StageMachine) -> None:
        """Mark the transfers that others wait for, and those that take a link."""
        chip, rate = self._chips[machine.core], float(self._target.neuronlink_bytes_per_ns)
        kinds = {variable.id: variable.kind for variable in machine.program.variables}
        for variable in machine.tensors:
            rows = [row for row in machine.program.hand_overs if row.variable == variable]
            others = {self._chips[self._machines[row.peer].core] for row in rows} - {chip}
            for work in machine.transfers(variable):
                work.hands_over = True
                if kinds[variable] == "output":
                    work.link_ns += len(others) * work.bytes / rate

    def run(
        self, requests: int, work: StageWork | None = None, inside: int | None = None, step_limit: int = STEP_LIMIT
    ) -> PipelineRun:
        """Stream requests through the stages.

        Args:
            requests: how many.
            work: the data; none is computed without.
            inside: requests that are in the pipeline at a time; any number by default.
            step_limit: control instructions that one queue may execute in a run.

        Raises NX-RUN-003 when the stages wait for each other for ever, NX-RUN-004 when a run hands over in other
        numbers of transfers than the programs declare, and what `Machine.run` raises.
        """
        stream = _Stream(self._machines, self._chips, self._target, requests, work, step_limit)
        with np.errstate(all="ignore"):
            return stream.run(requests if inside is None else inside)


class _Link:
    """The way from one chip to others: one transfer at a time."""

    def __init__(self, start_ns: float) -> None:
        self._start_ns, self._free_ns = start_ns, 0.0

    def take(self, start: float, duration: float) -> float:
        """Take the link as soon as it is free from `start` on; gives when the transfer has arrived."""
        begin = max(start, self._free_ns)
        self._free_ns = begin + duration
        return begin + self._start_ns + duration


class _Stage:
    """A program with its machine. `arrived`: semaphore that others count up -> the times of increments, less what runs
    took away; `targets`: transfer -> (program, semaphore) that it counts up; `declared`: how often a run does, as the
    others say; `sent`: how often the present one has.
    """

    def __init__(self, machine: StageMachine) -> None:
        self.machine, self.next_run = machine, 0
        self.arrived: dict[int, list[float]] = {}
        self.targets: dict[int, list[tuple[int, int]]] = {}
        self.declared: Counter[tuple[int, int]] = Counter()
        self.sent: Counter[tuple[int, int]] = Counter()

    def connect(self, programs: Sequence[CoreProgram]) -> None:
        """Free buffers are there from the beginning; transfers count up what the other sides declare."""
        kinds = {variable.id: variable.kind for variable in self.machine.program.variables}
        for row in self.machine.program.hand_overs:
            free = row.count * row.buffers if kinds[row.variable] == "output" else 0
            self.arrived.setdefault(row.semaphore, []).extend([-inf] * free)
            other = programs[row.peer].other_side(self.machine.number, row)
            self.declared[row.peer, other.semaphore] += other.count
            for work in self.machine.transfers(row.variable):
                self.targets.setdefault(id(work), []).append((row.peer, other.semaphore))

    @property
    def missing(self) -> list[str]:
        """What has not come yet that a run waits for, in words."""
        program = self.machine.program
        return [
            f"{program.semaphores[semaphore]} >= {count} (it is {len(self.arrived[semaphore])})"
            for semaphore, count in program.hand_over_counts.items()
            if len(self.arrived[semaphore]) < count
        ]

    def end_run(self) -> None:
        """Take away what the run waited for; NX-RUN-004 if it has not come, or if the run told others too much."""
        for semaphore, count in self.machine.program.hand_over_counts.items():
            if len(self.arrived[semaphore]) < count:
                name = self.machine.program.semaphores[semaphore]
                raise NeuronError("NX-RUN-004", f"program {self.machine.number} does not wait for its semaphore {name}")
            del self.arrived[semaphore][:count]
        for target, declared in self.declared.items():
            if self.sent[target] != declared:
                raise NeuronError(
                    "NX-RUN-004",
                    f"a run of program {self.machine.number} hands over to program {target[0]} in {self.sent[target]}"
                    f" transfers, which expects {declared}",
                )
        self.sent.clear()
        self.next_run += 1


class _Core:
    """A core, as the simulations of its programs see their neighbours. `running`: the stage that has it now, in
    `simulator` since `start_ns`; it is free from `free_ns` on. `scheduled_ns`: when its next step is to be taken.
    """

    def __init__(self, stream: "_Stream", stages: list[_Stage], link: _Link) -> None:
        self._stream, self.stages, self._link = stream, stages, link
        self.running: _Stage | None = None
        self.simulator: Simulator | None = None
        self.free_ns = self.start_ns = 0.0
        self.scheduled_ns: float | None = None

    def completed(self, work: Work, time: float) -> None:
        """A transfer of what is handed over will be complete."""
        assert self.running is not None
        for target in self.running.targets[id(work)]:
            self.running.sent[target] += 1
            self._stream.push(time, _DELIVER, target)

    def link(self, start: float, duration: float) -> float:
        """A transfer to another chip begins; gives when it has arrived there."""
        return self._link.take(start, duration)

    def choice(self, admitted: int) -> _Stage | None:
        """The stage that may begin, of the first `admitted` requests."""
        able = [stage for stage in self.stages if stage.next_run < admitted]
        if len(self.stages) > 1:
            able = [stage for stage in able if not stage.missing]
        return max(able, key=lambda stage: stage.machine.number, default=None)


class _Stream:
    """One streaming of requests through the stages of a pipeline."""

    def __init__(
        self,
        machines: Sequence[StageMachine],
        chips: Sequence[int],
        target: Target,
        requests: int,
        work: StageWork | None,
        step_limit: int,
    ) -> None:
        self._work, self._step_limit = work, step_limit
        self._schedule = None if work is None else Schedule(frozenset())
        self._stages = [_Stage(machine) for machine in machines]
        for stage in self._stages:
            stage.connect([machine.program for machine in machines])
        links = {chip: _Link(float(target.neuronlink_start_ns)) for chip in chips}
        self._cores = [
            _Core(self, [stage for stage in self._stages if stage.machine.core == core], links[chip])
            for core, chip in enumerate(chips)
        ]
        # Nothing that a core does reaches another one sooner; where data is computed, all happens in order.
        self._slack_ns = float(target.dma_completion_ns) if work is None else 0.0
        self._events: list[tuple[float, int, int, tuple[int, int]]] = []
        self._steps: list[tuple[float, int]] = []
        self._sequence = 0
        self._left = [len(machines)] * requests
        self._result = PipelineRun([], [], [0.0] * requests, [{} for _ in range(requests)])

    def push(self, time: float, kind: int, about: tuple[int, int]) -> None:
        """Add an event between cores."""
        self._sequence += 1
        heappush(self._events, (time, kind, self._sequence, about))

    def run(self, inside: int) -> PipelineRun:
        """Stream until nothing happens any more."""
        for _ in range(min(inside, len(self._left))):
            self.push(0.0, _ADMIT, (0, 0))
        try:
            while self._events or self._steps:
                if self._events and (not self._steps or self._events[0][0] <= self._steps[0][0]):
                    time, kind, _, about = heappop(self._events)
                    self._event(time, kind, about)
                else:
                    time, number = heappop(self._steps)
                    if self._cores[number].scheduled_ns == time:
                        self._advance(self._cores[number])
        finally:
            # What went wrong with the data before the clock did is what the caller hears of.
            if self._schedule is not None:
                self._schedule.finish()
        if any(self._left):
            raise self._deadlock()
        self._result.runs.sort(key=lambda run: (run.request, run.program))
        return self._result

    def _event(self, time: float, kind: int, about: tuple[int, int]) -> None:
        """A hand-over is complete, a request is let in, or a core is free."""
        if kind == _ADMIT and len(self._result.admitted_ns) < len(self._left):
            self._result.admitted_ns.append(time)
            for core in self._cores:
                self._begin(core, time)
        elif kind == _FREE:
            self._begin(self._cores[about[0]], time)
        elif kind == _DELIVER:
            stage = self._stages[about[0]]
            core = self._cores[stage.machine.core]
            if core.running is stage and core.simulator is not None:
                core.simulator.signal(about[1], time)
                self._settle(core)
            else:
                stage.arrived[about[1]].append(time)
                self._begin(core, time)

    # -- cores --------------------------------------------------------------------------------------------------------

    def _begin(self, core: _Core, time: float) -> None:
        """Let a core begin something, if it is free and there is something."""
        if core.running is not None or time < core.free_ns:
            return
        stage = core.choice(len(self._result.admitted_ns))
        if stage is None:
            return
        machine, run = stage.machine, stage.next_run
        if self._work is not None and self._schedule is not None:
            self._schedule.flush()
            machine.begin(run, self._work.inputs[run][machine.number], self._work.parameters[machine.number])
        core.running, core.start_ns, core.scheduled_ns = stage, time, None
        core.simulator = machine.simulator(run, time, stage.arrived, self._schedule, core, self._step_limit)
        core.simulator.begin()
        self._settle(core)

    def _advance(self, core: _Core) -> None:
        """Take a core's steps up to the next thing that another one does."""
        simulator = core.simulator
        assert simulator is not None
        limit = self._steps[0][0] + self._slack_ns if self._steps else inf
        while (time := simulator.next_ns) is not None and time <= limit:
            if self._events and self._events[0][0] <= time:
                break
            simulator.step()
        core.scheduled_ns = None
        self._settle(core)

    def _settle(self, core: _Core) -> None:
        """Note when a core goes on, or that its run is over."""
        simulator = core.simulator
        assert simulator is not None
        time = simulator.next_ns
        if time is not None:
            if core.scheduled_ns is None or time < core.scheduled_ns:
                core.scheduled_ns = time
                heappush(self._steps, (time, self._cores.index(core)))
        elif simulator.is_over:
            self._end(core, simulator)

    def _end(self, core: _Core, simulator: Simulator) -> None:
        """The run of a core is over."""
        stage = core.running
        assert stage is not None
        simulator.finish()
        end, request, number = simulator.end_ns, stage.next_run, stage.machine.number
        stage.end_run()
        if self._work is not None and self._schedule is not None:
            self._schedule.flush()
            for name in self._work.wanted[number]:
                self._result.outputs[request][number, name] = stage.machine.output(name)
        self._result.runs.append(StageRun(number, stage.machine.core, request, core.start_ns, end))
        core.running = core.simulator = core.scheduled_ns = None
        core.free_ns = end
        self.push(end, _FREE, (stage.machine.core, 0))
        finished = self._result.finished_ns
        finished[request] = max(finished[request], end)
        self._left[request] -= 1
        if self._left[request] == 0:
            self.push(finished[request], _ADMIT, (0, 0))

    def _deadlock(self) -> NeuronError:
        """Who waits for what."""
        parts: list[str] = []
        for number, core in enumerate(self._cores):
            if core.running is not None and core.simulator is not None:
                place = f"core {number} in program {core.running.machine.number}"
                parts += [f"{place}: {text}" for text in core.simulator.stuck()]
            for stage in core.stages:
                if core.running is None and stage.next_run < len(self._result.admitted_ns):
                    text = ", ".join(stage.missing)
                    parts.append(f"core {number} before program {stage.machine.number} for {text}")
        return NeuronError("NX-RUN-003", f"stages of a pipeline wait for each other for ever: {'; '.join(parts)}")

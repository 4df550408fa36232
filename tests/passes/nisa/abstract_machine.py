"""Executes nisa programs of any form down to addresses and awaited counts, without data.

Independent of the passes: `program_order` walks loops and counts slots one iteration after the other, `queue_traces`
runs the queues of forms 4 and 5 including their registers and branches. `Ordering` then decides by reachability in the
graph of all events whether conflicting accesses are ordered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import IntegerAttr
from xdsl.dialects.func import FuncOp
from xdsl.dialects.scf import ForOp
from xdsl.ir import Block, Operation, SSAValue

from neuron_dialects.access import Affine
from neuron_dialects.access_ops import dtype_name_of, space_of
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.isa import INSTRUCTIONS
from neuron_dialects.nisa import AllocOp, ControlOp, NisaOp, QueueOp, SlotOp

MAX_STEPS = 1_000_000


@dataclass(frozen=True)
class Touch:
    """A box in memory: (memory, partitions, bytes) first and last included."""

    memory: Any
    partitions: tuple[int, int]
    bytes: tuple[int, int]
    writes: bool

    def conflicts(self, other: Touch) -> bool:
        return (
            (self.writes or other.writes)
            and self.memory == other.memory
            and self.partitions[0] <= other.partitions[1]
            and other.partitions[0] <= self.partitions[1]
            and self.bytes[0] <= other.bytes[1]
            and other.bytes[0] <= self.bytes[1]
        )


@dataclass(frozen=True)
class Step:
    """One executed instruction, with every number resolved. `op` is where it comes from."""

    name: str
    engine: str
    stream: str
    touches: tuple[Touch, ...]
    patterns: tuple[Any, ...]
    fields: tuple[tuple[str, Any], ...]
    waits: tuple[tuple[str, int], ...]
    signal: str | None
    op: NisaOp

    @property
    def content(self) -> tuple[Any, ...]:
        """What must not change when the program is rewritten."""
        waits = tuple(sorted((name, max(0, value)) for name, value in self.waits if value > 0))
        return self.name, self.stream, self.touches, self.patterns, self.fields, waits, self.signal

    def conflicts(self, other: Step) -> bool:
        return any(a.conflicts(b) for a in self.touches for b in other.touches)


class _Run:
    """Resolves instructions; `slots` counts how often each slot was executed."""

    def __init__(self, dram_names: dict[SSAValue, Any]) -> None:
        self.dram_names = dram_names

    def step(self, op: NisaOp, value: Callable[[Affine], int]) -> Step:
        touches: list[Touch] = []
        patterns: list[Any] = []
        definition = INSTRUCTIONS[op.DEFINITION.name]
        for (role, pattern), buffer in zip(op.access.data, op.buffers, strict=True):
            size = dtype_by_name(dtype_name_of(buffer)).size_bytes
            offset = value(pattern.offset)
            low, high = pattern.extent
            start = offset * size
            memory: Any = space_of(buffer)
            partitions = (0, 0)
            if memory == "dram":
                memory = self.dram_names[buffer]
            else:
                owner = buffer.owner
                assert isinstance(owner, AllocOp) and owner.address is not None
                start += owner.address.value.data
                first = value(pattern.partition)
                partitions = (first, first + pattern.partitions - 1)
            box = (start + low * size, start + (high + 1) * size - 1)
            touches.append(Touch(memory, partitions, box, definition.operand(role).writes))
            patterns.append((role, pattern.dims, pattern.partitions))
        fields = tuple((k, bool(value(v)) if isinstance(v, Affine) else v) for k, v in op.values.items())
        sync = op.sync.data if op.sync is not None else None
        waits = tuple((name, value(count)) for name, count in sync.waits) if sync else ()
        stream = op.ring.data if op.is_dma and op.ring is not None else op.engine.data
        return Step(
            op.DEFINITION.name, op.engine.data, stream, tuple(touches), tuple(patterns), fields, waits,
            sync.signal if sync else None, op,
        )  # fmt: skip


def _dram_names(function: FuncOp) -> dict[SSAValue, Any]:
    names: dict[SSAValue, Any] = {argument: ("argument", argument.index) for argument in function.body.block.args}
    for op in function.walk():
        for result in op.results:
            names.setdefault(result, ("scratch", len(names)))
    return names


def _constant(value: SSAValue) -> int:
    owner = value.owner
    assert isinstance(owner, ConstantOp) and isinstance(owner.value, IntegerAttr)
    return owner.value.value.data


def _walk(
    block: Block,
    environment: dict[SSAValue, int],
    slots: dict[tuple[Operation, tuple[int, ...]], int],
    run: _Run,
    loops: tuple[int, ...] = (),
) -> Iterator[Step]:
    """`slots`: executions of each slot, for the iterations of loops around it in which it begins to count anew."""
    for op in block.ops:
        if isinstance(op, ForOp):
            for index in range(_constant(op.ub)):
                environment[op.body.block.args[0]] = index
                yield from _walk(op.body.block, environment, slots, run, (*loops, index))
        elif isinstance(op, SlotOp):
            key = op, loops[: op.outer_loops]
            environment[op.slot] = slots.get(key, 0) % op.copies.value.data
            slots[key] = slots.get(key, 0) + 1
        elif isinstance(op, NisaOp):
            indices = list(op.indices)
            yield run.step(op, lambda a, i=indices: a.value({k: environment[v] for k, v in enumerate(i)}))


def program_order(function: FuncOp) -> list[Step]:
    """All instructions of a function in program order (forms 2 and 3)."""
    return list(_walk(function.body.block, {}, {}, _Run(_dram_names(function))))


def queue_traces(function: FuncOp) -> dict[str, list[Step]]:
    """By engine, what its queue executes (forms 4 and 5)."""
    run = _Run(_dram_names(function))
    traces: dict[str, list[Step]] = {}
    for op in function.body.block.ops:
        if isinstance(op, QueueOp):
            flat = any(isinstance(inner, ControlOp) for inner in op.body.block.ops)
            steps = _run_flat(op, run) if flat else list(_walk(op.body.block, {}, {}, run))
            traces[op.engine.data] = steps
    return traces


def _run_flat(queue: QueueOp, run: _Run) -> list[Step]:
    ops = list(queue.body.block.ops)
    labels: dict[int, int] = {}
    for place, op in enumerate(ops):
        if isinstance(op, ControlOp) and op.kind.data == "label":
            labels[op.operand_numbers[0]] = place
    registers: dict[int, int] = {}
    steps: list[Step] = []
    at = executed = 0
    while at < len(ops):
        op = ops[at]
        at += 1
        executed += 1
        assert executed < MAX_STEPS, "the queue does not end"
        if isinstance(op, NisaOp):
            assert not op.indices
            steps.append(run.step(op, lambda a: a.value(registers)))
            continue
        assert isinstance(op, ControlOp)
        numbers = op.operand_numbers
        match op.kind.data:
            case "reg_move":
                registers[numbers[0]] = numbers[1]
            case "reg_add":
                registers[numbers[0]] = registers[numbers[1]] + numbers[2]
            case "reg_multiply":
                registers[numbers[0]] = registers[numbers[1]] * numbers[2]
            case "reg_add_register":
                registers[numbers[0]] = registers[numbers[1]] + registers[numbers[2]]
            case "reg_rotate":
                moved = registers[numbers[0]] + numbers[1]
                registers[numbers[0]] = 0 if moved == numbers[2] else moved
            case "branch_less":
                if registers[numbers[0]] < numbers[1]:
                    at = labels[numbers[2]]
            case "label":
                pass
            case other:
                raise AssertionError(f"unexpected control instruction {other}")
    return steps


def run_to_the_end(traces: dict[str, list[Step]]) -> int:
    """Execute all queues side by side; returns how many instructions are left when nobody can go on.

    Transfers complete as late as possible: only when every queue waits.
    """
    counts: dict[str, int] = {}
    position = dict.fromkeys(traces, 0)
    transfers: dict[str, list[Step]] = {}

    def complete(step: Step) -> None:
        if step.signal is not None:
            counts[step.signal] = counts.get(step.signal, 0) + 1

    def may_start(step: Step) -> bool:
        return all(counts.get(name, 0) >= value for name, value in step.waits)

    going = True
    while going:
        going = False
        for engine, steps in traces.items():
            while position[engine] < len(steps) and may_start(steps[position[engine]]):
                step = steps[position[engine]]
                position[engine] += 1
                going = True
                if step.op.is_dma:
                    transfers.setdefault(step.stream, []).append(step)
                else:
                    complete(step)
        for waiting in transfers.values():
            if waiting:
                complete(waiting.pop(0))
                going = True
    return sum(len(steps) - position[engine] for engine, steps in traces.items())


class Ordering:
    """Which instructions of a synchronised program are ordered, from program order, queues, rings and waits."""

    def __init__(self, steps: list[Step], removed: tuple[NisaOp, int] | None = None) -> None:
        """`removed`: (op, number of its wait) that is to be ignored."""
        self.steps = steps
        self._done: list[int] = []
        self._starts: list[int] = []
        last_trigger: dict[str, int] = {}
        last_done: dict[str, int] = {}
        signals: dict[str, list[int]] = {}
        for number, step in enumerate(steps):
            # Bit n of a reach is set when instruction n is done for sure.
            trigger = last_trigger.get(step.engine, 0)
            for index, (name, value) in enumerate(step.waits):
                if removed == (step.op, index) or value <= 0:
                    continue
                assert value <= len(signals.get(name, ())), "a wait for something that comes later blocks for ever"
                trigger |= self._done[signals[name][value - 1]]
            last_trigger[step.engine] = trigger
            start = trigger | last_done.get(step.stream, 0)
            self._starts.append(start)
            done = start | 1 << number
            last_done[step.stream] = done
            self._done.append(done)
            if step.signal is not None:
                assert step.signal == step.stream
                signals.setdefault(step.signal, []).append(number)

    def races(self) -> list[tuple[int, int]]:
        """Conflicting instructions that may run in any order."""
        return [
            (first, second)
            for second, step in enumerate(self.steps)
            for first in range(second)
            if not self._starts[second] >> first & 1 and self.steps[first].conflicts(step)
        ]

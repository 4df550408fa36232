"""The data of a run, computed apart from its clock: what is read and written, in the machine's order.

No instruction's time depends on data, so the simulator only notes each execution's reads and writes. They are carried
out a long run of them at a time; if that was all of the program, it is kept for further runs, which need no simulator.
Multiplications that add to one another are computed together (`products`); sums stay float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuron_dialects.errors import NeuronError
from runtime.machine.decode import MemoryKey
from runtime.machine.plan import Work
from runtime.machine.products import (
    Box,
    Content,
    Group,
    Listing,
    Product,
    Slab,
    Slabs,
    Touches,
    find_groups,
    idle_constants,
)
from runtime.semantics.numerics import Read
from runtime.semantics.registry import Array, Effect
from runtime.semantics.tensor_engine import PRODUCT, product_reader, product_writer

COPY = "dma_copy"
NOBODY = -1
MOST_STEPS = 1 << 17
"""Reads and writes that are carried out, and kept, together."""

Operands = tuple[dict[str, Array], dict[str, int]]
"""Views and loop-dependent fields of one execution."""
Step = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its arguments."""


@dataclass(slots=True, eq=False)
class Execution:
    """One execution of an instruction. `shifts`: bytes by which registers move each of its accesses; `names`: what the
    memories of its program are called among those of several cores.
    """

    work: Work
    operands: Operands
    shifts: tuple[int, ...]
    names: Mapping[MemoryKey, Hashable] | None = None

    def box(self, number: int) -> Box:
        """What access `number` touches."""
        access, shift = self.work.entry.accesses[number], self.shifts[number]
        memory = access.memory if self.names is None else self.names[access.memory]
        return memory, access.first_partition, access.last_partition, access.low + shift, access.high + shift


class Schedule:
    """Takes reads and writes in the order of time, and carries them out.

    `steps` is a further run for `replay`, None when the run was too long to be kept. `constants`: memories that hold
    the same in every run.
    """

    def __init__(self, constants: Set[Hashable], most_steps: int = MOST_STEPS) -> None:
        self.steps: list[Step] | None = None
        self._constants, self._most_steps, self._parts = constants, most_steps, 0
        self._executions: dict[int, Execution] = {}
        self._next = 0
        self._order: list[int] = []
        self._effects: dict[int, Effect] = {}

    def read(
        self,
        work: Work,
        operands: Operands,
        shifts: tuple[int, ...],
        names: Mapping[MemoryKey, Hashable] | None = None,
    ) -> int:
        """An execution reads its operands; returns its number."""
        if len(self._order) >= self._most_steps:
            self._carry_out()
        number, self._next = self._next, self._next + 1
        self._executions[number] = Execution(work, operands, shifts, names)
        self._order.append(number)
        return number

    def write(self, number: int) -> None:
        """An execution writes its results."""
        self._order.append(~number)

    def flush(self) -> None:
        """Carry out what was noted so far."""
        if self._order:
            self._carry_out()

    def finish(self) -> None:
        """Carry out what is left."""
        again = self._carry_out()
        self.steps = again if self._parts == 1 else None

    def _carry_out(self) -> list[Step]:
        """Carry out what was noted; gives the steps that a further run takes."""
        order, self._order = self._order, []
        writer = _StepWriter(order, self._executions, self._effects, self._constants)
        self._parts += 1
        written = {~entry for entry in order if entry < 0}
        self._executions = {n: execution for n, execution in self._executions.items() if n not in written}
        replay(writer.steps)
        return writer.again


def replay(steps: Sequence[Step]) -> None:
    """Carry out the steps in order. Raises what the meanings of instructions raise, with the framework node."""
    for function, arguments in steps:
        function(*arguments)


class NamedSchedule:
    """A schedule as one of several cores sees it that share it: `names` are those of its memories among all."""

    def __init__(self, schedule: Schedule, names: Mapping[MemoryKey, Hashable]) -> None:
        self._schedule, self._names = schedule, names

    def read(self, work: Work, operands: Operands, shifts: tuple[int, ...]) -> int:
        """As `Schedule.read`."""
        return self._schedule.read(work, operands, shifts, self._names)

    def write(self, number: int) -> None:
        """As `Schedule.write`."""
        self._schedule.write(number)


class _StepWriter:
    """Turns an order of reads and writes into `steps`; `again` are those that a further run takes."""

    def __init__(
        self,
        order: Sequence[int],
        executions: dict[int, Execution],
        effects: dict[int, Effect],
        constants: Set[Hashable],
    ) -> None:
        self.steps: list[Step] = []
        self._executions, self._effects = executions, effects
        # A product is grouped if it both reads and writes in this order.
        whole = {entry for entry in order if entry >= 0} & {~entry for entry in order if entry < 0}
        touches = {number: _touches(executions[number], number in whole, constants) for number in executions}
        self._touches = touches
        self._spared: dict[int, list[Listing]] = {}
        self._again: list[tuple[Step, int]] = []
        groups = find_groups(order, touches)
        self._place = {number: (group, i) for group in groups for i, number in enumerate(group.members)}
        self._slabs_of: dict[Group, tuple[Slab, Slab]] = {}
        self._slabs = Slabs(Counter(Slabs.key(*wanted) for group in groups for wanted in self._operands_of(group)))
        skip = -1
        for position, entry in enumerate(order):
            if position == skip:
                continue
            if entry >= 0 and entry in self._place:
                self._read_product(entry)
            elif entry < 0 and ~entry in self._place:
                self._write_product(~entry)
            elif entry < 0:
                self._append((_write, (effects, ~entry)), ~entry)
            elif position + 1 < len(order) and order[position + 1] == ~entry:
                skip = position + 1
                self._append((_execute, (executions[entry],)), entry)
            else:
                self._append((_read, (effects, entry, executions[entry])), entry)
        idle = idle_constants(order, touches, self._spared)
        self.again = [step for step, number in self._again if number not in idle]

    def _append(self, step: Step, number: int = NOBODY) -> None:
        """Add a step of the execution `number`, which takes all steps of it or none in further runs."""
        self.steps.append(step)
        self._again.append((step, number))

    def _operands_of(self, group: Group) -> tuple[tuple[list[Content], int], tuple[list[Content], int]]:
        """Contents and columns of the group's two slabs."""
        views, _ = self._executions[group.members[0]].operands
        stationary, moving = (views[role].size // views[role].shape[0] for role in ("stationary", "moving"))
        return (group.stationary, stationary), (group.moving, moving)

    def _read_product(self, number: int) -> None:
        """Put the operands into the slabs of the group, unless they are there."""
        group, member = self._place[number]
        views, _ = self._executions[number].operands
        operands = self._executions[number].work.entry.instruction
        assert operands is not None
        if group not in self._slabs_of:
            (stationary, wide), (moving, long) = self._operands_of(group)
            take = self._slabs.take
            self._slabs_of[group] = take(stationary, group.rows, wide), take(moving, group.rows, long)
        row = sum(self._executions[n].operands[0]["moving"].shape[0] for n in group.members[:member])
        product = self._touches[number].product
        assert product is not None
        listings = product.stationary, product.moving
        for role, slab, listing in zip(("stationary", "moving"), self._slabs_of[group], listings, strict=True):
            if slab.kept:
                self._spared.setdefault(number, []).append(listing)
            if not slab.filled[member]:
                slab.filled[member] = True
                view = views[role]
                target = slab.array[row : row + view.shape[0]].reshape(view.shape)
                step = _copy(product_reader(operands.operands[role].dtype), target, view)
                if slab.kept:
                    self.steps.append(step)
                else:
                    self._append(step)

    def _write_product(self, number: int) -> None:
        """Compute the group once its last member writes."""
        group, member = self._place[number]
        if member + 1 < len(group.members):
            return
        stationary, moving = self._slabs_of.pop(group)
        self._slabs.leave(stationary)
        self._slabs.leave(moving)
        execution = self._executions[number]
        instruction = execution.work.entry.instruction
        assert instruction is not None
        dtype, dst = instruction.operands["dst"].dtype, execution.operands[0]["dst"]
        self._append(_multiply(stationary.array.T, moving.array, dst, dtype, group.adds))


def _touches(execution: Execution, whole: bool, constants: Set[Hashable]) -> Touches:
    accesses = execution.work.entry.accesses
    boxes = [execution.box(number) for number in range(len(accesses))]
    reads = tuple(box for box, access in zip(boxes, accesses, strict=True) if access.reads)
    writes = tuple(box for box, access in zip(boxes, accesses, strict=True) if access.writes)
    views, numbers = execution.operands
    listings = {
        a.role: Listing(box, (views[a.role].shape, views[a.role].strides, views[a.role].dtype.char))
        for a, box in zip(accesses, boxes, strict=True)
    }
    name = execution.work.entry.name
    if name == COPY and listings["src"].box[0] in constants:
        (_, first, last, low, high), dst = writes[0], views["dst"]
        fills = dst.size * dst.dtype.itemsize == (last - first) * (high - low)
        return Touches(reads, writes, constant=(listings["src"], listings["dst"].layout) if fills else None)
    if not whole or name != PRODUCT:
        return Touches(reads, writes)
    place, stationary, moving = (listings[role] for role in ("dst", "stationary", "moving"))
    product = Product(views["moving"].shape[0], bool(numbers["accumulate"]), place, stationary, moving)
    return Touches(reads, writes, product)


def _copy(read: Read | None, target: Array, view: Array) -> Step:
    return (np.copyto, (target, view, "unsafe")) if read is None else (_copy_read, (read, target, view))


def _copy_read(read: Read, target: Array, view: Array) -> None:
    np.copyto(target, read(view))


def _multiply(stationary: Array, moving: Array, dst: Array, dtype: str, adds: bool) -> Step:
    if adds:
        return (_add_product, (stationary, moving, dst))
    flat = dst.reshape(dst.shape[0], -1)
    if dtype == "f32" and np.may_share_memory(flat, dst) and flat.shape == (stationary.shape[0], moving.shape[1]):
        return (np.matmul, (stationary, moving, flat))
    return (_write_product, (stationary, moving, dst, product_writer(dtype)))


def _add_product(stationary: Array, moving: Array, dst: Array) -> None:
    np.add(dst, np.matmul(stationary, moving).reshape(dst.shape), out=dst)


def _write_product(stationary: Array, moving: Array, dst: Array, write: Callable[[Array, Array], None]) -> None:
    write(dst, np.matmul(stationary, moving))


def _compute(execution: Execution) -> Effect:
    kernel = execution.work.kernel
    assert kernel is not None
    try:
        return kernel(*execution.operands)
    except NeuronError as error:
        node = execution.work.entry.node
        raise NeuronError(error.code, error.message, node=node, help=error.help) from None


def _read(effects: dict[int, Effect], number: int, execution: Execution) -> None:
    effects[number] = _compute(execution)


def _write(effects: dict[int, Effect], number: int) -> None:
    effects.pop(number)()


def _execute(execution: Execution) -> None:
    _compute(execution)()

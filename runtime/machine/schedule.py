"""The data of a run, computed apart from its clock: what is read and written, in the machine's order.

No instruction's time depends on data, so the simulator only notes each execution's reads and writes. They are carried
out a long run of them at a time; if that was all of the program, it is kept for further runs, which need no simulator.
Multiplications are computed together where that is possible (`product_steps`); sums stay float32.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence, Set

from neuron_dialects.errors import NeuronError
from runtime.machine.decode import MemoryKey
from runtime.machine.execution import DST, Execution, Operands, Step
from runtime.machine.plan import Work
from runtime.machine.product_steps import ProductSteps
from runtime.machine.products import Listing, Product, Touches, idle_constants
from runtime.semantics.registry import Array, Effect
from runtime.semantics.tensor_engine import PRODUCT

FOLDED = frozenset({"dma_copy", "tensor_copy", "tensor_tensor", "tensor_scalar", "activation", "memset"})
"""Instructions that make constants of constants: what they write depends on what they read, and on nothing else."""

NOBODY = -1
MOST_STEPS = 1 << 17
"""Reads and writes that are carried out, and kept, together."""


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
        self._steps: list[tuple[Step, int]] = []
        # A product is grouped if it both reads and writes in this order.
        whole = {entry for entry in order if entry >= 0} & {~entry for entry in order if entry < 0}
        touches = {number: _touches(executions[number], number in whole, constants) for number in executions}
        products = ProductSteps(order, executions, touches)
        skip = -1
        for position, entry in enumerate(order):
            if position == skip:
                continue
            if entry >= 0 and entry in products:
                self._append(*products.read(entry))
            elif entry < 0 and ~entry in products:
                self._append(*products.write(~entry))
            elif entry < 0:
                self._append((_write, (effects, ~entry)), number=~entry)
            elif position + 1 < len(order) and order[position + 1] == ~entry:
                skip = position + 1
                self._append((_execute, (executions[entry],)), number=entry)
            else:
                self._append((_read, (effects, entry, executions[entry])), number=entry)
        idle = idle_constants(order, touches, products.constants, products.spared)
        self.steps = [step for step, _ in self._steps]
        self.again = [step for step, number in self._steps if number not in idle]

    def _append(self, *steps: Step, number: int = NOBODY) -> None:
        """Add steps of the execution `number`, which takes all steps of it or none in further runs."""
        self._steps += [(step, number) for step in steps]


def _touches(execution: Execution, whole: bool, constants: Set[Hashable]) -> Touches:
    accesses = execution.work.entry.accesses
    boxes = [execution.box(number) for number in range(len(accesses))]
    reads = tuple(box for box, access in zip(boxes, accesses, strict=True) if access.reads)
    writes = tuple(box for box, access in zip(boxes, accesses, strict=True) if access.writes)
    views, numbers = execution.operands
    listings = {
        a.role: Listing(box, (views[a.role].shape, views[a.role].strides, execution.dtype(a.role)))
        for a, box in zip(accesses, boxes, strict=True)
    }
    name = execution.work.entry.name
    if name in FOLDED and (made := _made(execution, listings, constants)) is not None:
        return Touches(reads, writes, None, made, tuple(listings[role] for role in execution.sources))
    if not whole or name != PRODUCT:
        return Touches(reads, writes)
    place, stationary, moving = (listings[role] for role in ("dst", "stationary", "moving"))
    product = Product(views["moving"].shape[0], bool(numbers["accumulate"]), place, stationary, moving)
    return Touches(reads, writes, product)


def _made(execution: Execution, listings: Mapping[str, Listing], constants: Set[Hashable]) -> Hashable | None:
    """A name of what an execution writes where its operands on chip are constant; None if it is not all of one box on
    chip, or made of something else as well.
    """
    entry = execution.work.entry
    instruction, written = entry.instruction, [access for access in entry.accesses if access.writes]
    data = [access.role for access in entry.accesses if not isinstance(access.memory, str)]
    assert instruction is not None
    if [access.role for access in written] != [DST] or DST in (*execution.sources, *data):
        return None
    if not _is_dense(execution.view(DST)) or any(listings[role].box[0] not in constants for role in data):
        return None
    kind = instruction.name, instruction.engine, tuple(instruction.fields.items())
    dtypes = tuple((role, operand.dtype) for role, operand in instruction.operands.items())
    return (
        kind,
        dtypes,
        tuple(listings[role] for role in data),
        listings[DST].layout,
        tuple(execution.operands[1].items()),
    )


def _is_dense(view: Array) -> bool:
    """Whether the elements of every partition fill one piece of memory, each a place of its own, from the first on."""
    expected = view.itemsize
    for stride, size in sorted(zip(view.strides[1:], view.shape[1:], strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True


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

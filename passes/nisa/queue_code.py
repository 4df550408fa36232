"""Writes the flat code of one queue: instructions between the control instructions that keep its registers up to date.

Given a `QueuePlan`, leaves a list of `Control` and `Issue` items. A register that counts is set to 0 in front of its
loop, moved at the end of each iteration, and moved back when an inner loop ends. Such moves are held back until
somebody needs the register, so that a move back and the next move forward become one addition, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xdsl.dialects.builtin import UNKNOWN_LOC
from xdsl.ir import Attribute

from neuron_dialects.access import Affine
from passes.nisa.program_tree import Loop, Node, Slot, Statement
from passes.nisa.register_values import Kind, QueuePlan, Value, moving_terms, values_by_home


@dataclass(frozen=True)
class Control:
    """A control instruction, or a label; `numbers` as in `neuron_dialects.nisa.CONTROL`."""

    kind: str
    numbers: tuple[int, ...]
    location: Attribute = UNKNOWN_LOC


@dataclass(frozen=True)
class Issue:
    """An instruction; each of its `expressions` (as in `loop_dependent`) is a constant and at most one register."""

    statement: Statement
    expressions: tuple[Affine, ...]


def queue_code(plan: QueuePlan) -> list[Control | Issue]:
    """The code of a planned queue."""
    writer = _Writer(plan)
    writer.write_body(plan.body)
    return writer.code


@dataclass
class _Writer:
    plan: QueuePlan
    code: list[Control | Issue] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pending: dict[int, int] = {}
        self._labels = 0
        self._location: Attribute = UNKNOWN_LOC
        self._homes = values_by_home(self.plan.values)
        self._moved: dict[Loop, list[tuple[Value, int]]] = {}
        self._rotated: dict[Loop, list[Value]] = {}
        self._composed: dict[Slot, list[Value]] = {}
        for value in sorted(self.plan.values.values(), key=lambda value: value.register):
            for loop, step in moving_terms(value, self.plan.loops):
                self._moved.setdefault(loop, []).append((value, step))
            if value.kind is Kind.ROTATING and value.slot is not None:
                self._rotated.setdefault(value.slot.loops[-1], []).append(value)
            if value.kind is Kind.COMPOSED and value.slot is not None:
                self._composed.setdefault(value.slot, []).append(value)
        self._touched: dict[Loop, set[int]] = {}
        self._find_touched(self.plan.body)

    # -- what a loop needs -------------------------------------------------------------------------------------------

    def _find_touched(self, body: Sequence[Node]) -> set[int]:
        """Registers that the nodes of a body read or write."""
        touched: set[int] = set()
        for node in body:
            if isinstance(node, Statement):
                for expression in self.plan.expressions(node):
                    touched.update(value.register for value in self._sources(expression.linear))
            elif isinstance(node, Slot):
                for value in self._composed.get(node, ()):
                    touched.update({value.register, *(self.plan.values[part].register for part in value.parts)})
            else:
                inside = self._find_touched(node.body)
                inside.update(value.register for value, _ in self._moved.get(node, ()))
                inside.update(value.register for value in self._rotated.get(node, ()))
                inside.add(self.plan.counters[node].register)
                self._touched[node] = inside
                touched |= inside
                for value in self._homes.get(node, ()):
                    touched.update(self.plan.values[part].register for part in self._starts(value))
        return touched

    @staticmethod
    def _starts(value: Value) -> tuple[Affine, ...]:
        """What a register that counts starts from, in front of its loop; nothing for 0."""
        return value.parts if value.kind is Kind.COUNTING else ()

    def _sources(self, linear: Affine) -> list[Value]:
        """The held values that a linear part is read from."""
        if linear.is_constant:
            return []
        if linear in self.plan.values:
            return [self.plan.values[linear]]
        return [self.plan.values[Affine.variable(variable)] for variable, _ in linear.terms]

    # -- writing -----------------------------------------------------------------------------------------------------

    def _control(self, kind: str, *numbers: int) -> None:
        self.code.append(Control(kind, numbers, self._location))

    def _settle(self, registers: set[int]) -> None:
        """Carry out the moves of these registers that were held back."""
        for register in sorted(registers & self._pending.keys()):
            delta = self._pending.pop(register)
            if delta:
                self._control("reg_add", register, register, delta)

    def _hold_back(self, value: Value, delta: int) -> None:
        self._pending[value.register] = self._pending.get(value.register, 0) + delta

    def write_body(self, body: Sequence[Node]) -> None:
        """The code of one execution of a body."""
        for node in body:
            if isinstance(node, Statement):
                self._statement(node)
            elif isinstance(node, Slot):
                self._slot(node)
            else:
                self._loop(node)

    def _loop(self, loop: Loop) -> None:
        outer, self._location = self._location, loop.location
        own = self._homes.get(loop, [])
        for value in own:
            self._pending.pop(value.register, None)
        self._settle(self._touched[loop])
        for value in own:
            self._set_up(value)
        label, self._labels = self._labels, self._labels + 1
        self._control("label", label)
        self.write_body(loop.body)
        self._location = loop.location
        for value, step in self._moved.get(loop, ()):
            self._hold_back(value, step)
        self._settle(self._touched[loop])
        for value in self._rotated.get(loop, ()):
            assert value.slot is not None
            step = value.linear.coefficient(value.slot.variable)
            self._control("reg_rotate", value.register, step, step * value.slot.copies)
        counter = self.plan.counters[loop]
        step = counter.linear.coefficient(loop.variable)
        self._control("branch_less", counter.register, step * loop.trip_count, label)
        for value, step in self._moved.get(loop, ()):
            if value.home is not loop:
                self._hold_back(value, -step * loop.trip_count)
        self._location = outer

    def _set_up(self, value: Value) -> None:
        """Give a register the value that it has in the first iteration of its loop."""
        for part in self._starts(value):
            source = self.plan.values[part].register
            self._settle({source})
            self._control("reg_add", value.register, source, 0)
            return
        self._control("reg_move", value.register, 0)

    def _slot(self, slot: Slot) -> None:
        outer, self._location = self._location, slot.location
        for value in self._composed.get(slot, ()):
            first, second = (self.plan.values[part].register for part in value.parts)
            self._settle({first, second})
            self._pending.pop(value.register, None)
            self._control("reg_add_register", value.register, first, second)
        self._location = outer

    def _statement(self, statement: Statement) -> None:
        outer, self._location = self._location, UNKNOWN_LOC
        computed: dict[Affine, int] = {}
        expressions: list[Affine] = []
        for expression in self.plan.expressions(statement):
            linear = expression.linear
            if linear.is_constant:
                expressions.append(expression)
                continue
            self._settle({value.register for value in self._sources(linear)})
            if linear in self.plan.values:
                register = self.plan.values[linear].register
            else:
                if linear not in computed:
                    computed[linear] = self.plan.scratch[len(computed)]
                    self._compute(linear, computed[linear])
                register = computed[linear]
            expressions.append(Affine.variable(register) + expression.constant)
        self.code.append(Issue(statement, tuple(expressions)))
        self._location = outer

    def _compute(self, linear: Affine, target: int) -> None:
        """Compute a linear part into a scratch register; the last scratch register holds products."""
        product = self.plan.scratch[-1]
        for position, (variable, coefficient) in enumerate(linear.terms):
            source = self.plan.values[Affine.variable(variable)].register
            if position == 0:
                self._control("reg_multiply", target, source, coefficient)
            elif coefficient == 1:
                self._control("reg_add_register", target, target, source)
            else:
                self._control("reg_multiply", product, source, coefficient)
                self._control("reg_add_register", target, target, product)

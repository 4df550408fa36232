"""Which numbers of a queue are held in scalar registers, and in which ones, as a pure algorithm.

Given the tree of one queue, every distinct linear part of its expressions (offsets, awaited counts, flags) wants a
register that follows it. `plan_registers` decides which get one and numbers the registers; the code that keeps them up
to date is written by `queue_code`. A register lives over a whole loop, so live ranges are nested and numbering them in
the order of their starts uses as few registers as are live at once. When those are more than the engine has, the least
useful values are computed from loop counters in front of each instruction that uses them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from neuron_dialects.access import Affine
from passes.nisa.program_tree import Loop, Node, ProgramTree, Slot, Statement, substituted


class Kind(Enum):
    """How a register follows its value."""

    COUNTING = auto()
    """Starts at 0, or at its part, which follows loops further out; grows with each iteration of its loops."""
    ROTATING = auto()
    """Follows one slot, which advances at the end of its loop's body, and loops inside of it."""
    COMPOSED = auto()
    """Put together of a rotating and another value where its slot stands, then grows with the loops inside of it."""


@dataclass(eq=False)
class Value:
    """A linear part that a register holds over `home`, the loop around which it is set up."""

    linear: Affine
    kind: Kind
    home: Loop
    slot: Slot | None = None
    parts: tuple[Affine, ...] = ()
    register: int = -1


@dataclass(eq=False)
class QueuePlan:
    """The decisions for one queue.

    `body`: its tree without loops of one iteration, whose variables are in `zeros`. `values`: what is held in
    registers, by linear part; everything else is computed in `scratch` registers. `counters`: for each loop the value
    that it counts with.
    """

    body: list[Node]
    zeros: dict[int, int]
    loops: dict[int, Loop]
    slots: dict[int, Slot]
    values: dict[Affine, Value] = field(default_factory=dict)
    counters: dict[Loop, Value] = field(default_factory=dict)
    scratch: tuple[int, ...] = ()
    used: int = 0

    def expressions(self, statement: Statement) -> list[Affine]:
        """All numbers of a statement that may change: offsets, awaited counts and flags, in a fixed order."""
        return [substituted(expression, self.zeros) for expression in loop_dependent(statement)]


class RegistersExceeded(Exception):
    """Even with only loop counters and slots in registers, `needed` of them are live at once."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"{needed} scalar registers")
        self.needed = needed


def loop_dependent(statement: Statement) -> list[Affine]:
    """Offsets of operands, then fields, then awaited counts."""
    instruction = statement.instruction
    offsets = [operand.pattern.offset for operand in instruction.operands.values()]
    fields = [value for value in instruction.fields.values() if isinstance(value, Affine)]
    return [*offsets, *fields, *(count for _, count in statement.waits)]


def plan_registers(tree: ProgramTree, limit: int) -> QueuePlan:
    """Decide for one queue of an engine with `limit` registers; raises RegistersExceeded."""
    plan = _simplified(tree)
    planner = _Planner(plan)
    for nested in (False, True):
        if planner.hold_everything(nested) and planner.number(limit):
            return plan
    planner.hold_most_useful(limit)
    numbered = planner.number(limit)
    assert numbered, "values are held only where a register is free"
    return plan


def _simplified(tree: ProgramTree) -> QueuePlan:
    """Splice loops of one iteration into what is around them, drop those of none and slots that never advance."""
    plan = QueuePlan([], {}, {}, {})

    def copy(nodes: Sequence[Node], loops: tuple[Loop, ...], body: list[Node]) -> None:
        for node in nodes:
            if isinstance(node, Statement):
                body.append(node)
            elif isinstance(node, Slot):
                within = sum(loop.trip_count > 1 for loop in node.loops[: node.within])
                if node.copies > 1 and loops[within:]:
                    slot = Slot(node.variable, node.copies, loops, node.location, within)
                    plan.slots[node.variable] = slot
                    body.append(slot)
                else:
                    plan.zeros[node.variable] = 0
            elif node.trip_count == 1:
                plan.zeros[node.variable] = 0
                copy(node.body, loops, body)
            elif node.trip_count > 1:
                loop = plan.loops[node.variable] = Loop(node.variable, node.trip_count, loops, [], node.location)
                body.append(loop)
                copy(node.body, (*loops, loop), loop.body)

    copy(tree.body, (), plan.body)
    return plan


@dataclass(frozen=True)
class _Range:
    """First and last node of a loop, in the order of the text."""

    first: int
    last: int


class _Planner:
    """Chooses the values of a plan and numbers their registers."""

    def __init__(self, plan: QueuePlan) -> None:
        self._plan = plan
        self._ranges: dict[Loop, _Range] = {}
        self._wanted: dict[Affine, int] = {}
        self._most_in_one = 0
        self._nodes = 0
        self._nested = False
        self._survey(plan.body, 1)

    def _survey(self, body: Sequence[Node], executions: int) -> None:
        """Number the nodes; count how often each linear part is used, and the most that one instruction uses."""
        for node in body:
            first = self._nodes
            self._nodes += 1
            if isinstance(node, Statement):
                linears = {e.linear for e in self._plan.expressions(node) if not e.is_constant}
                self._most_in_one = max(self._most_in_one, len(linears))
                for linear in sorted(linears, key=lambda linear: linear.terms):
                    self._wanted[linear] = self._wanted.get(linear, 0) + executions
            elif isinstance(node, Loop):
                self._survey(node.body, executions * node.trip_count)
                self._ranges[node] = _Range(first, self._nodes - 1)

    # -- what is held ------------------------------------------------------------------------------------------------

    def hold_everything(self, nested: bool = False) -> bool:
        """Every linear part gets a register, loops count with one of them where possible; False if impossible.

        If `nested`, a register that follows several loops lives in the innermost of them only. It starts from one that
        follows the others, which many share.
        """
        self._nested = nested
        self._plan.values.clear()
        self._plan.counters.clear()
        if any(c < 0 for linear in self._wanted for v, c in linear.terms if v in self._plan.slots):
            return False
        for linear in self._wanted:
            self._hold(linear)
        following: dict[Loop, list[Value]] = {}
        for value in self._plan.values.values():
            if value.kind is Kind.COUNTING and len(value.linear.terms) == 1 and value.linear.terms[0][1] > 0:
                following.setdefault(value.home, []).append(value)
        for loop in self._plan.loops.values():
            best = min(following.get(loop, ()), key=lambda value: value.linear.terms, default=None)
            self._plan.counters[loop] = best or self._hold(Affine.variable(loop.variable))
        return True

    def hold_most_useful(self, limit: int) -> None:
        """Loop counters and slots get registers, the rest as long as there are some left, the most useful first."""
        plan = self._plan
        self._nested = False
        plan.values.clear()
        plan.counters.clear()
        for loop in plan.loops.values():
            plan.counters[loop] = self._hold(Affine.variable(loop.variable))
        for slot in plan.slots.values():
            self._hold(Affine.variable(slot.variable))
        scratch = self._most_in_one + 1
        plan.scratch = tuple(range(limit - scratch, limit))
        pressure = [0] * self._nodes
        for value in plan.values.values():
            self._press(pressure, value)
        needed = max(pressure, default=0) + scratch
        if needed > limit:
            raise RegistersExceeded(needed)
        for linear in sorted(self._wanted, key=lambda linear: (-self._usefulness(linear), linear.terms)):
            value = self._value(linear)
            live = self._ranges[value.home]
            fits = max(pressure[live.first : live.last + 1]) < limit - scratch
            if linear not in plan.values and value.kind is not Kind.COMPOSED and fits and self._usefulness(linear) > 0:
                plan.values[linear] = value
                self._press(pressure, value)

    def _press(self, pressure: list[int], value: Value) -> None:
        live = self._ranges[value.home]
        for position in range(live.first, live.last + 1):
            pressure[position] += 1

    def _usefulness(self, linear: Affine) -> int:
        """Control instructions that a register saves: what computing takes, less what keeping it up to date takes."""
        computing = sum(1 if abs(c) == 1 else 2 for _, c in linear.terms)
        updating = 0
        for variable, _ in linear.terms:
            around = self._plan.loops.get(variable)
            loops = (*around.loops, around) if around is not None else self._plan.slots[variable].loops
            updating += math.prod(loop.trip_count for loop in loops)
        return self._wanted[linear] * computing - updating

    def _hold(self, linear: Affine) -> Value:
        """Give a linear part a register, and the parts that it is composed of as well."""
        known = self._plan.values.get(linear)
        if known is not None:
            return known
        value = self._plan.values[linear] = self._value(linear)
        for part in value.parts:
            self._hold(part)
        return value

    def _value(self, linear: Affine) -> Value:
        """How a register would follow a linear part."""
        plan = self._plan
        loops = [plan.loops[v] for v, _ in linear.terms if v in plan.loops]
        slots = [plan.slots[v] for v, _ in linear.terms if v in plan.slots]
        if not slots and self._nested and len(loops) > 1:
            home = max(loops, key=lambda loop: len(loop.loops))
            outside = Affine.of(0, [(v, c) for v, c in linear.terms if v != home.variable])
            return Value(linear, Kind.COUNTING, home, parts=(outside,))
        if not slots:
            return Value(linear, Kind.COUNTING, min(loops, key=lambda loop: len(loop.loops)))
        slot = max(slots, key=lambda slot: (len(slot.loops), slot.variable))
        inside = {loop.variable for loop in loops if len(loop.loops) >= len(slot.loops)}
        step = linear.coefficient(slot.variable)
        rest = [(v, c) for v, c in linear.terms if v not in inside and v != slot.variable]
        if not rest and step > 0:
            return Value(linear, Kind.ROTATING, slot.counted[0], slot)
        parts = (Affine.variable(slot.variable, step), Affine.of(0, rest))
        return Value(linear, Kind.COMPOSED, slot.loops[-1], slot, parts)

    # -- numbering ---------------------------------------------------------------------------------------------------

    def number(self, limit: int) -> bool:
        """Number the registers; False when there are not enough of them."""
        available = limit - len(self._plan.scratch)
        self._plan.used = 0
        free = list(range(available))
        busy: list[tuple[int, int]] = []
        ordered = sorted(self._plan.values.values(), key=lambda v: (self._ranges[v.home].first, v.linear.terms))
        for value in ordered:
            live = self._ranges[value.home]
            while busy and busy[0][0] < live.first:
                heapq.heappush(free, heapq.heappop(busy)[1])
            if not free:
                return False
            value.register = heapq.heappop(free)
            heapq.heappush(busy, (live.last, value.register))
            self._plan.used = max(self._plan.used, value.register + 1)
        return True


def values_by_home(values: Mapping[Affine, Value]) -> dict[Loop, list[Value]]:
    """The values that are set up in front of each loop, in the order of their registers."""
    found: dict[Loop, list[Value]] = {}
    for value in sorted(values.values(), key=lambda value: value.register):
        found.setdefault(value.home, []).append(value)
    return found


def moving_terms(value: Value, loops: Mapping[int, Loop]) -> Iterator[tuple[Loop, int]]:
    """(loop, step) of the loops whose iterations move the register of a value."""
    inside = len(value.slot.loops) if value.kind is Kind.COMPOSED and value.slot is not None else 0
    if value.kind is Kind.COUNTING:
        inside = len(value.home.loops)
    for variable, step in value.linear.terms:
        loop = loops.get(variable)
        if loop is not None and len(loop.loops) >= inside:
            yield loop, step

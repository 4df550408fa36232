"""Whether the positions of an input dimension (the rows of a batch) stay apart on their way through a model.

Given the same model at two sizes of one dimension, `follow_axis` walks both functions side by side. It leaves, for
every output, where the dimension is found in it, or the first operation that mixes positions. What it finds independent
is so: an operation that it does not know counts as mixing, a constant that differs from position to position too, and
whatever changes with the size in any other way than by its own length. The sizes are primes, so that no other axis can
be taken for the dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue

from neuron_dialects import graph
from neuron_dialects.neuron import location_name
from neuron_dialects.weights import Array, WeightStore
from passes.graph.axis_rules import RULES, static_shape
from passes.graph.tracked_axis import Mixes, Tracked

MAX_COMPARED_ELEMENTS = 64 * 1024
"""A weight up to this size may have been folded from shapes; a larger one is an initializer of the file."""


@dataclass(frozen=True)
class Mixed:
    """The value is no longer known to keep positions apart: since node `node`, because `reason`."""

    node: str
    reason: str


State = Tracked | Mixed | None
"""What a value has of the dimension; None: it does not depend on it at all."""


@dataclass(frozen=True)
class AtSize:
    """A model imported with the dimension of one size: its @main and its weights."""

    main: FuncOp
    weights: WeightStore
    size: int


def follow_axis(
    first: AtSize, second: AtSize, axes: Sequence[tuple[int, int]], *, positions: bool = False
) -> list[State]:
    """The state of every output, for the dimension that lies along `axes`: (argument number, axis).

    With `positions` a constant may differ along the dimension if its values at a position are the same at every size,
    as a table of positions is. Then inputs can be padded behind their end, but not be cut in pieces.
    """
    return _Walk(first, second, positions).run(axes)


@dataclass(frozen=True)
class _Steps:
    """Indices that grow by `step` from position to position along `axis`, from at most `highest` at the first."""

    axis: int
    step: int
    highest: int


class _Walk:
    def __init__(self, first: AtSize, second: AtSize, positions: bool) -> None:
        self.first, self.second, self.positions = first, second, positions
        self.steps: dict[SSAValue, _Steps] = {}
        self.states: dict[SSAValue, State] = {}
        self.twins: dict[SSAValue, SSAValue] = {}

    def run(self, axes: Sequence[tuple[int, int]]) -> list[State]:
        ops = [list(at.main.body.block.ops) for at in (self.first, self.second)]
        results = ops[0][-1].operands
        if [op.name for op in ops[0]] != [op.name for op in ops[1]]:
            return [Mixed("", "the model has other operators at other sizes")] * len(results)
        arguments = (at.main.body.block.args for at in (self.first, self.second))
        for number, (argument, twin) in enumerate(zip(*arguments, strict=True)):
            self.twins[argument] = twin
            found = [axis for position, axis in axes if position == number]
            self.states[argument] = Tracked(found[0]) if found else None
            if len(found) > 1:
                self.states[argument] = Mixed("", "an input has the dimension twice")
        for op, twin in zip(*ops, strict=True):
            if [self.twins[value] for value in op.operands] != list(twin.operands):
                return [Mixed("", "the model is connected otherwise at other sizes")] * len(results)
            if not isinstance(op, ReturnOp):
                self._visit(op, twin)
        return [self.states[value] for value in results]

    def _visit(self, op: Operation, twin: Operation) -> None:
        """The states of an operation's results."""
        operands = [self.states[value] for value in op.operands]
        mixed = next((state for state in operands if isinstance(state, Mixed)), None)
        own = self._own_rows(op)
        if own is not None:
            self.twins[op.results[0]], self.states[op.results[0]] = twin.results[0], own
            return
        for result, other in zip(op.results, twin.results, strict=True):
            self.twins[result] = other
            state: State = mixed
            if mixed is None:
                try:
                    state = self._checked(self._transfer(op, twin, operands), result, other)
                except Mixes as reason:
                    state = Mixed(location_name(op.location) or op.name, str(reason))
            self.states[result] = state

    def _transfer(self, op: Operation, twin: Operation, operands: Sequence[State]) -> Tracked | None:
        """The state of a result whose operands keep positions apart."""
        tracked = [state if isinstance(state, Tracked) else None for state in operands]
        if isinstance(op, graph.ConstantOp | graph.WeightOp):
            return self._source(op, twin)
        for name, value in op.properties.items():
            # The length of a slice grows with the dimension; that it covers all of it is checked with its rule.
            if twin.properties.get(name) != value and not (isinstance(op, graph.SliceOp) and name == "sizes"):
                raise Mixes(f"its {name} depends on the size of the dimension")
        if isinstance(op, graph.OnnxNodeOp) and op.random is not None:
            raise Mixes("it draws random numbers")
        if not any(tracked):
            if isinstance(op, graph.BroadcastOp):
                return self._grown(op.result, twin.results[0])
            return None
        rule = RULES.get(type(op))
        if rule is None:
            raise Mixes(f"{op.name} is not known to keep positions apart")
        return rule(op, tracked, self.first.size)

    def _source(self, op: graph.ConstantOp | graph.WeightOp, twin: Operation) -> Tracked | None:
        """A constant is the same at every size, or the same at every position."""
        assert isinstance(twin, type(op)), "the operators agree by name"
        shapes = static_shape(op.result), static_shape(twin.results[0])
        if isinstance(op, graph.WeightOp) and shapes[0] == shapes[1] and prod(shapes[0]) > MAX_COMPARED_ELEMENTS:
            return None
        ours, theirs = (_values(o, at.weights) for o, at in ((op, self.first), (twin, self.second)))
        grown = self._grown(op.result, twin.results[0])
        if grown is None:
            if not _equal(ours, theirs):
                raise Mixes("a constant depends on the size of the dimension")
            return None
        one = ours.take([0], grown.axis)
        if _equal(ours, np.broadcast_to(one, ours.shape)) and _equal(theirs, np.broadcast_to(one, theirs.shape)):
            return grown
        steps = [_steps(values, grown.axis) for values in (ours, theirs)]
        if steps[0] is not None and steps[0] == steps[1]:
            self.steps[op.result] = steps[0]
        known = min(ours.shape[grown.axis], theirs.shape[grown.axis])
        if self.positions and _equal(*(values.take(range(known), grown.axis) for values in (ours, theirs))):
            return grown
        raise Mixes("a constant differs along the dimension")

    def _own_rows(self, op: Operation) -> Tracked | None:
        """The state of a gather whose indices point, at every position, to the elements of this position.

        Masks are read so: with indices `row * length + column` into all rows, one after the other.
        """
        if not isinstance(op, graph.GatherOp):
            return None
        data, steps, axis = self.states[op.data], self.steps.get(op.indices), op.axis.value.data
        if not isinstance(data, Tracked) or steps is None or data.axis != axis:
            return None
        whole = static_shape(op.data)[axis] == self.first.size * data.inner
        return Tracked(axis + steps.axis) if whole and steps.step == data.inner > steps.highest else None

    def _grown(self, result: SSAValue, other: SSAValue) -> Tracked | None:
        """Where a value that is equal at every position has the dimension: along the one axis that grows with it."""
        ours, theirs = static_shape(result), static_shape(other)
        axes = [axis for axis, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
        if not axes:
            return None
        if len(axes) > 1:
            raise Mixes("a value has the dimension twice")
        if ours[axes[0]] % self.first.size:
            raise Mixes("a shape depends on the size of the dimension")
        return Tracked(axes[0], ours[axes[0]] // self.first.size)

    def _checked(self, state: Tracked | None, result: SSAValue, other: SSAValue) -> Tracked | None:
        """The state, if the two results differ just as it says; a shape that depends on the size otherwise mixes."""
        ours, theirs = list(static_shape(result)), list(static_shape(other))
        if state is not None:
            length, rest = divmod(ours[state.axis], self.first.size)
            if rest:
                raise Mixes("a shape depends on the size of the dimension")
            ours[state.axis] = length * self.second.size
        if ours != theirs:
            raise Mixes("a shape depends on the size of the dimension")
        return state


def _values(op: Operation, weights: WeightStore) -> Array:
    if isinstance(op, graph.ConstantOp):
        return op.array()
    assert isinstance(op, graph.WeightOp)
    return weights.get(op.weight_name)


def _equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _steps(values: Array, axis: int) -> _Steps | None:
    """How indices grow along an axis; None unless they do so by one amount, from natural numbers."""
    if values.dtype.kind not in "iu" or not values.size:
        return None
    one = values.take([0], axis)
    step = int((values.take([1], axis) - one).reshape(-1)[0])
    shape = [-1 if number == axis else 1 for number in range(values.ndim)]
    positions = np.arange(values.shape[axis], dtype=values.dtype).reshape(shape)
    return _Steps(axis, step, int(one.max())) if one.min() >= 0 and _equal(values, one + step * positions) else None

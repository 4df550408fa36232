"""`graph-roll-layers`: many equal layers become one body that is launched again and again.

Given a partitioned module, a core function with a long run of equal layers is cut into parts that @main launches one
after the other: what comes before, a function with a few of the layers that is launched `times`, what comes behind.
Everything that follows then works on a few layers, whatever their number. `equal_layers` finds the runs; this module
writes the parts. `nisa-link-parts` makes one program of them, in which the layers are a loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, BlockArgument, Operation, OpResult, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import ConstantOp, WeightOp, spec_of
from neuron_dialects.graph.source import RANGE_ATTRIBUTE
from neuron_dialects.graph.work import bytes_of
from neuron_dialects.neuron import (
    EXECUTOR_ATTRIBUTE,
    LAYER_WEIGHTS_ATTRIBUTE,
    PART_ATTRIBUTE,
    Executor,
    LaunchOp,
    core_functions,
)
from neuron_dialects.remarks import remark
from passes.graph.equal_layers import Given, Made, Node, Operand, Run, Weight, body_layers, find_layers, weight_rows
from passes.graph.outline import SOURCES


@dataclass(frozen=True)
class GraphRollLayersPass(ModulePass):
    """Launch the body of equal layers again and again.

        func.func @main(%x: tensor<128x768xf32>) -> tensor<128x768xf32> {
          %0 = neuron.launch @neuron_0(%x) on core : (tensor<128x768xf32>) -> tensor<128x768xf32>
          func.return %0
        }

    with 48 equal layers in @neuron_0 becomes

        func.func @main(%x: tensor<128x768xf32>) -> tensor<128x768xf32> {
          %0 = neuron.launch @neuron_0_part_0(%x) on core : (tensor<128x768xf32>) -> tensor<128x768xf32>
          %1 = neuron.launch @neuron_0_part_1(%0) on core times 6 : (tensor<128x768xf32>) -> tensor<128x768xf32>
          %2 = neuron.launch @neuron_0_part_2(%1) on core : (tensor<128x768xf32>) -> tensor<128x768xf32>
          func.return %2
        }

    with 8 layers in @neuron_0_part_1, which says of each weight that it names which one the others have in its place.
    Layers are equal when their operators, attributes, types and wiring are, and only weights differ. A body holds up
    to `layers` of them, so that transfers still run ahead from one to the next; what is left over stays behind the
    loop. A run of less than `least-layers` layers, or one of which less than `least-operators` operators would be
    spared, stays as it is, as does one whose layers give more than what goes to the next layer, or have weights without
    dimensions.
    """

    name = "graph-roll-layers"

    layers: int = 8
    least_layers: int = 24
    least_operators: int = 100

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Roll the layers of every core function that @main launches once."""
        if self.layers < 1 or self.least_layers < 2:
            raise NeuronError("NX-PASS-001", f"layers {self.layers} or least-layers {self.least_layers} is too small")
        launches = [child for child in op.walk() if isinstance(child, LaunchOp) and child.times is None]
        by_callee = {launch.callee.root_reference.data: launch for launch in launches}
        for function in core_functions(op):
            launch = by_callee.get(function.sym_name.data)
            if launch is not None and PART_ATTRIBUTE not in function.attributes:
                self._roll(function, launch)

    def _roll(self, function: FuncOp, launch: LaunchOp) -> None:
        reader = _Reader(function)
        found = find_layers(reader.nodes, reader.returned, self.least_layers)
        rolled = [body for run in found if (body := self._body(reader, run)) is not None]
        if not rolled:
            return
        _Roller(function, launch, reader.ops, rolled).run()
        for body in rolled:
            remark(
                "passed",
                "roll",
                "equal layers are compiled once",
                op=reader.ops[body.start],
                layers=body.layers * body.times,
                layers_in_body=body.layers,
                times=body.times,
            )

    def _body(self, reader: _Reader, run: Run) -> _Body | None:
        """How a run is rolled; None where it stays as it is."""
        layers = body_layers(run.layers, self.layers)
        times = run.layers // layers
        if times < 2 or (times - 1) * layers * run.period < self.least_operators:
            return None
        rows = weight_rows(reader.nodes, run, layers)
        # A parameter of one element does not tell whether its weight has a dimension.
        if rows is None or not reader.scalars.isdisjoint(rows):
            return None
        return _Body(run, layers, times, rows)


@dataclass(frozen=True)
class _Body:
    """`layers` layers of a run that run `times` times; `rows`: weights of the first time -> those of each time."""

    run: Run
    layers: int
    times: int
    rows: dict[str, list[str]]

    @property
    def start(self) -> int:
        """The first operator."""
        return self.run.start

    @property
    def length(self) -> int:
        """Operators of the body."""
        return self.layers * self.run.period

    @property
    def end(self) -> int:
        """The first operator behind all repetitions."""
        return self.start + self.length * self.times


class _Reader:
    """A core function as plain data: `ops` are its operators, `nodes` what `find_layers` is told of them.

    `scalars`: the weights without dimensions.
    """

    def __init__(self, function: FuncOp) -> None:
        block = function.body.block
        final = block.last_op
        assert isinstance(final, ReturnOp)
        self.ops = [op for op in block.ops if op is not final and not isinstance(op, SOURCES)]
        weights = [op for op in block.ops if isinstance(op, WeightOp)]
        self.scalars = {op.weight_name for op in weights if not spec_of(op.result)[1]}
        self._numbers = {op: number for number, op in enumerate(self.ops)}
        self.nodes = [self._node(op) for op in self.ops]
        self.returned = [self._operand(value) for value in final.operands if not isinstance(value.owner, ConstantOp)]

    def _node(self, op: Operation) -> Node:
        constants = tuple(
            (number, value.owner.value, value.type)
            for number, value in enumerate(op.operands)
            if isinstance(value.owner, ConstantOp)
        )
        own = object() if op.regions else None
        properties, attributes = frozenset(op.properties.items()), frozenset(op.attributes.items())
        kind = (op.name, properties, attributes, tuple(op.result_types), constants, own)
        operands = [self._operand(value) for value in op.operands if not isinstance(value.owner, ConstantOp)]
        return Node(kind, tuple(operands), tuple(bytes_of(result.type) for result in op.results))

    def _operand(self, value: SSAValue) -> Operand:
        if isinstance(value.owner, WeightOp):
            return Weight(value.owner.weight_name, (value.type, value.owner.attributes.get(RANGE_ATTRIBUTE)))
        if isinstance(value, BlockArgument):
            return Given(value.index)
        assert isinstance(value, OpResult)
        return Made(self._numbers[value.op], value.index)


@dataclass
class _Part:
    """A part in the making, in values of the old function.

    `starts`: what the loop behind it starts from, the first results; `gives`: what else is used behind it. A loop takes
    its starts from the part in front of it, and `takes` besides, which stays the same; it gives what it passes on.
    """

    ops: Sequence[Operation]
    takes: list[SSAValue] = field(default_factory=list[SSAValue])
    starts: list[SSAValue] = field(default_factory=list[SSAValue])
    gives: list[SSAValue] = field(default_factory=list[SSAValue])
    body: _Body | None = None


@dataclass
class _Roller:
    """Writes the parts of one function. `made`: value of the function -> what stands for it in @main."""

    function: FuncOp
    launch: LaunchOp
    ops: Sequence[Operation]
    bodies: Sequence[_Body]
    made: dict[SSAValue, SSAValue] = field(default_factory=dict[SSAValue, SSAValue])

    def run(self) -> None:
        """Put the launches of the parts in the place of the function's."""
        block = self.function.body.block
        final = block.last_op
        assert final is not None
        returned = list(final.operands)
        for argument, operand in zip(block.args, self.launch.arguments, strict=True):
            self.made[argument] = operand
        wide = dict(zip(returned, self.launch.result_types, strict=True))
        place: Operation = self.function
        starts: list[SSAValue] = []
        for number, part in enumerate(self._parts(returned)):
            function = self._function(part, f"{self.function.sym_name.data}_part_{number}")
            if number == 0:
                function.attributes = {**self.function.attributes, **function.attributes}
            Rewriter.insert_op(function, InsertPoint.after(place))
            place = function
            starts = self._launch(part, function, starts, wide)
        Rewriter.replace_op(self.launch, [], [self.made[value] for value in returned])
        Rewriter.erase_op(self.function)

    # -- what is in which part ---------------------------------------------------------------------------------------

    def _parts(self, returned: Sequence[SSAValue]) -> list[_Part]:
        """The parts in order: a loop in every second one, also where the others only pass values on."""
        parts: list[_Part] = []
        position = 0
        for body in self.bodies:
            loop = self._loop(body)
            parts += [_Part(self.ops[position : body.start], starts=loop.starts), loop]
            position = body.end
        last = _Part(self.ops[position:])
        passed_on = {value for part in parts if part.body is not None for value in part.gives}
        # Loops and weights are no results: the last part gives those that are returned.
        own = [value for value in dict.fromkeys(returned) if value in passed_on or isinstance(value.owner, SOURCES)]
        needed = set(returned)
        for part in reversed([*parts, last]):
            if part.body is None:
                part.gives = [result for op in part.ops for result in op.results if result in needed]
                through = [*part.starts, *(own if part is last else ())]
                part.takes = _taken(part.ops, through)
            needed.update(part.takes)
        last.gives += own
        return [*parts, last] if last.gives else parts

    def _loop(self, body: _Body) -> _Part:
        """The part that is repeated."""
        ops = self.ops[body.start : body.start + body.length]
        starts = [self._value(value.first) for value in body.run.carried]
        gives = self._passed_on(body, body.end)
        return _Part(ops, [value for value in _taken(ops, ()) if value not in starts], starts, gives, body)

    def _passed_on(self, body: _Body, end: int) -> list[SSAValue]:
        """What the layer that ends before operator `end` gives to the next one."""
        base = end - body.run.period
        return [self.ops[base + value.position].results[value.result] for value in body.run.carried]

    def _value(self, operand: Made | Given) -> SSAValue:
        if isinstance(operand, Given):
            return self.function.body.block.args[operand.number]
        return self.ops[operand.node].results[operand.result]

    # -- writing -----------------------------------------------------------------------------------------------------

    def _function(self, part: _Part, name: str) -> FuncOp:
        """The function of a part, with operators of its own."""
        takes, gives = part.takes, [*part.starts, *part.gives]
        if part.body is not None:
            takes, gives = [*part.starts, *part.takes], self._passed_on(part.body, part.body.start + part.body.length)
        block = Block(arg_types=[value.type for value in takes])
        inside: dict[SSAValue, SSAValue] = {}
        for value, argument in zip(takes, block.args, strict=True):
            argument.name_hint = value.name_hint
            inside[value] = argument

        def known(value: SSAValue) -> SSAValue:
            if value not in inside and isinstance(value.owner, SOURCES):
                block.add_op(value.owner.clone(inside))
            return inside[value]

        for op in part.ops:
            for operand in op.operands:
                known(operand)
            block.add_op(op.clone(inside))
        results = [known(value) for value in gives]
        block.add_op(ReturnOp(*results))
        types = (block.arg_types, [value.type for value in results])
        function = FuncOp(name, types, Region(block), self.function.sym_visibility)
        function.location = part.ops[0].location if part.ops else self.function.location
        function.attributes = {
            EXECUTOR_ATTRIBUTE: self.function.attributes[EXECUTOR_ATTRIBUTE],
            PART_ATTRIBUTE: StringAttr(self.function.sym_name.data),
        }
        if part.body is not None:
            rows = [ArrayAttr([StringAttr(name) for name in row]) for row in part.body.rows.values()]
            function.attributes[LAYER_WEIGHTS_ATTRIBUTE] = ArrayAttr(rows)
        return function

    def _launch(
        self, part: _Part, function: FuncOp, starts: Sequence[SSAValue], wide: Mapping[SSAValue, Attribute]
    ) -> list[SSAValue]:
        """Launch a part in front of the old launch; returns what a loop behind it starts from."""
        taken = [*(starts if part.body is not None else ()), *(self.made[value] for value in part.takes)]
        if part.body is not None:
            types, times = [value.type for value in part.gives], part.body.times
        else:
            # A value of @main may have a wider integer type than the functions compute with; the launch converts.
            types = [*(v.type for v in part.starts), *(wide.get(v, v.type) for v in part.gives)]
            times = None
        launch = LaunchOp(function.sym_name.data, taken, types, Executor.CORE, times)
        launch.location = function.location
        Rewriter.insert_op(launch, InsertPoint.before(self.launch))
        first = len(types) - len(part.gives)
        self.made.update(zip(part.gives, launch.results[first:], strict=True))
        for value, result in zip([*part.starts[:first], *part.gives], launch.results, strict=True):
            result.name_hint = value.name_hint
        return list(launch.results[:first])


def _taken(ops: Sequence[Operation], through: Sequence[SSAValue]) -> list[SSAValue]:
    """What operators, and a function that also gives `through`, take from outside; not weights and constants."""
    inside = set(ops)
    values = (*(operand for op in ops for operand in op.operands), *through)
    return list(dict.fromkeys(v for v in values if v.owner not in inside and not isinstance(v.owner, SOURCES)))

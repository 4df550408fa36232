"""`graph-shard-pipeline`: one core function becomes the stages of a NeuronCore Pipeline, a function for each.

Given a partitioned module with fused groups, the core function with the most weights is read as a chain (`read_chain`),
`pipeline_cut` decides, and `apply_cut` moves its operators into stage functions that @main launches one after the
other. Operators that are cut have their parts put together again by who reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, UnitAttr, i64
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import (
    ConcatOp,
    shape_of,
)
from neuron_dialects.neuron import (
    CORE_ATTRIBUTE,
    PART_ATTRIBUTE,
    PIN_ATTRIBUTE,
    STAGE_ATTRIBUTE,
    WORKING_BYTES_ATTRIBUTE,
    Executor,
    LaunchOp,
    core_functions,
    target_of,
)
from passes.graph.conv_groups import LANES
from passes.graph.fold_weights import GraphFoldWeightsPass
from passes.graph.outline import SOURCES
from passes.graph.output_parts import add_to_sum, is_summed, make_part, make_sum, output_axis
from passes.graph.pass_along import pass_along
from passes.graph.pipeline_cut import Stage
from passes.graph.pipeline_fold import Cut, Cuts
from passes.graph.pipeline_graph import (
    COST_ATTRIBUTE,
    PipelineGraph,
    heaviest_function,
    is_cheap,
    read_chain,
    readers_of,
)


@dataclass(frozen=True)
class GraphShardPipelinePass(ModulePass):
    """Cut a core function into stages for `cores` cores.

        func.func @main(%x: tensor<128x768xf32>) -> tensor<128x768xf32> {
          %0 = neuron.launch @neuron_0(%x) on core : (tensor<128x768xf32>) -> tensor<128x768xf32>
          func.return %0
        }

    becomes

        func.func @main(%x: tensor<128x768xf32>) -> tensor<128x768xf32> {
          %0 = neuron.launch @neuron_0_stage_0(%x) on core : (tensor<128x768xf32>) -> tensor<128x3072xbf16>
          %1 = neuron.launch @neuron_0_stage_1(%0) on core : (tensor<128x3072xbf16>) -> tensor<128x768xf32>
          func.return %1
        }

    such that the slowest core is as fast as possible and the weights of each fit on it beside what it computes. Where
    that is worth it, cores have two stages, one from each end (`neuron.pipeline_core` says which). The stages are
    marked so that their weights are pinned. NX-PIPE-001 when they do not fit.
    """

    name = "graph-shard-pipeline"

    cores: int = 1

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Shard the heaviest core function, unless one core is asked for."""
        if self.cores < 1:
            raise NeuronError("NX-PASS-001", f"cores {self.cores} is less than 1")
        function = heaviest_function(op)
        if self.cores == 1 or function is None:
            return
        if PART_ATTRIBUTE in function.attributes:
            raise NeuronError(
                "NX-PASS-002",
                f"graph-shard-pipeline: the layers of @{function.sym_name.data} are rolled",
                help="leave graph-roll-layers out",
            )
        graph = read_chain(function, target_of(op))
        cores = stages_of(op, self.cores)
        shard(op, graph, Cuts(graph.chain, graph.costs, cores), cores)


def stages_of(module: ModuleOp, cores: int) -> int:
    """Stages of the heaviest core function when every other one has a core; NX-PIPE-002 when there are too few."""
    others = len(core_functions(module)) - 1
    if cores <= others:
        raise NeuronError(
            "NX-PIPE-002",
            f"{cores} cores for a model of {others + 1} core segments",
            help="ask for more cores, or let fewer operators run on the host",
        )
    return cores - others


# -- writing -----------------------------------------------------------------------------------------------------------


def shard(module: ModuleOp, graph: PipelineGraph, cuts: Cuts, cores: int) -> Cut:
    """Cut a function for so many cores; NX-PIPE-001 when it does not fit, NX-PIPE-002 when there is too little."""
    cut = cuts.cut(cores)
    if cut is None:
        raise refusal(graph, cuts, cores)
    apply_cut(module, graph, cut)
    return cut


def refusal(graph: PipelineGraph, cuts: Cuts, count: int) -> NeuronError:
    """The error for a function that cannot be cut into `count` stages."""
    atoms = len(graph.chain.atoms)
    if count > atoms:
        return NeuronError(
            "NX-PIPE-002", f"{count} stages of a function that can be cut into {atoms}", help="ask for fewer cores"
        )
    problem = cuts.misfit(count)
    missing = problem.needed_bytes - problem.capacity_bytes
    return NeuronError(
        "NX-PIPE-001",
        f"a pipeline of {count} cores needs {problem.needed_bytes} bytes of SBUF per partition on some core, limit"
        f" {problem.capacity_bytes}: {missing * LANES} bytes too many in all, the last core is full at this node",
        node=graph.name(problem.node),
        help="ask for more cores, or for `auto`",
    )


def apply_cut(module: ModuleOp, graph: PipelineGraph, cut: Cut) -> list[FuncOp]:
    """Replace the function by one for each stage, and its launch by one for each. Returns the stage functions."""
    functions = _Sharder(module, graph, cut).run()
    pass_along(module, functions)
    GraphFoldWeightsPass().apply(Context(), module)
    return functions


@dataclass
class _Sharder:
    """Writes the stages. `made`: value of the function -> what stands for it in @main, whole or in parts; `sums`: node
    that was cut together with its feeder -> the sum so far.

    A value of @main may have a wider integer type than the functions compute with; the launch converts.
    """

    module: ModuleOp
    graph: PipelineGraph
    cut: Cut
    made: dict[SSAValue, list[SSAValue]] = field(default_factory=dict[SSAValue, list[SSAValue]])
    sums: dict[int, SSAValue] = field(default_factory=dict[int, SSAValue])

    def _room(self, stage: Stage, core: int) -> int:
        """What the kernels of a stage are told to be there for their buffers."""
        costs = self.graph.costs
        return costs.rooms[stage.level] or costs.capacity_bytes - self.cut.pinned_bytes(core)

    def run(self) -> list[FuncOp]:
        """All stages in order."""
        graph = self.graph
        old = graph.function
        launch = next(
            op
            for op in self.module.walk()
            if isinstance(op, LaunchOp) and op.callee.root_reference.data == old.sym_name.data
        )
        for argument, operand in zip(old.body.block.args, launch.arguments, strict=True):
            self.made[argument] = [operand]
        returned = old.body.block.last_op
        assert isinstance(returned, ReturnOp)
        wanted: dict[SSAValue, list[Attribute]] = {}
        for value, result in zip(returned.arguments, launch.results, strict=True):
            if result.type not in wanted.setdefault(value, []):
                wanted[value].append(result.type)
        given: dict[tuple[SSAValue, Attribute], SSAValue] = {}
        place: Operation = old
        functions: list[FuncOp] = []
        for number, (stage, core) in enumerate(zip(self.cut.stages, self.cut.core_of, strict=True)):
            body = _StageBody(graph, stage, self.made, self.sums, wanted)
            function = body.function(f"{old.sym_name.data}_stage_{number}")
            function.attributes |= old.attributes | {
                PIN_ATTRIBUTE: UnitAttr(),
                STAGE_ATTRIBUTE: IntegerAttr(number, i64),
                CORE_ATTRIBUTE: IntegerAttr(core, i64),
                WORKING_BYTES_ATTRIBUTE: IntegerAttr(self._room(stage, core), i64),
            }
            function.location = body.location
            self.module.body.block.insert_op_after(function, place)
            place = function
            functions.append(function)
            results = [type_ for _, _, type_ in body.sent] + [inner.type for _, inner in body.sums]
            made = LaunchOp(function.sym_name.data, body.inputs, results, Executor.CORE)
            made.location = body.location
            Rewriter.insert_op(made, InsertPoint.before(launch))
            self.sums.update(
                {node: result for (node, _), result in zip(body.sums, made.results[len(body.sent) :], strict=True)}
            )
            sent_before: set[SSAValue] = set()
            for (value, _, type_), result in zip(body.sent, made.results, strict=False):
                result.name_hint = value.name_hint
                given[value, type_] = result
                if value not in sent_before:
                    self.made.setdefault(value, []).append(result)
                sent_before.add(value)
        pairs = zip(returned.arguments, launch.results, strict=True)
        # What is not given is an argument that is returned as it came.
        results = [given.get((value, result.type)) or self.made[value][0] for value, result in pairs]
        Rewriter.replace_op(launch, [], results)
        old.detach()
        old.erase()
        return functions


class _StageBody:
    """The operators of one stage in a block of their own.

    `inputs`: values of @main that it takes; `sent`: (value of the function, value inside, type in @main) that later
    stages or the caller use; `sums`: (node, sum so far) that the next stage adds to; `results`: the values inside.
    `wanted`: value of the function -> the types in which @main returns it.
    """

    def __init__(
        self,
        graph: PipelineGraph,
        stage: Stage,
        made: dict[SSAValue, list[SSAValue]],
        earlier: dict[int, SSAValue],
        wanted: Mapping[SSAValue, Sequence[Attribute]],
    ) -> None:
        self.graph, self.stage, self._made, self._earlier, self._wanted = graph, stage, made, earlier, wanted
        self.sums: list[tuple[int, SSAValue]] = []
        self.block = Block()
        self.inputs: list[SSAValue] = []
        self.sent: list[tuple[SSAValue, SSAValue, Attribute]] = []
        self._arguments: dict[SSAValue, SSAValue] = {}
        self._values: dict[SSAValue, SSAValue] = {}
        self._parts: dict[SSAValue, list[SSAValue]] = {}
        self._fill()
        self.results = [value for _, value, _ in self.sent] + [value for _, value in self.sums]
        self.block.add_op(ReturnOp(*self.results))
        first = graph.ops[graph.chain.atoms[stage.first].node]
        self.location = first.location

    def function(self, name: str) -> FuncOp:
        """The stage as a function."""
        types = (self.block.arg_types, [value.type for value in self.results])
        return FuncOp(name, types, Region(self.block), self.graph.function.sym_visibility)

    def _fill(self) -> None:
        atoms = self.graph.chain.atoms[self.stage.first : self.stage.last]
        ranges: dict[int, list[int]] = {}
        for atom in atoms:
            ranges.setdefault(atom.node, []).append(atom.piece)
        for number, pieces in ranges.items():
            op, count = self.graph.ops[number], self.graph.chain.nodes[number].pieces
            if number in self.graph.feeders:
                self._fed(number, pieces)
            elif len(pieces) == count and (cut := self._summed_operand(op)) is not None:
                made_sum = make_sum(op, cut, self._all_parts(cut), self._value, self.block.add_op)
                self._values[op.results[0]] = made_sum
            elif len(pieces) == count:
                self._whole(op)
            else:
                self._part(op, pieces, count)
        for number in ranges:
            self._send(number, ranges[number])
        if self.stage.last == len(self.graph.chain.atoms):
            self._send_sources()

    def _send_sources(self) -> None:
        """The last stage gives weights and constants that are results, and arguments that @main has in other types."""
        returned = self.graph.function.body.block.last_op
        assert returned is not None
        for value in dict.fromkeys(returned.operands):
            if isinstance(value.owner, SOURCES):
                self._give(value, self._value(value))
            elif isinstance(value, BlockArgument):
                (outside,) = self._made[value]
                types = [type_ for type_ in self._wanted[value] if type_ != outside.type]
                self.sent += [(value, self._value(value), type_) for type_ in types]

    def _whole(self, op: Operation) -> None:
        """All of an operator."""
        made = op.clone(value_mapper={operand: self._value(operand) for operand in dict.fromkeys(op.operands)})
        made.location = op.location
        made.attributes.pop(COST_ATTRIBUTE, None)
        self.block.add_op(made)
        self._values.update(zip(op.results, made.results, strict=True))

    def _fed(self, number: int, pieces: Sequence[int]) -> None:
        """Some pieces of a product and of what feeds it: its sum over them, on top of that of earlier stages."""
        op, feeder = self.graph.ops[number], self.graph.feeders[number]
        count = self.graph.chain.nodes[number].pieces
        if len(pieces) == count:
            self._whole(feeder)
            self._whole(op)
            return
        cut = feeder.results[0]
        axis = output_axis(feeder)
        assert axis is not None
        step = shape_of(cut)[axis] // count
        low, size = pieces[0] * step, len(pieces) * step
        part = make_part(feeder, low, size, self._value, self.block.add_op)
        assert isinstance(part.owner, Operation)
        part.owner.attributes.pop(COST_ATTRIBUTE, None)
        total = self._earlier.get(number)
        total = None if total is None else self._argument(total, total.type)
        is_last = pieces[-1] == count - 1
        made = add_to_sum(op, part, low, total, is_last, self._value, self.block.add_op)
        if is_last:
            self._values[op.results[0]] = made
        else:
            self.sums.append((number, made))

    def _summed_operand(self, op: Operation) -> SSAValue | None:
        """The operand in parts over which a product sums, if there is one."""
        for operand in op.operands:
            if operand not in self._values and is_summed(op, operand) and len(self._all_parts(operand)) > 1:
                return operand
        return None

    def _all_parts(self, value: SSAValue) -> list[SSAValue]:
        """The parts of a value: those of earlier stages as arguments, and the one made here."""
        outside = self._made.get(value, [])
        types = [value.type] if len(outside) == 1 and value not in self._parts else [part.type for part in outside]
        parts = [self._argument(part, type_) for part, type_ in zip(outside, types, strict=True)]
        return parts + self._parts.get(value, [])

    def _part(self, op: Operation, pieces: Sequence[int], count: int) -> None:
        """Some pieces of an operator."""
        axis = output_axis(op)
        assert axis is not None
        step = shape_of(op.results[0])[axis] // count
        low, size = pieces[0] * step, len(pieces) * step
        part = make_part(op, low, size, self._value, self.block.add_op)
        assert isinstance(part.owner, Operation)
        part.owner.attributes.pop(COST_ATTRIBUTE, None)
        self._parts[op.results[0]] = [part]

    def _send(self, number: int, pieces: Sequence[int]) -> None:
        """Note the results of a node that are needed outside; its last piece puts a returned result together."""
        chain, op = self.graph.chain, self.graph.ops[number]
        for result in op.results:
            is_returned = chain.values[self.graph.numbers[result]].is_returned
            users = () if is_cheap(op) else readers_of(result)
            used_later = any(self.graph.last_atom[user] >= self.stage.last for user in users)
            if not is_returned and not used_later:
                continue
            if result not in self._values and number in self.graph.feeders:
                continue
            if result in self._values:
                # Whole, even if it came in parts: they were put together here.
                self._give(result, self._values[result])
                self._made.pop(result, None)
            elif is_returned and pieces[-1] == chain.nodes[number].pieces - 1:
                self._give(result, self._value(result))
                self._made.pop(result, None)
            else:
                part = self._parts[result][0]
                self.sent.append((result, part, part.type))

    def _give(self, value: SSAValue, inside: SSAValue) -> None:
        """Send a whole value, once for each type in which @main returns it."""
        self.sent += [(value, inside, type_) for type_ in self._wanted.get(value, (inside.type,))]

    def _value(self, value: SSAValue) -> SSAValue:
        """What stands for a value of the function in the stage."""
        if value in self._values:
            return self._values[value]
        owner = value.owner
        if isinstance(owner, SOURCES):
            source = owner.clone()
            source.location = owner.location
            self.block.add_op(source)
            made = source.results[0]
        elif isinstance(owner, Operation) and is_cheap(owner):
            self._whole(owner)
            return self._values[value]
        else:
            parts = self._all_parts(value)
            made = parts[0]
            if len(parts) > 1:
                assert isinstance(owner, Operation)
                axis = output_axis(owner)
                assert axis is not None
                joined = ConcatOp(parts, axis)
                joined.location = owner.location
                self.block.add_op(joined)
                made = joined.result
        made.name_hint = value.name_hint
        self._values[value] = made
        return made

    def _argument(self, outside: SSAValue, type_: Attribute) -> SSAValue:
        """The argument for a value of @main, of the type that functions compute with."""
        if outside not in self._arguments:
            self.inputs.append(outside)
            self._arguments[outside] = self.block.insert_arg(type_, len(self.block.args))
        return self._arguments[outside]

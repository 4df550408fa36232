"""`graph-partition`: what runs on a core and what on the host, as functions of their own.

Given a module whose @main computes with graph operators, leaves a @main of launches, and a function for each segment:
@neuron_K for a core, @host_K for the host, K counting in the order in which they run. `neuron.partition` on the module
records for every operator where it runs and why. The cutting itself is in `segments`, on plain numbers; what a core can
run is said by `neuron_dialects.graph.support`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.dtypes import I64, dtype_of_or_none
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import (
    BroadcastOp,
    CastOp,
    ConcatOp,
    ConstantOp,
    OnnxNodeOp,
    PadOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    WeightOp,
)
from neuron_dialects.graph.shapes import element_count
from neuron_dialects.graph.support import core_support
from neuron_dialects.neuron import Executor, ExecutorAttr, LaunchOp, location_name, target_of
from neuron_dialects.target import Target
from passes.graph.segments import Node, assign_segments, keep_with_host

EXECUTOR_ATTRIBUTE = "neuron.executor"
"""Function attribute: who runs an outlined segment, an `ExecutorAttr`."""

PARTITION_ATTRIBUTE = "neuron.partition"
"""Module attribute: an array of strings, one for each operator (`PartitionEntry`)."""

MOVING = (ReshapeOp, TransposeOp, BroadcastOp, ConcatOp, SliceOp, PadOp, CastOp)
"""Operators that compute nothing: they may as well run on the host when only the host needs them."""

_SOURCES = (WeightOp, ConstantOp)


@dataclass(frozen=True)
class PartitionEntry:
    """Where an operator runs, and why."""

    node: str
    """Name of the framework node, empty if unknown."""
    op: str
    """The graph operator, or the ONNX operator of a `graph.onnx_node`."""
    executor: Executor
    reason: str

    def text(self) -> str:
        """The entry as it is written in the module: node|op|core or host|reason."""
        return f"{self.node}|{self.op}|{self.executor.value}|{self.reason}"

    @staticmethod
    def from_text(text: str) -> PartitionEntry:
        """The entry of such a text. A node's name may contain the separator."""
        node, op, executor, reason = text.rsplit("|", 3)
        return PartitionEntry(node, op, Executor(executor), reason)


def partition_report(module: ModuleOp) -> list[PartitionEntry]:
    """What `graph-partition` decided for each operator, in program order; empty before it ran."""
    entries = module.attributes.get(PARTITION_ATTRIBUTE)
    if not isinstance(entries, ArrayAttr):
        return []
    return [PartitionEntry.from_text(entry.data) for entry in entries if isinstance(entry, StringAttr)]


def functions_of(module: ModuleOp, executor: Executor) -> list[FuncOp]:
    """The outlined functions that run on `executor`, in the order in which they stand in the module."""
    wanted = ExecutorAttr(executor)
    return [op for op in module.ops if isinstance(op, FuncOp) and op.attributes.get(EXECUTOR_ATTRIBUTE) == wanted]


@dataclass(frozen=True)
class GraphPartitionPass(ModulePass):
    """Outline the segments of @main that run on a core and on the host.

        func.func @main(%x: tensor<4xf32>) -> tensor<2xi64> {
          %0 = graph.unary exp %x ...
          %1, %2 = graph.onnx_node "TopK"(%0, %k) ...
          func.return %2
        }

    becomes

        func.func @main(%x: tensor<4xf32>) -> tensor<2xi64> {
          %0 = neuron.launch @neuron_0(%x) on core : (tensor<4xf32>) -> tensor<4xf32>
          %2 = neuron.launch @host_1(%0) on host : (tensor<4xf32>) -> tensor<2xi64>
          func.return %2
        }

    with the operators in @neuron_0 and @host_1. Segments are as few as possible. Weights and constants are repeated in
    each segment that uses them. An operator that only moves data for the host stays there. A result that is an
    argument, a weight, a constant or another result is copied, by a reshape to its own shape, where a core can hold it.
    """

    name = "graph-partition"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Partition @main. NeuronError NX-PASS-002 when there is none of one block, or when that was done before."""
        target = target_of(op)
        main = _main_of(op)
        block = main.body.block
        _copy_returned(block, target)
        ops = [child for child in block.ops if not isinstance(child, ReturnOp | WeightOp | ConstantOp)]
        reasons = [core_support(child, target) for child in ops]
        nodes = _nodes(block, ops, [reason is not None for reason in reasons])
        kept = keep_with_host(nodes)
        on_host = [node.on_host or number in kept for number, node in enumerate(nodes)]
        op.attributes[PARTITION_ATTRIBUTE] = ArrayAttr(
            StringAttr(_entry(child, reason, number in kept).text())
            for number, (child, reason) in enumerate(zip(ops, reasons, strict=True))
        )
        levels = assign_segments(on_host, [node.producers for node in nodes])
        segments: list[list[Operation]] = [[] for _ in set(levels)]
        hosts = dict(zip(levels, on_host, strict=True))
        for child, level in zip(ops, levels, strict=True):
            segments[level].append(child)
        outline = _Outline(op, main)
        for level, members in enumerate(segments):
            outline.add(members, Executor.HOST if hosts[level] else Executor.CORE)
        outline.finish()


def _main_of(module: ModuleOp) -> FuncOp:
    main = next((op for op in module.ops if isinstance(op, FuncOp) and op.sym_name.data == "main"), None)
    if main is None or len(main.body.blocks) != 1:
        raise NeuronError("NX-PASS-002", "graph-partition: the module has no function @main of one block")
    if any(isinstance(op, LaunchOp) for op in main.body.block.ops):
        raise NeuronError("NX-PASS-002", "graph-partition: @main launches segments already")
    return main


def _copy_returned(block: Block, target: Target) -> None:
    """Put a copy, an operator like any other, behind each result that no operator of its own computes.

    64-bit integers of which it is not known that they fit a core's 32 bits, and types that no core has, stay as they
    are: the host passes them on.
    """
    final = block.last_op
    assert final is not None
    seen: set[SSAValue] = set()
    for index, value in enumerate(final.operands):
        owner = value.owner
        if value in seen or isinstance(owner, Block | WeightOp | ConstantOp):
            wide = dtype_of_or_none(value.type) is I64 and not isinstance(owner, ConstantOp)
            if isinstance(value.type, TensorType) and dtype_of_or_none(value.type) is not None and not wide:
                copy = ReshapeOp(value, value.type.get_shape())
                if core_support(copy, target) is None:
                    copy.location = owner.location if isinstance(owner, Operation) else final.location
                    copy.result.name_hint = value.name_hint
                    block.insert_op_before(copy, final)
                    final.operands[index] = copy.result
                else:
                    copy.erase()
        seen.add(value)


def _entry(op: Operation, reason: str | None, kept: bool) -> PartitionEntry:
    name = op.op_type.data if isinstance(op, OnnxNodeOp) else op.name
    if reason is None:
        reason = "only moves data for the host" if kept else "supported"
        executor = Executor.HOST if kept else Executor.CORE
    else:
        executor = Executor.HOST
    return PartitionEntry(location_name(op.location) or "", name, executor, reason)


def _nodes(block: Block, ops: Sequence[Operation], on_host: Sequence[bool]) -> list[Node]:
    """The operators as the segment algorithms see them."""
    number: dict[Operation | Block, int] = {op: position for position, op in enumerate(ops)}
    host_inputs = {
        argument
        for argument in block.args
        if any((user := number.get(use.operation)) is not None and on_host[user] for use in argument.uses)
    }
    inputs = set(block.args)
    last_random: int | None = None
    nodes: list[Node] = []
    for position, op in enumerate(ops):
        producers = {number[operand.owner] for operand in op.operands if operand.owner in number}
        if isinstance(op, OnnxNodeOp) and op.random is not None:
            # Nodes that draw random numbers do so in the program's order.
            producers |= {last_random} if last_random is not None else set()
            last_random = position
        arguments = inputs.intersection(op.operands)
        nodes.append(
            Node(
                on_host[position],
                sorted(producers),
                moves_only=isinstance(op, MOVING),
                is_returned=any(isinstance(use.operation, ReturnOp) for result in op.results for use in result.uses),
                reads_host_input=not arguments.isdisjoint(host_inputs),
                reads_core_input=not arguments <= host_inputs,
                result_bytes=sum(_bytes(result.type) for result in op.results),
            )
        )
    return nodes


def _bytes(type_: Attribute) -> int:
    """Bytes of a tensor; 0 where shape or element type are not known."""
    dtype = dtype_of_or_none(type_) if isinstance(type_, TensorType) else None
    if dtype is None or not isinstance(type_, TensorType) or not type_.has_static_shape():
        return 0
    return element_count(type_.get_shape()) * dtype.size_bytes


class _Outline:
    """Moves operators out of @main, segment by segment in the order in which they run."""

    def __init__(self, module: ModuleOp, main: FuncOp) -> None:
        self._module = module
        self._main = main
        self._last: Operation = main
        self._count = 0

    def add(self, members: Sequence[Operation], executor: Executor) -> None:
        """Outline one segment: its operators in program order."""
        inside = set(members)
        inputs = list(
            dict.fromkeys(
                operand
                for op in members
                for operand in op.operands
                if operand.owner not in inside and not isinstance(operand.owner, _SOURCES)
            )
        )
        outputs = [
            result for op in members for result in op.results if any(use.operation not in inside for use in result.uses)
        ]
        launch = self._launch(inputs, outputs, executor, members[0])
        for old, new in zip(outputs, launch.results, strict=True):
            new.name_hint = old.name_hint
            old.replace_uses_with_if(new, lambda use: use.operation not in inside)
        body = Block(arg_types=[value.type for value in inputs])
        values: dict[SSAValue, SSAValue] = dict(zip(inputs, body.args, strict=True))
        for value, argument in zip(inputs, body.args, strict=True):
            argument.name_hint = value.name_hint
        for op in members:
            op.detach()
            op.operands = [self._value_inside(operand, values, body) for operand in op.operands]
            body.add_op(op)
        body.add_op(ReturnOp(*outputs))
        self._add_function(launch, body, outputs)

    def finish(self) -> None:
        """Return constants and weights from a segment of the host, and drop those that are left over in @main."""
        block = self._main.body.block
        final = block.last_op
        assert final is not None
        returned = list(dict.fromkeys(value for value in final.operands if isinstance(value.owner, _SOURCES)))
        if returned:
            sources = [value.owner for value in returned if isinstance(value.owner, Operation)]
            launch = self._launch([], returned, Executor.HOST, sources[0])
            values: dict[SSAValue, SSAValue] = {}
            body = Block([source.clone(values) for source in sources])
            body.add_op(ReturnOp(*(values[value] for value in returned)))
            for old, new in zip(returned, launch.results, strict=True):
                new.name_hint = old.name_hint
                old.replace_uses_with_if(new, lambda use: use.operation is final)
            self._add_function(launch, body, returned)
        for op in list(block.ops):
            if isinstance(op, _SOURCES):
                block.erase_op(op)

    def _launch(
        self, inputs: Sequence[SSAValue], outputs: Sequence[SSAValue], executor: Executor, first: Operation
    ) -> LaunchOp:
        """The launch of the next segment, at the end of @main; its location is that of the segment's first operator."""
        prefix = "host" if executor is Executor.HOST else "neuron"
        launch = LaunchOp(f"{prefix}_{self._count}", inputs, [value.type for value in outputs], executor)
        launch.location = first.location
        self._count += 1
        final = self._main.body.block.last_op
        assert final is not None
        self._main.body.block.insert_op_before(launch, final)
        return launch

    def _value_inside(self, operand: SSAValue, values: dict[SSAValue, SSAValue], body: Block) -> SSAValue:
        """The value that stands for `operand` in a segment; weights and constants are repeated where first used."""
        if isinstance(operand.owner, _SOURCES) and operand not in values:
            body.add_op(operand.owner.clone(values))
        return values.get(operand, operand)

    def _add_function(self, launch: LaunchOp, body: Block, outputs: Sequence[SSAValue]) -> None:
        """Add the function of a segment behind the one before it."""
        types = (body.arg_types, [value.type for value in outputs])
        function = FuncOp(launch.callee.root_reference.data, types, Region(body))
        function.attributes[EXECUTOR_ATTRIBUTE] = launch.executor
        function.location = launch.location
        self._module.body.block.insert_op_after(function, self._last)
        self._last = function

"""`graph-partition`: what runs on a core and what on the host, as functions of their own.

Given a module whose @main computes with graph operators, leaves a @main of launches, and a function for each segment:
@neuron_K for a core, @host_K for the host, K counting in the order in which they run. `neuron.partition` on the module
records for every operator where it runs and why. Who runs what is decided in `executors`, and the functions are made in
`outline`.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.dtypes import I64, dtype_of_or_none
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import ConstantOp, ReshapeOp, WeightOp
from neuron_dialects.graph.support import core_support
from neuron_dialects.neuron import Executor, LaunchOp, location_name, target_of
from neuron_dialects.remarks import remark
from neuron_dialects.target import Target
from passes.graph.executors import Controls, Decision, decide, operator_name
from passes.graph.outline import SOURCES, Outline

__all__ = [
    "PARTITION_ATTRIBUTE",
    "GraphPartitionPass",
    "PartitionEntry",
    "partition_report",
]

PARTITION_ATTRIBUTE = "neuron.partition"
"""Module attribute: an array of strings, one for each operator (`PartitionEntry`)."""


@dataclass(frozen=True)
class PartitionEntry:
    """Where an operator runs, and why."""

    node: str
    """Name of the framework node, empty if unknown."""
    op: str
    """The graph operator, or the ONNX operator of a `graph.onnx_node`."""
    executor: Executor
    segment: str
    """The function that it runs in, as the partition left it."""
    reason: str

    def text(self) -> str:
        """The entry as it is written in the module: node|op|core or host|segment|reason."""
        reason = self.reason.replace("|", "/")
        return f"{self.node}|{self.op}|{self.executor.value}|{self.segment}|{reason}"

    @staticmethod
    def from_text(text: str) -> PartitionEntry:
        """The entry of such a text. A node's name may contain the separator."""
        node, op, executor, segment, reason = text.rsplit("|", 4)
        return PartitionEntry(node, op, Executor(executor), segment, reason)


def partition_report(module: ModuleOp) -> list[PartitionEntry]:
    """What `graph-partition` decided for each operator, in program order; empty before it ran."""
    entries = module.attributes.get(PARTITION_ATTRIBUTE)
    if not isinstance(entries, ArrayAttr):
        return []
    return [PartitionEntry.from_text(entry.data) for entry in entries if isinstance(entry, StringAttr)]


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
    each segment that uses them. A result that is an argument, a weight, a constant or another result is copied, by a
    reshape to its own shape, where a core can hold it. An operator that only moves data for the host stays there; so
    does a small island of supported operators whose transfers and launches take longer than the host would
    (`by-time=false` forbids that).
    """

    name = "graph-partition"

    minimum_segment_size: int = 1
    """Core segments of fewer operators run on the host."""
    force_host: tuple[str, ...] = ()
    """Operators that run on the host: names of framework nodes, or of operators (`softmax`, `TopK`)."""
    force_core: tuple[str, ...] = ()
    """Operators that run on the core, or are an error: NX-PART-001."""
    must_compile: bool = False
    """Anything on the host is an error: NX-PART-002."""
    by_time: bool = True
    """Whether supported operators run on the host where that saves time by the estimates."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Partition @main. NeuronError NX-PASS-002 when there is none of one block, or when that was done before."""
        if self.minimum_segment_size < 1:
            raise NeuronError("NX-PASS-001", f"minimum-segment-size {self.minimum_segment_size} is less than 1")
        target = target_of(op)
        main = _main_of(op)
        block = main.body.block
        _copy_returned(main, target)
        ops = [child for child in block.ops if not isinstance(child, (ReturnOp, *SOURCES))]
        controls = Controls(
            self.minimum_segment_size,
            frozenset(self.force_host),
            frozenset(self.force_core),
            self.by_time,
            self.must_compile,
        )
        decisions = decide(block, ops, target, controls)
        outline = Outline(op, main)
        names: list[str] = []
        for members, executor in _segments(ops, decisions):
            names.append(outline.add(members, executor))
        for child, decision in zip(ops, decisions, strict=True):
            if decision.executor is Executor.HOST:
                remark(
                    "missed",
                    "core",
                    f"{operator_name(child)} runs on the host",
                    op=child,
                    reason=decision.reason,
                    suggestion="neuron-cc list-operators --verbose tells what a core runs; --force-core insists",
                )
        on_core = sum(decision.executor is Executor.CORE for decision in decisions)
        remark(
            "analysis",
            "segments",
            "the program is split between core and host",
            function="main",
            operators_on_core=on_core,
            operators_on_host=len(ops) - on_core,
            segments=len(names),
        )
        op.attributes[PARTITION_ATTRIBUTE] = ArrayAttr(
            StringAttr(_entry(child, decision, names[decision.segment]).text())
            for child, decision in zip(ops, decisions, strict=True)
        )
        outline.finish()


def _segments(ops: list[Operation], decisions: list[Decision]) -> list[tuple[list[Operation], Executor]]:
    """The operators of each segment in program order, and who runs them."""
    count = max((decision.segment for decision in decisions), default=-1) + 1
    members: list[list[Operation]] = [[] for _ in range(count)]
    executors = [Executor.CORE] * count
    for op, decision in zip(ops, decisions, strict=True):
        members[decision.segment].append(op)
        executors[decision.segment] = decision.executor
    return list(zip(members, executors, strict=True))


def _entry(op: Operation, decision: Decision, segment: str) -> PartitionEntry:
    node = location_name(op.location) or ""
    return PartitionEntry(node, operator_name(op), decision.executor, segment, decision.reason)


def _main_of(module: ModuleOp) -> FuncOp:
    main = next((op for op in module.ops if isinstance(op, FuncOp) and op.sym_name.data == "main"), None)
    if main is None or len(main.body.blocks) != 1:
        raise NeuronError("NX-PASS-002", "graph-partition: the module has no function @main of one block")
    if any(isinstance(op, LaunchOp) for op in main.body.block.ops):
        raise NeuronError("NX-PASS-002", "graph-partition: @main launches segments already")
    return main


def _inputs_by_name(main: FuncOp) -> dict[int, SSAValue]:
    """Position of each result that has an argument's name -> that argument: the two are one tensor of the model."""
    inputs, outputs = (main.attributes.get(f"neuron.{kind}_names") for kind in ("input", "output"))
    if not isinstance(inputs, ArrayAttr) or not isinstance(outputs, ArrayAttr):
        return {}
    arguments: dict[Attribute, SSAValue] = dict(zip(inputs, main.body.block.args, strict=True))
    return {index: arguments[name] for index, name in enumerate(outputs) if name in arguments}


def _copy_returned(main: FuncOp, target: Target) -> None:
    """Put a copy, an operator like any other, behind each result that no operator of its own computes.

    64-bit integers of which it is not known that they fit a core's 32 bits, and types that no core has, stay as they
    are: the host passes them on.
    """
    block = main.body.block
    final = block.last_op
    assert final is not None
    same = _inputs_by_name(main)
    seen: set[SSAValue] = set()
    for index, value in enumerate(final.operands):
        owner = value.owner
        if same.get(index) is value:
            continue
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

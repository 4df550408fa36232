"""Who runs each operator, and why: the rules of `graph-partition`, from the IR to the plain data of the algorithms.

Given the operators of @main, the target and what the user asked for, `decide` gives each operator its executor, reason
and segment. In order: what a core cannot run, what the back end refused, and what the user forced to the host stays on
the host; data movement that only the host needs joins it (`segments`); islands that cost more time on the core than on
the host join it (`placement`); segments smaller than the user's minimum join it. An operator forced to the core is
moved by none of these.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import StringAttr
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Block, Operation, SSAValue

from neuron_dialects.cost import boundary_ns, core_operator_ns, host_operator_ns
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import OnnxNodeOp
from neuron_dialects.graph.support import core_support
from neuron_dialects.graph.work import MOVING, bytes_of, flops_of, model_macs, touched_bytes, vector_elements
from neuron_dialects.neuron import Executor, location_name, location_names
from neuron_dialects.target import Target
from passes.graph.placement import Move, Program, TimedOperator, Value, drop_small_segments, move_islands
from passes.graph.segments import Node, assign_segments, keep_with_host

REFUSED_ATTRIBUTE = "neuron.refused"
"""Operator attribute: why the back end could not lower an operator that a core should run. It goes to the host."""

SUPPORTED, FORCED_CORE = "supported", "forced to the core"
REFUSED = "the back end refused it"
ONLY_MOVES, FORCED_HOST = "only moves data for the host", "forced to the host"

LISTED = 100
"""How many operators an error names."""


@dataclass(frozen=True)
class Controls:
    """What the user asks of the partition; names are those of framework nodes or of operators (`operator_names`)."""

    minimum_segment_size: int = 1
    force_host: Collection[str] = ()
    force_core: Collection[str] = ()
    by_time: bool = True
    must_compile: bool = False


@dataclass(frozen=True)
class Decision:
    """Where an operator runs, why, and in which segment (counted in the order in which they run)."""

    executor: Executor
    reason: str
    segment: int


def operator_name(op: Operation) -> str:
    """The graph operator, or the ONNX operator of a `graph.onnx_node`."""
    return op.op_type.data if isinstance(op, OnnxNodeOp) else op.name


def operator_names(op: Operation) -> list[str]:
    """What an operator can be forced by: its framework nodes, and its operator with and without the dialect."""
    name = operator_name(op)
    return [*location_names(op.location), name, name.removeprefix("graph.")]


def decide(block: Block, ops: Sequence[Operation], target: Target, controls: Controls) -> list[Decision]:
    """A decision for each of the operators of a block that are not weights or constants, in program order.

    NeuronError NX-PART-001 for an operator that is forced to the core and cannot run there, NX-PART-002 when
    `controls.must_compile` and something would run on the host.
    """
    pinned = [is_forced(op, controls.force_core) for op in ops]
    reasons = [_host_reason(op, target, controls.force_host) for op in ops]
    for op, forced, reason in zip(ops, pinned, reasons, strict=True):
        if forced and reason is not None:
            raise NeuronError(
                "NX-PART-001",
                f"{operator_name(op)} is forced to the core, but {_clause(reason)}",
                node=location_name(op.location),
                help="do not force it, or change the model as `neuron-cc analyze` advises",
            )
    nodes = _nodes(block, ops, [reason is not None for reason in reasons], pinned)
    for number in keep_with_host(nodes):
        reasons[number] = ONLY_MOVES
    producers = [node.producers for node in nodes]
    if controls.by_time and not controls.must_compile:
        on_host = [reason is not None for reason in reasons]
        for number, move in move_islands(_program(block, ops, producers, pinned, target), on_host).items():
            reasons[number] = _time_reason(move)
    on_host = [reason is not None for reason in reasons]
    levels = assign_segments(on_host, producers)
    if (minimum := controls.minimum_segment_size) > 1:
        on_host, levels = drop_small_segments(on_host, producers, minimum, pinned)
        small = f"in a segment of fewer than {minimum} operators"
        reasons = [small if host and reason is None else reason for host, reason in zip(on_host, reasons, strict=True)]
    if controls.must_compile:
        _refuse_host(ops, reasons)
    return [
        Decision(Executor.CORE, FORCED_CORE if forced else SUPPORTED, level)
        if reason is None
        else Decision(Executor.HOST, reason, level)
        for reason, forced, level in zip(reasons, pinned, levels, strict=True)
    ]


def is_forced(op: Operation, names: Collection[str]) -> bool:
    """Whether an operator is called by one of these names."""
    return bool(names) and not set(names).isdisjoint(operator_names(op))


def _host_reason(op: Operation, target: Target, force_host: Collection[str]) -> str | None:
    """Why an operator must run on the host, None if it need not."""
    if (reason := core_support(op, target)) is not None:
        return reason
    refused = op.attributes.get(REFUSED_ATTRIBUTE)
    if isinstance(refused, StringAttr):
        return f"{REFUSED}: {refused.data}"
    return FORCED_HOST if is_forced(op, force_host) else None


def _clause(reason: str) -> str:
    return f"it is {reason} too" if reason == FORCED_HOST else reason


def _time_reason(move: Move) -> str:
    return (
        f"too little work for a core: with transfers {move.core_ns / 1000:.1f} us there,"
        f" {move.host_ns / 1000:.1f} us on the host"
    )


def _refuse_host(ops: Sequence[Operation], reasons: Sequence[str | None]) -> None:
    """NeuronError NX-PART-002 that lists what is on the host, if anything is."""
    rows = [
        f"  {operator_name(op)} '{location_name(op.location) or ''}': {reason}"
        for op, reason in zip(ops, reasons, strict=True)
        if reason is not None
    ]
    if rows:
        hidden = [f"  and {len(rows) - LISTED} more"] if len(rows) > LISTED else []
        count = f"{len(rows)} of {len(ops)} operators would run on the host:"
        raise NeuronError(
            "NX-PART-002",
            "\n".join([count, *rows[:LISTED], *hidden]),
            help="compile without --must-compile, or change the model as `neuron-cc analyze` advises",
        )


def _nodes(block: Block, ops: Sequence[Operation], on_host: Sequence[bool], pinned: Sequence[bool]) -> list[Node]:
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
                moves_only=isinstance(op, MOVING) and not pinned[position],
                is_returned=any(map(_is_returned, op.results)),
                reads_host_input=not arguments.isdisjoint(host_inputs),
                reads_core_input=not arguments <= host_inputs,
                result_bytes=sum(bytes_of(result.type) for result in op.results),
            )
        )
    return nodes


def _is_returned(value: SSAValue) -> bool:
    return any(isinstance(use.operation, ReturnOp) for use in value.uses)


def _program(
    block: Block,
    ops: Sequence[Operation],
    producers: Sequence[Sequence[int]],
    pinned: Sequence[bool],
    target: Target,
) -> Program:
    """The operators as the placement algorithm sees them, with estimated times."""
    makers: dict[SSAValue, int | None] = {argument: None for argument in block.args}
    makers |= {result: position for position, op in enumerate(ops) for result in op.results}
    numbers = {value: position for position, value in enumerate(makers)}
    values = [
        Value(boundary_ns(bytes_of(value.type), target), maker, maker is not None and _is_returned(value))
        for value, maker in makers.items()
    ]
    operators = [
        TimedOperator(
            *operator_times(op, target),
            flops_of(op),
            producers[position],
            sorted({numbers[operand] for operand in op.operands if operand in numbers}),
            [numbers[result] for result in op.results],
            pinned[position],
        )
        for position, op in enumerate(ops)
    ]
    return Program(operators, values, float(target.core_launch_ns), float(target.host_launch_ns))


def operator_times(op: Operation, target: Target) -> tuple[float, float]:
    """Estimated nanoseconds of an operator on a core and on the host."""
    touched = touched_bytes(op)
    macs = 0 if isinstance(op, OnnxNodeOp) else model_macs(op)
    core = core_operator_ns(macs, vector_elements(op), touched, target)
    return core, host_operator_ns(flops_of(op), touched, target)

"""What each segment of a partitioned program holds, and what passes between segments: the figures of the reports.

Given a module as `graph-partition` left it, `segment_report` reads off operators, FLOPs, bytes and estimated times,
as plain data. The times are the partitioner's own estimates: comparable with each other, not with a simulated run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, SSAValue

from neuron_dialects.graph import ConstantOp, FusedOp, WeightOp, YieldOp
from neuron_dialects.graph.work import bytes_of, flops_of
from neuron_dialects.neuron import Executor, LaunchOp, target_of
from neuron_dialects.target import Target
from passes.graph.executors import operator_name, operator_times

INPUTS, OUTPUTS = "inputs", "outputs"
"""Ends of transfers outside of all segments: the caller, on the host."""


def segment_report(module: ModuleOp) -> dict[str, list[dict[str, Any]]]:
    """`segments` and `transfers` of a partitioned module; both empty for another one.

    A segment: name, executor, operators (name -> count), flops, bytes_in and bytes_out (of its operands and results),
    estimated_us (with its launch, without transfers). A transfer: from, to (segments, `inputs` or `outputs`) and bytes,
    for each pair of ends on different sides.
    """
    functions = {op.sym_name.data: op for op in module.ops if isinstance(op, FuncOp)}
    main = functions.get("main")
    if main is None:
        return {"segments": [], "transfers": []}
    launches = [op for op in main.body.block.ops if isinstance(op, LaunchOp)]
    target = target_of(module)
    segments = [_segment(launch, functions[launch.callee.root_reference.data], target) for launch in launches]
    final = main.body.block.last_op
    returned = final.operands if isinstance(final, ReturnOp) else ()
    return {"segments": segments, "transfers": _transfers(launches, returned)}


def operators_of(block: Block) -> Iterator[Operation]:
    """The computing operators of a block, those inside fused groups too."""
    for op in block.ops:
        if isinstance(op, FusedOp):
            yield from operators_of(op.body.block)
        elif not isinstance(op, ConstantOp | WeightOp | YieldOp | ReturnOp):
            yield op


def _segment(launch: LaunchOp, function: FuncOp, target: Target) -> dict[str, Any]:
    ops = list(operators_of(function.body.block))
    on_host = launch.executor.data is Executor.HOST
    start = target.host_launch_ns if on_host else target.core_launch_ns
    nanoseconds = float(start) + sum(operator_times(op, target)[on_host] for op in ops)
    return {
        "name": function.sym_name.data,
        "executor": str(launch.executor.data),
        "operators": dict(Counter(map(operator_name, ops)).most_common()),
        "flops": sum(map(flops_of, ops)),
        "bytes_in": sum(bytes_of(value.type) for value in launch.arguments),
        "bytes_out": sum(bytes_of(value.type) for value in launch.results),
        "estimated_us": round(nanoseconds / 1000, 3),
    }


def _transfers(launches: Sequence[LaunchOp], returned: Sequence[SSAValue]) -> list[dict[str, Any]]:
    """Bytes between each pair of ends, in program order."""
    moved: dict[tuple[str, str], int] = {}

    def add(value: SSAValue, user: str, on_host: bool) -> None:
        maker = value.owner
        made_here = isinstance(maker, LaunchOp) and maker.executor.data is Executor.CORE
        if made_here == on_host:
            ends = (maker.callee.root_reference.data if isinstance(maker, LaunchOp) else INPUTS, user)
            moved[ends] = moved.get(ends, 0) + bytes_of(value.type)

    for launch in launches:
        for value in launch.arguments:
            add(value, launch.callee.root_reference.data, launch.executor.data is Executor.HOST)
    for value in returned:
        add(value, OUTPUTS, True)
    return [{"from": source, "to": user, "bytes": count} for (source, user), count in moved.items()]

"""What the back end refuses returns to the host, and lowering begins again without it.

Support is decided before kernels, tiles and addresses are: a segment can still turn out not to fit. Given a module and
the passes of a pipeline, `run_with_refusals` runs them. When a pass behind the partition raises a coded error of
`REFUSAL_CODES` in a core segment, the operators of the framework node that the error names go to the host, with the
error as their reason (`neuron.refused`); so do operators equal to them in kind, attributes and types, which would be
refused next. Without such a node the segment goes as a whole. Then the module as it was before the partition is
partitioned and lowered once more.

This ends: each time at least one more operator is on the host, after `OPERATOR_REFUSALS` times whole segments go, and
the error of the refusal after `REFUSALS` of them is the user's. An operator that must run on the core is never moved:
its error is raised at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass

from lowering.pipeline import PassDone, make_pass, run_passes
from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import PART_ATTRIBUTE, Executor, location_names
from passes.graph.executors import REFUSED_ATTRIBUTE, is_forced
from passes.graph.outline import SOURCES
from passes.graph.partition import GraphPartitionPass, partition_report

REFUSAL_CODES = frozenset(
    (
        "NX-OP-001",
        "NX-OP-002",
        "NX-MEM-001",
        "NX-ISA-001",
        "NX-ISA-002",
        "NX-ISA-003",
        "NX-REG-001",
        "NX-SEM-001",
    )
)
"""Errors that say a segment does not fit the core. Others are mistakes in options or in the program."""

OPERATOR_REFUSALS = 8
"""How often single operators are moved, before whole segments are."""

REFUSALS = 16
"""How often lowering begins again at most."""


def run_with_refusals(
    ctx: Context, module: ModuleOp, passes: Sequence[str | ModulePass], done: PassDone | None = None
) -> ModuleOp:
    """Run passes, or what their specs say; returns the module that they leave, which need not be the one given.

    NeuronError of the passes, when it is no refusal or nothing more can be moved.
    """
    made = [make_pass(given) if isinstance(given, str) else given for given in passes]
    position = next((at for at, instance in enumerate(made) if isinstance(instance, GraphPartitionPass)), len(made))
    run_passes(ctx, module, made[:position], done)
    if position == len(made):
        return module
    partition = made[position]
    assert isinstance(partition, GraphPartitionPass)
    for refusals in range(1, REFUSALS + 2):
        # A copy costs little: weights are not in the IR.
        lowered = module.clone()
        try:
            run_passes(ctx, lowered, made[position:], done)
        except NeuronError as error:
            whole = refusals > OPERATOR_REFUSALS
            if refusals > REFUSALS or not _refuse(module, lowered, partition, error, whole):
                raise
        else:
            return lowered
    raise AssertionError("the last round returns or raises")


def _refuse(
    module: ModuleOp, lowered: ModuleOp, partition: GraphPartitionPass, error: NeuronError, whole: bool
) -> bool:
    """Mark in `module` what the back end refused in `lowered`; False if nothing is to be marked."""
    if error.code not in REFUSAL_CODES or error.segment is None or partition.must_compile:
        return False
    main = next(op for op in module.ops if isinstance(op, FuncOp) and op.sym_name.data == "main")
    ops = [op for op in main.body.block.ops if not isinstance(op, (ReturnOp, *SOURCES))]
    segment = _segment_of(lowered, error.segment)
    # The partition may have added copies of results, at the end.
    members = [
        op
        for op, entry in zip(ops, partition_report(lowered), strict=False)
        if entry.executor is Executor.CORE and entry.segment == segment
    ]
    named = [op for op in members if error.node is not None and error.node in location_names(op.location)]
    refused = members if whole or not named else named
    if not refused or any(is_forced(op, partition.force_core) for op in refused):
        return False
    kinds = {_kind(op) for op in refused}
    reason = StringAttr(" ".join(f"{error.code}: {error.message}".split()))
    for op in ops:
        if REFUSED_ATTRIBUTE not in op.attributes and _kind(op) in kinds and not is_forced(op, partition.force_core):
            op.attributes[REFUSED_ATTRIBUTE] = reason
    return True


def _segment_of(module: ModuleOp, name: str) -> str:
    """The segment, as the partition left it, that a function is or is a part of."""
    functions = (op for op in module.ops if isinstance(op, FuncOp) and op.sym_name.data == name)
    owner = next((op.attributes.get(PART_ATTRIBUTE) for op in functions), None)
    return owner.data if isinstance(owner, StringAttr) else name


def _kind(op: Operation) -> Hashable:
    """What equal operators have in common: operator, properties, and types."""
    return op.name, frozenset(op.properties.items()), tuple(op.operand_types), tuple(op.result_types)

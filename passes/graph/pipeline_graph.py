"""A core function as a chain of operators with their costs: what a NeuronCore Pipeline is cut from.

Given a core function after `graph-fuse`; leaves plain data for `pipeline_cut`. What operators cost stands on them
(`neuron.stage_cost`, left by who has measured them), or is estimated from their shapes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, prod

from xdsl.dialects.builtin import DenseArrayBase, ModuleOp, i64
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue

from neuron_dialects.dtypes import F32
from neuron_dialects.graph import (
    BinaryOp,
    CastOp,
    ClipOp,
    ConvOp,
    ConvTransposeOp,
    GatherOp,
    MatMulOp,
    UnaryOp,
    WeightOp,
    shape_of,
)
from neuron_dialects.graph.base import spec_of
from neuron_dialects.graph.shapes import element_count
from neuron_dialects.graph.work import bytes_of
from neuron_dialects.neuron import core_functions, location_name
from neuron_dialects.target import Target
from passes.graph.conv_groups import LANES
from passes.graph.executors import operator_times
from passes.graph.layout import anchor_of
from passes.graph.outline import SOURCES
from passes.graph.output_parts import is_summed, output_axis
from passes.graph.pipeline_cut import Chain, Costs, Level, Node, Value

COST_ATTRIBUTE = "neuron.stage_cost"
"""Operator attribute: [bytes of its weights, nanoseconds, bytes of its buffers, ...], sizes per SBUF partition.

The last two come again for each level of less room.
"""

FINEST = 64
"""An operator is cut into pieces of this part of a core's SBUF in weights, or of this part of the whole time."""

JOIN_FACTOR = 6
"""Bytes that are as good as moved for each byte that is put together: nothing overlaps with that."""

WORKING_RESERVE_BYTES = 4096
"""Bytes of a partition that tiles in passing take beside what an operator is known to need."""


@dataclass
class PipelineGraph:
    """A core function as a chain: `ops` by number of their node, `numbers` of its values.

    `feeders`: node of a product -> the operator before it that makes its first operand, and belongs to the same node:
    the two are cut together, along the dimension over which the product sums.
    """

    function: FuncOp
    target: Target
    ops: list[Operation]
    chain: Chain
    costs: Costs
    numbers: dict[SSAValue, int] = field(default_factory=dict[SSAValue, int])
    feeders: dict[int, Operation] = field(default_factory=dict[int, Operation])

    @cached_property
    def last_atom(self) -> dict[Operation, int]:
        """The number of the last atom of each operator."""
        found = {self.ops[atom.node]: number for number, atom in enumerate(self.chain.atoms)}
        return found | {feeder: found[self.ops[node]] for node, feeder in self.feeders.items()}

    def name(self, node: int) -> str:
        """The framework node that a node of the chain comes from."""
        return location_name(self.ops[node].location) or self.ops[node].name


def heaviest_function(module: ModuleOp) -> FuncOp | None:
    """The core function with the most bytes of weights, the first of equals; None where nothing runs on cores."""
    functions = core_functions(module)
    return max(functions, key=_weight_bytes, default=None)


def _weight_bytes(function: FuncOp) -> int:
    weights = {op.weight_name: op for op in function.body.block.ops if isinstance(op, WeightOp)}
    return sum(bytes_of(op.result.type) for op in weights.values())


def transfer_costs(target: Target) -> Costs:
    """What stages may hold and what passing tensors between them costs on a target."""
    return Costs(
        int(target.sbuf_bytes_per_partition),
        min(target.dma_rate_bytes_per_ns, float(target.dram_bytes_per_ns)),
        float(target.dma_start_ns + target.dma_completion_ns),
    )


def operators_of(function: FuncOp) -> list[Operation]:
    """The operators of a core function in program order, weights and constants left out."""
    return [op for op in function.body.block.ops if not isinstance(op, (ReturnOp, *SOURCES))]


def read_chain(function: FuncOp, target: Target) -> PipelineGraph:
    """The operators of a core function as a chain."""
    block = function.body.block
    returned = block.last_op
    assert isinstance(returned, ReturnOp)
    ops = operators_of(function)
    numbers: dict[SSAValue, int] = {}
    values: list[Value] = []
    results = set(returned.arguments)
    for value in (*block.args, *(result for op in ops for result in op.results)):
        numbers[value] = len(values)
        values.append(Value(bytes_of(value.type), value in results))
    costs = {op: stage_cost(op, target) for op in ops}
    total_ns = sum(levels[0][0] for _, levels in costs.values()) or 1.0
    limits = transfer_costs(target)
    fed_by = _feeders(ops, results)
    inside = set(fed_by.values())
    kept = [op for op in ops if op not in inside]
    nodes: list[Node] = []
    for op in kept:
        pinned, levels = costs[op]
        cut, partial, operands = op, 0, list(op.operands)
        if op in fed_by:
            # The feeder comes later than it stands, just before its only reader.
            cut = fed_by[op]
            pinned += costs[cut][0]
            both = zip(levels, costs[cut][1], strict=True)
            levels = tuple((a + b, max(working_a, working_b)) for (a, working_a), (b, working_b) in both)
            operands = [*cut.operands, *(operand for operand in operands if operand is not cut.results[0])]
            partial = element_count(shape_of(op.results[0])) * F32.size_bytes
        inputs = dict.fromkeys(numbers[source] for operand in operands if (source := source_of(operand)) in numbers)
        outputs = tuple(numbers[result] for result in op.results)
        pieces = _pieces(cut, max(pinned * FINEST / limits.capacity_bytes, levels[0][0] * FINEST / total_ns))
        join = 0 if partial else _join_bytes(op)
        nodes.append(Node(levels, pinned, tuple(inputs), outputs, pieces, join, partial))
    feeders = {number: fed_by[op] for number, op in enumerate(kept) if op in fed_by}
    return PipelineGraph(function, target, kept, Chain(nodes, values), limits, numbers, feeders)


def is_cheap(op: Operation) -> bool:
    """Whether a result is no larger to compute again in each stage that reads it than to pass on."""
    if not isinstance(op, BinaryOp | UnaryOp | CastOp | ClipOp):
        return False
    taken = {operand for operand in op.operands if not isinstance(operand.owner, SOURCES)}
    result = op.results[0]
    return len(taken) == 1 and all(
        shape_of(value) == shape_of(result) and bytes_of(value.type) <= bytes_of(result.type) for value in taken
    )


def source_of(value: SSAValue) -> SSAValue:
    """What is passed on for a value: that which cheap operators make it from."""
    while isinstance(value.owner, Operation) and is_cheap(value.owner):
        value = next(operand for operand in value.owner.operands if not isinstance(operand.owner, SOURCES))
    return value


def readers_of(value: SSAValue) -> Iterator[Operation]:
    """The operators that need a value, through cheap ones too."""
    for use in value.uses:
        if not isinstance(use.operation, ReturnOp):
            yield use.operation
            if is_cheap(use.operation):
                yield from readers_of(use.operation.results[0])


def _feeders(ops: Sequence[Operation], returned: Collection[SSAValue]) -> dict[Operation, Operation]:
    """Product -> the operator that is cut together with it."""
    found: dict[Operation, Operation] = {}
    for op in ops:
        for operand in op.operands:
            owner = operand.owner
            if isinstance(owner, Operation) and owner not in found and operand not in returned and _feeds(owner, op):
                found[op] = owner
                break
    return found


def _feeds(feeder: Operation, op: Operation) -> bool:
    """Whether a product contracts over what `feeder` makes, can be cut along it, and is its only reader."""
    if isinstance(feeder, SOURCES) or output_axis(feeder) is None or not is_summed(op, feeder.results[0]):
        return False
    result = feeder.results[0]
    return {use.operation for use in result.uses} == {op} and isinstance(anchor_of(feeder), MatMulOp)


def _pieces(op: Operation, share: float) -> int:
    """Pieces of at least 128 output channels that an operator may be cut into: `share`, if it has so many."""
    axis = output_axis(op)
    if axis is None or share < 2:
        return 1
    tiles, rest = divmod(shape_of(op.results[0])[axis], LANES)
    return 1 if rest else max(n for n in range(1, tiles + 1) if tiles % n == 0 and (n <= share or n == 1))


def _join_bytes(op: Operation) -> int:
    """What is moved to put the result of an operator together from parts: it is written and read once more.

    Products that contract over what was cut add up what the parts give instead.
    """
    users = [use.operation for result in op.results for use in result.uses]
    if all(any(is_summed(user, result) for result in op.results) for user in users):
        return 0
    return JOIN_FACTOR * sum(bytes_of(result.type) for result in op.results)


def stage_cost(op: Operation, target: Target) -> tuple[int, tuple[Level, ...]]:
    """Pinned bytes and levels of an operator: measured if it says so, else estimated from its shapes, at one level."""
    given = op.attributes.get(COST_ATTRIBUTE)
    if isinstance(given, DenseArrayBase):
        pinned, *figures = (int(n) for n in given.get_values())
        return pinned, tuple((float(time), size) for time, size in zip(figures[::2], figures[1::2], strict=True))
    return _pinned_estimate(op), ((operator_times(op, target)[False], _working_estimate(op)),)


def set_stage_cost(op: Operation, pinned_bytes: int, levels: Sequence[Level]) -> None:
    """Write down what an operator costs."""
    figures = [n for time, working in levels for n in (round(time), working)]
    op.attributes[COST_ATTRIBUTE] = DenseArrayBase.from_list(i64, [pinned_bytes, *figures])


def _pinned_estimate(op: Operation) -> int:
    """Bytes of a partition that the weights of an operator take: its contracted dimension lies on partitions."""
    anchor = anchor_of(op)
    total = 0
    for operand in op.operands:
        if not isinstance(operand.owner, WeightOp) or isinstance(anchor, GatherOp):
            continue
        dtype, shape = spec_of(operand)
        rows = shape[0] if shape else 1
        if isinstance(anchor, ConvOp | ConvTransposeOp) and len(shape) > 2:
            rows = shape[1]
        elif isinstance(anchor, MatMulOp) and len(shape) > 1:
            rows = shape[-1] if anchor.transpose_b else shape[-2]
        total += ceil(rows / LANES) * prod(shape) // max(1, rows) * dtype.size_bytes
    return total


def _working_estimate(op: Operation) -> int:
    """Bytes of a partition that operands and results take, as far as they lie on chip at once."""
    values = [v for v in (*op.operands, *op.results) if not isinstance(v.owner, SOURCES)]
    spread = sum(ceil(bytes_of(value.type) / LANES) for value in values)
    return min(spread, 2 * WORKING_RESERVE_BYTES) + WORKING_RESERVE_BYTES

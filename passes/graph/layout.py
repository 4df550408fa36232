"""`graph-layout`: which tensors stay in SBUF between kernels, and with which dimension on the partitions.

A tensor can stay on chip when its producer can write, and all its consumers can read, the same layout, and when there
is room. Convolutions and pools want channels on partitions (with a halo of zeros for padding); matmuls, softmax and
normalisation want rows there. The choice is a plain greedy over values in program order under an SBUF budget; the pass
writes it as encodings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, prod

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from neuron_dialects.graph import (
    BinaryOp,
    CastOp,
    ClipOp,
    CompareOp,
    ConvOp,
    FusedOp,
    LayerNormOp,
    LayoutAttr,
    MatMulOp,
    PoolOp,
    SelectOp,
    SoftmaxOp,
    UnaryOp,
    YieldOp,
    ints,
    shape_of,
    spec_of,
)
from neuron_dialects.neuron import Executor, ExecutorAttr, target_of
from passes.graph.conv_groups import LANES, plan_groups

POINTWISE = (UnaryOp, BinaryOp, CompareOp, SelectOp, ClipOp, CastOp)
BUDGET_SHARE = 0.7
"""Share of SBUF that resident tensors may take at any time; tiles, panels and weights need the rest."""

Halo = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Interval:
    """A value that could stay on chip: bytes per partition, live from kernel `start` to kernel `end`."""

    start: int
    end: int
    bytes: int


@dataclass
class Budget:
    """Bytes per partition that resident tensors take at each kernel."""

    capacity: int
    used: list[int]

    def admit(self, interval: Interval) -> bool:
        """Reserve room for the interval if there is any."""
        span = range(interval.start, interval.end + 1)
        if any(self.used[i] + interval.bytes > self.capacity for i in span):
            return False
        for i in span:
            self.used[i] += interval.bytes
        return True


def resident_bytes(shape: Sequence[int], partition: int, halo: Halo, element_bytes: int) -> int:
    """SBUF bytes per partition of a resident tensor."""
    others = [n for d, n in enumerate(shape) if d != partition]
    if halo:
        others = [n + low + high for n, (low, high) in zip(others, halo, strict=True)]
    return ceil(shape[partition] / LANES) * prod(others) * element_bytes


def conv_halo(op: ConvOp) -> Halo:
    """Zeros that a convolution reads around its input, for batch and spatial dimensions."""
    spatial = len(shape_of(op.x)) - 2
    pads, strides, dilations = ints(op.pads), ints(op.strides), ints(op.dilations)
    pairs: list[tuple[int, int]] = [(0, 0)]
    for d in range(spatial):
        size, output, taps = shape_of(op.x)[2 + d], shape_of(op.result)[2 + d], shape_of(op.w)[2 + d]
        reach = (output - 1) * strides[d] + (taps - 1) * dilations[d] + 1
        pairs.append((pads[d], max(0, reach - size - pads[d])))
    return tuple(pairs)


def merge_halo(first: Halo, second: Halo) -> Halo:
    """The larger of two halos, dimension by dimension; an empty one is all zeros."""
    if not first or not second:
        return first or second
    return tuple((max(a, c), max(b, d)) for (a, b), (c, d) in zip(first, second, strict=True))


def reads(op: Operation, operand: SSAValue, partition: int) -> Halo | None:
    """The halo with which `op` reads `operand` resident with `partition` on partitions; None when it cannot."""
    shape = shape_of(operand)
    if isinstance(op, FusedOp):
        return _fused_reads(op, operand, partition)
    if isinstance(op, ConvOp):
        groups = plan_groups(shape_of(op.x)[1], shape_of(op.result)[1], op.groups.value.data)
        aligned = groups.blocks == 1 or groups.block_inputs % LANES == 0
        return conv_halo(op) if operand is op.x and operand is not op.w and partition == 1 and aligned else None
    if isinstance(op, MatMulOp):
        plain = operand is op.a and operand is not op.b and not op.transpose_a
        rows = partition == matmul_rows(op) and shape[:-2] == shape_of(op.result)[:-2]
        return () if plain and rows else None
    if isinstance(op, PoolOp):
        return () if partition == 1 else None
    if isinstance(op, SoftmaxOp):
        return () if partition != op.axis.value.data else None
    if isinstance(op, LayerNormOp):
        return () if operand is op.x and partition < op.axis.value.data else None
    if isinstance(op, POINTWISE):
        return () if shape == shape_of(op.results[0]) else None
    return None


def _fused_reads(op: FusedOp, operand: SSAValue, partition: int) -> Halo | None:
    if kernel_partition(op) not in (None, partition):
        return None
    halo: Halo = ()
    for argument, value in zip(op.body.block.args, op.operands, strict=True):
        if value is not operand:
            continue
        for use in argument.uses:
            needed = None if isinstance(use.operation, YieldOp) else reads(use.operation, argument, partition)
            if needed is None:
                return None
            halo = merge_halo(halo, needed)
    return halo


def matmul_rows(op: MatMulOp) -> int:
    """The dimension of a matmul's result that lies on the partitions: its rows.

    Where there is one row, it is the largest of the batch dimensions that share b: single rows would use one column of
    the tensor engine's array.
    """
    shape, b = shape_of(op.result), shape_of(op.b)
    rows, lead = len(shape) - 2, len(shape) - len(b)
    if shape[rows] != 1:
        return rows
    return max((d for d in range(rows) if d < lead or b[d - lead] == 1), key=lambda d: shape[d], default=rows)


def kernel_partition(op: Operation) -> int | None:
    """The partition dimension that an anchor imposes on its group's result; None where the kernel is free to choose."""
    anchor = op.body.block.first_op if isinstance(op, FusedOp) else op
    if isinstance(anchor, ConvOp | PoolOp):
        return 1
    if isinstance(anchor, MatMulOp):
        return matmul_rows(anchor)
    return None


def writes(op: Operation, partition: int) -> bool:
    """Whether the kernel of `op` can leave its result in SBUF with dimension `partition` on partitions."""
    anchor = op.body.block.first_op if isinstance(op, FusedOp) else op
    if isinstance(anchor, ConvOp):
        groups = plan_groups(shape_of(anchor.x)[1], shape_of(anchor.result)[1], anchor.groups.value.data)
        return partition == 1 and groups.lane_step == LANES
    if isinstance(anchor, PoolOp | MatMulOp):
        return partition == kernel_partition(op)
    if isinstance(anchor, SoftmaxOp):
        return partition != anchor.axis.value.data
    if isinstance(anchor, LayerNormOp):
        return partition < anchor.axis.value.data
    return isinstance(anchor, POINTWISE)


@dataclass
class _Chooser:
    """Greedy choice over the kernels of one block."""

    ops: list[Operation]
    budget: Budget
    number: dict[Operation, int] = field(default_factory=dict)
    partition_of: dict[Operation, int] = field(default_factory=dict)

    def choose(self, value: SSAValue) -> LayoutAttr | None:
        """The layout of `value` if it can stay on chip."""
        owner = value.owner
        assert isinstance(owner, Operation)
        dtype, shape = spec_of(value)
        users = list(dict.fromkeys(use.operation for use in value.uses))
        if len(shape) < 2 or not users or any(isinstance(user, func.ReturnOp) for user in users):
            return None
        for partition in dict.fromkeys((1 if len(shape) > 2 else 0, len(shape) - 2)):
            kernels = [owner, *users]
            if any(self.partition_of.get(k, partition) != partition for k in kernels) or not writes(owner, partition):
                continue
            halos = [reads(user, value, partition) for user in users]
            if any(halo is None for halo in halos):
                continue
            halo: Halo = ()
            for needed in halos:
                halo = merge_halo(halo, needed or ())
            last = max(self.number[user] for user in users)
            size = resident_bytes(shape, partition, halo, dtype.size_bytes)
            if self.budget.admit(Interval(self.number[owner], last, size)):
                for kernel in kernels:
                    self.partition_of[kernel] = partition
                return LayoutAttr.resident(partition, halo)
        return None


@dataclass(frozen=True)
class GraphLayoutPass(ModulePass):
    """Give the tensors that stay in SBUF a layout encoding.

        %1 = graph.fused (...) : (...) -> tensor<1x64x56x56xbf16>
        %2 = graph.conv %1, %w ... pads [1, 1, 1, 1] ...

    becomes

        %1 = graph.fused (...) : (...)
            -> tensor<1x64x56x56xbf16, #graph.layout<sbuf, partition 1, halo [0, 0, 1, 1, 1, 1]>>
        %2 = graph.conv %1, %w ... pads [1, 1, 1, 1] ...
    """

    name = "graph-layout"

    budget_share: float | int = BUDGET_SHARE

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Choose layouts in every core function."""
        core = ExecutorAttr(Executor.CORE)
        capacity = int(int(target_of(op).sbuf_bytes_per_partition) * self.budget_share)
        for function in op.body.block.ops:
            if isinstance(function, func.FuncOp) and function.attributes.get("neuron.executor") == core:
                choose_layouts(function.body.block, capacity)


def choose_layouts(block: Block, capacity_bytes: int) -> None:
    """Choose and write the layouts of one block."""
    ops = list(block.ops)
    chooser = _Chooser(ops, Budget(capacity_bytes, [0] * len(ops)), {op: i for i, op in enumerate(ops)})
    for op in ops:
        for index in range(len(op.results)):
            layout = chooser.choose(op.results[index])
            if layout is not None:
                _encode(op.results[index], layout)


def _encode(value: SSAValue, layout: LayoutAttr) -> None:
    """Write a layout into the value's type, inside fused groups too."""
    type_ = value.type
    assert isinstance(type_, TensorType)
    encoded = TensorType(type_.element_type, type_.get_shape(), layout)
    owner = value.owner
    if isinstance(owner, FusedOp):
        terminator = owner.body.block.last_op
        assert isinstance(terminator, YieldOp)
        position = next(i for i, result in enumerate(owner.results) if result is value)
        Rewriter.replace_value_with_new_type(terminator.values[position], encoded)
    for use in list(value.uses):
        if isinstance(use.operation, FusedOp):
            Rewriter.replace_value_with_new_type(use.operation.body.block.args[use.index], encoded)
    Rewriter.replace_value_with_new_type(value, encoded)

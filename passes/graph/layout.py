"""`graph-layout`: which tensors stay in SBUF between kernels, and with which dimension on the partitions.

A tensor can stay on chip when its producer can write, and all its consumers can read, the same layout, and when there
is room. Convolutions and pools want channels on partitions (with a halo of zeros for padding), softmax and
normalisation rows. Products of matrices contract along partitions, so that what they and attention read should lie with
features there; a product leaves its result as its readers want it, and a matrix that several read turned is turned once
for all. The choice is a plain greedy over values in program order under an SBUF budget; the pass writes it as
encodings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import prod

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from neuron_dialects.dtypes import F32
from neuron_dialects.graph import (
    AttentionOp,
    BinaryOp,
    CastOp,
    ClipOp,
    CompareOp,
    ConcatOp,
    ConstantOp,
    ConvOp,
    ConvTransposeOp,
    FusedOp,
    GatherOp,
    LayerNormOp,
    LayoutAttr,
    MatMulOp,
    PoolOp,
    ReduceOp,
    RelayoutOp,
    ReshapeOp,
    SelectOp,
    SliceOp,
    SoftmaxOp,
    UnaryOp,
    YieldOp,
    ints,
    layout_of,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.attention import packs_heads
from neuron_dialects.neuron import PIN_ATTRIBUTE, Executor, ExecutorAttr, target_of, working_target
from neuron_dialects.remarks import listening
from passes.graph.conv_groups import LANES, plan_groups
from passes.graph.layout_remarks import tell_layout
from passes.graph.residence import Budget, Halo, Interval, inheritance, overwrites, resident_bytes, set_overwrites

ROWS, FEATURES = 0, 1
"""Dimensions of a matrix."""

POINTWISE = (UnaryOp, BinaryOp, CompareOp, SelectOp, ClipOp, CastOp)
BUDGET_SHARE = 0.75
"""Share of SBUF that resident tensors may take at any time; tiles, panels and weights need the rest."""

PRODUCT_SHARE = 0.8
"""The same while a product of matrices runs, whose weights can stream past."""

PINNED_SHARE = 0.85
"""The same where weights are pinned: share of what these leave."""

THIN_CHANNELS = 16
"""Most input channels of a convolution whose taps are put beside each other on partitions."""


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


def transposed_halo(op: ConvTransposeOp) -> Halo:
    """Zeros that the phases of a transposed convolution read around its input, for batch and spatial dimensions.

    Output o takes tap t from input (o + pad - t * dilation) / stride where that has no remainder.
    """
    pairs: list[tuple[int, int]] = [(0, 0)]
    for d in range(len(shape_of(op.x)) - 2):
        size, output, taps = shape_of(op.x)[2 + d], shape_of(op.result)[2 + d], shape_of(op.w)[2 + d]
        stride, pad, dilation = ints(op.strides)[d], ints(op.pads)[d], ints(op.dilations)[d]
        shifts = [pad - t * dilation for t in range(taps)]
        least = min((o + s) // stride for o in range(min(stride, output)) for s in shifts)
        most = max((o + s) // stride for o in range(max(0, output - stride), output) for s in shifts)
        pairs.append((max(0, -least), max(0, most - size + 1)))
    return tuple(pairs)


def spreads_taps(op: Operation) -> bool:
    """Whether the anchor of `op` is a convolution of so few channels that, from DRAM, its taps go on partitions."""
    anchor = anchor_of(op)
    if not isinstance(anchor, ConvOp):
        return False
    if plan_groups(shape_of(anchor.x)[1], shape_of(anchor.result)[1], anchor.groups.value.data).blocks > 1:
        return False
    channels, taps = shape_of(anchor.x)[1], shape_of(anchor.w)[2:]
    outer = prod(taps if len(taps) == 1 else taps[:-1])
    return outer > 1 and channels <= THIN_CHANNELS and channels * outer <= LANES


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
    if isinstance(op, ConvTransposeOp):
        plain = operand is op.x and operand is not op.w and partition == 1 and op.groups.value.data == 1
        return transposed_halo(op) if plain else None
    if isinstance(op, AttentionOp):
        return () if operand is not op.mask and partition == 2 and packs_heads(op.head_size) else None
    if isinstance(op, RelayoutOp):
        return ()
    if isinstance(op, MatMulOp):
        plain = operand is op.a and operand is not op.b and not op.transpose_a
        if plain and is_matrix_product(op) and partition in (ROWS, FEATURES):
            return ()
        rows = partition == matmul_rows(op) and shape[:-2] == shape_of(op.result)[:-2]
        return () if plain and rows else None
    if isinstance(op, PoolOp):
        return () if partition == 1 else None
    if isinstance(op, SoftmaxOp):
        return () if partition != op.axis.value.data else None
    if isinstance(op, LayerNormOp):
        return () if operand is op.x and partition < op.axis.value.data else None
    if isinstance(op, ReduceOp):
        return () if _reduces_beside(op, partition) else None
    if isinstance(op, POINTWISE):
        return () if _sweeps_along(shape, shape_of(op.results[0]), partition) else None
    return None


def _reduces_beside(op: ReduceOp, partition: int) -> bool:
    """Whether a reduction keeps a dimension, under the same number in its result."""
    axes = ints(op.axes)
    return partition not in axes and (bool(op.keep_dims) or all(axis > partition for axis in axes))


def _sweeps_along(shape: Sequence[int], result: Sequence[int], partition: int) -> bool:
    """Whether a sweep over `result` reads an operand of `shape` lane by lane; it may be repeated along other
    dimensions.
    """
    return len(shape) == len(result) and shape[partition] == result[partition]


def resident_profile(ops: Sequence[Operation]) -> list[int]:
    """SBUF bytes per partition of the resident tensors while each op runs; they live until their last reader."""
    number = {op: i for i, op in enumerate(ops)}
    changes = [0] * (len(ops) + 1)
    for start, op in enumerate(ops):
        for value in op.results:
            layout = layout_of(value)
            if layout is None or isinstance(op, ReshapeOp | SliceOp):
                continue
            partition, (dtype, shape) = layout.partition_dimension, spec_of(value)
            end = max((number[user] for user, _ in readers(value, partition)), default=start)
            size = resident_bytes(shape, partition, layout.halo_pairs, dtype.size_bytes)
            # A result that takes the memory of an operand needs none of its own before the operand has gone.
            first = start + 1 if value in overwrites(op) else start
            changes[first] += size
            changes[max(first, end + 1)] -= size
    return list(accumulate(changes[:-1]))


def is_matrix_product(op: Operation) -> bool:
    """Whether a product of two matrices can have the rows of its first operand, and its result, either way round."""
    return isinstance(op, MatMulOp) and len(shape_of(op.result)) == len(shape_of(op.b)) == 2 and not op.transpose_a


def anchor_of(op: Operation) -> Operation:
    """The op that decides about a kernel: the first of a fused group."""
    first = op.body.block.first_op if isinstance(op, FusedOp) else op
    assert first is not None
    return first


def multiplied(op: Operation, operand: SSAValue) -> bool:
    """Whether a kernel reads `operand` only as what the tensor engine contracts, however its result lies."""
    if isinstance(op, AttentionOp):
        return True
    anchor = anchor_of(op)
    if not isinstance(anchor, MatMulOp) or not is_matrix_product(anchor):
        return False
    if not isinstance(op, FusedOp):
        return operand is op.operands[0]
    inner = [a for a, value in zip(op.body.block.args, op.operands, strict=True) if value is operand]
    return all(list(a.uses) and all(use.operation is anchor and use.index == 0 for use in a.uses) for a in inner)


def turns(op: Operation) -> bool:
    """Whether a kernel reads rows and writes features."""
    return isinstance(op, CastOp | RelayoutOp) and len(shape_of(op.results[0])) == 2


def _fused_reads(op: FusedOp, operand: SSAValue, partition: int) -> Halo | None:
    if kernel_partition(op) not in (None, partition) and not multiplied(op, operand):
        return None
    halo: Halo = ()
    for argument, value in zip(op.body.block.args, op.operands, strict=True):
        if value is not operand:
            continue
        for use in argument.uses:
            user = use.operation
            needed = None if isinstance(user, YieldOp) else reads(user, argument, partition)
            # An eviction from PSUM takes operands of its own shape.
            repeated = isinstance(user, POINTWISE) and shape_of(argument) != shape_of(user.results[0])
            if needed is None or (repeated and isinstance(anchor_of(op), ConvOp | ConvTransposeOp | MatMulOp)):
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
    anchor = anchor_of(op)
    if isinstance(anchor, ConvOp | ConvTransposeOp | PoolOp):
        return 1
    if isinstance(anchor, MatMulOp) and not is_matrix_product(anchor):
        return matmul_rows(anchor)
    return None


def writes(op: Operation, partition: int) -> bool:
    """Whether the kernel of `op` can leave its result in SBUF with dimension `partition` on partitions."""
    anchor = anchor_of(op)
    if isinstance(anchor, ConvOp | ConvTransposeOp):
        groups = plan_groups(shape_of(anchor.x)[1], shape_of(anchor.result)[1], anchor.groups.value.data)
        return partition == 1 and groups.lane_step == LANES
    if is_matrix_product(anchor):
        return True
    if isinstance(anchor, AttentionOp):
        return partition == 2
    if isinstance(anchor, GatherOp):
        listed = len(shape_of(anchor.indices)) == 1 and not isinstance(anchor.indices.owner, ConstantOp)
        return partition == ROWS and anchor.axis.value.data == 0 and len(shape_of(anchor.data)) == 2 and listed
    if isinstance(anchor, PoolOp | MatMulOp):
        return partition == kernel_partition(op)
    if isinstance(anchor, SoftmaxOp):
        return partition != anchor.axis.value.data
    if isinstance(anchor, LayerNormOp):
        return partition < anchor.axis.value.data
    if isinstance(anchor, ReduceOp):
        return _reduces_beside(anchor, partition)
    if isinstance(anchor, ConcatOp):
        # Parts of a batch, which were computed apart, come back for all their readers at once.
        return anchor.axis.value.data == 0 and partition == 1 and len(shape_of(anchor.result)) > 2
    return isinstance(anchor, (*POINTWISE, RelayoutOp))


@dataclass
class _Chooser:
    """Greedy choice over the kernels of one block.

    `wanted`: matrix -> the dimension that its readers want on partitions. `partition_of`: kernel -> the dimension that
    its result and what it reads beside the operands of the tensor engine have there. `turns_f32`: whether the tensor
    engine passes f32 as it is.
    """

    ops: list[Operation]
    budget: Budget
    wanted: dict[SSAValue, int]
    turns_f32: bool = True
    number: dict[Operation, int] = field(default_factory=dict)
    partition_of: dict[Operation, int] = field(default_factory=dict)
    why_not: str = ""  # why the tensor that was asked for last does not stay on chip

    def choose(self, value: SSAValue) -> dict[SSAValue, LayoutAttr]:
        """The layouts of `value` and its aliases if it can stay on chip."""
        owner = value.owner
        assert isinstance(owner, Operation)
        self.why_not = ""
        dtype, shape = spec_of(value)
        if len(shape) < 2 or isinstance(owner, ReshapeOp | SliceOp):
            return {}
        if kernel_partition(owner) is None and any(spreads_taps(use.operation) for use in value.uses):
            # An image, cast or scaled: a few lanes of it on chip would cost the first convolution its fast form.
            return {}
        self.why_not = "its kernel, or one that reads it, has no form for a tensor in SBUF"
        candidates = (self.wanted.get(value, 0 if len(shape) == 2 else 1), 1 if len(shape) > 2 else 0, len(shape) - 2)
        if isinstance(owner, AttentionOp):
            candidates = (2,)
        for partition in dict.fromkeys(candidates):
            uses = readers(value, partition)
            turned = isinstance(owner, AttentionOp) or (turns(owner) and partition == FEATURES)
            if turned and dtype is F32 and not self.turns_f32:
                continue
            if not uses or any(isinstance(user, func.ReturnOp) for user, _ in uses) or not writes(owner, partition):
                continue
            bound = [user for user, operand in uses if not multiplied(user, operand) and not turns(user)]
            kernels = [owner, *bound]
            if any(self.partition_of.get(kernel, partition) != partition for kernel in kernels):
                self.why_not = "another tensor of its kernels lies with another dimension on partitions"
                continue
            if turns(owner) and partition == ROWS and self.wanted.get(owner.results[0]) == FEATURES:
                continue
            halos = [reads(user, operand, own_partition(operand, partition, value)) for user, operand in uses]
            if any(halo is None for halo in halos):
                continue
            halo: Halo = ()
            for needed in halos:
                halo = merge_halo(halo, needed or ())
            if halo and any(operand is not value for _, operand in uses):
                continue
            last = max(self.number[user] for user, _ in uses)
            size = resident_bytes(shape, partition, halo, dtype.size_bytes)
            place = LayoutAttr.resident(partition, halo)
            if self._has_room(owner, value, place, Interval(self.number[owner], last, size)):
                self.partition_of.update(dict.fromkeys(kernels, partition))
                aliases = {operand for _, operand in uses} | {value}
                return {
                    alias: LayoutAttr.resident(own_partition(alias, partition, value), halo)
                    for alias in _with_steps(aliases, value)
                }
            self.why_not = f"SBUF is full: it would take {size} bytes of each partition"
        return {}

    def _has_room(self, owner: Operation, value: SSAValue, place: LayoutAttr, interval: Interval) -> bool:
        """Reserve room for a result, where a residual ends if it can; that of a convolution only if there is no other,
        for in a place of its own it waits for nobody.
        """
        convolved = isinstance(anchor_of(owner), ConvOp)
        if convolved and self.budget.admit(interval):
            return True
        inherited = self._inherited(owner, value, place)
        if inherited is None:
            return not convolved and self.budget.admit(interval)
        later = replace(interval, start=interval.start + 1)
        if later.start <= later.end and not self.budget.admit(later):
            return False
        set_overwrites(owner, value, inherited)
        return True

    def _inherited(self, owner: Operation, value: SSAValue, place: LayoutAttr) -> SSAValue | None:
        """The operand whose memory a result that lies at `place` can take: it lies there too, and ends here."""
        operand = inheritance(owner, value)
        if operand is None or overwrites(owner) or layout_of(operand) != place:
            return None
        if not isinstance(operand.owner, Operation) or isinstance(operand.owner, ReshapeOp | SliceOp):
            return None
        users = [user for user, _ in readers(operand, place.partition_dimension)]
        return operand if all(self.number[user] <= self.number[owner] for user in users) else None


def own_partition(alias: SSAValue, partition: int, value: SSAValue) -> int:
    """The partition dimension of `alias`, another name for the memory of `value` with `partition` on partitions."""
    if alias is value:
        return partition
    owner = alias.owner
    assert isinstance(owner, ReshapeOp | SliceOp)
    kept = kept_partition(owner, own_partition(owner.x, partition, value))
    assert kept is not None
    return kept


def readers(value: SSAValue, partition: int) -> list[tuple[Operation, SSAValue]]:
    """(kernel, operand) pairs that read `value`, through reshapes and slices that keep the partitions as they are."""
    found: list[tuple[Operation, SSAValue]] = []
    pending = [(value, partition)]
    while pending:
        current, dimension = pending.pop()
        for user in dict.fromkeys(use.operation for use in current.uses):
            kept = kept_partition(user, dimension)
            if kept is None:
                found.append((user, current))
            else:
                pending.append((user.results[0], kept))
    return found


def kept_partition(op: Operation, partition: int) -> int | None:
    """The partition dimension of the result of an op that is another name for the memory of its operand.

    None where the op needs a kernel of its own.
    """
    if isinstance(op, ReshapeOp):
        before, after = shape_of(op.x), shape_of(op.result)
        if partition == len(before) - 1 and before[-1:] == after[-1:]:
            return len(after) - 1
        lead, size = prod(before[:partition]), before[partition]
        return next((d for d, n in enumerate(after) if n == size > 1 and prod(after[:d]) == lead), None)
    if isinstance(op, SliceOp) and partition == len(shape_of(op.x)) - 1:
        before, after = shape_of(op.x), shape_of(op.result)
        aligned = before[:-1] == after[:-1] and after[-1] % LANES == 0 and ints(op.starts)[-1] % LANES == 0
        return len(after) - 1 if aligned and all(step == 1 for step in ints(op.steps)) else None
    return None


def _with_steps(aliases: set[SSAValue], value: SSAValue) -> list[SSAValue]:
    """Aliases and the values between them and `value`."""
    found: dict[SSAValue, None] = {}
    for alias in aliases:
        current = alias
        while current is not value:
            found[current] = None
            owner = current.owner
            assert isinstance(owner, ReshapeOp | SliceOp)
            current = owner.x
    return [value, *found]


def wanted_partitions(ops: list[Operation]) -> dict[SSAValue, int]:
    """Matrix -> the dimension that most of its readers want on partitions; readers are asked before producers."""
    wanted: dict[SSAValue, int] = {}
    for op in reversed(ops):
        for result in op.results:
            if len(shape_of(result)) != 2:
                continue
            votes = [_vote(user, operand, wanted) for user, operand in readers(result, FEATURES)]
            for vote in (FEATURES, ROWS):
                if votes.count(vote) * 2 > len([v for v in votes if v is not None]):
                    wanted[result] = vote
    return wanted


def _vote(user: Operation, operand: SSAValue, wanted: dict[SSAValue, int]) -> int | None:
    """What one reader of a matrix wants on partitions; None where it does not matter."""
    if isinstance(user, AttentionOp) or multiplied(user, operand):
        return FEATURES
    if isinstance(user, func.ReturnOp | LayerNormOp | SoftmaxOp) or turns(user):
        return ROWS
    if isinstance(user, FusedOp | UnaryOp | BinaryOp | ClipOp | SelectOp | CompareOp):
        return wanted.get(user.results[0], ROWS)
    return ROWS


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
        for function in op.body.block.ops:
            if isinstance(function, func.FuncOp) and function.attributes.get("neuron.executor") == core:
                target = working_target(function, target_of(op))
                # Pinned weights have their place already.
                share = max(self.budget_share, PINNED_SHARE if PIN_ATTRIBUTE in function.attributes else 0.0)
                capacity = int(int(target.sbuf_bytes_per_partition) * share)
                choose_layouts(function.body.block, capacity, bool(target.pe_transpose_exact))


def choose_layouts(block: Block, capacity_bytes: int, turns_f32: bool = True) -> None:
    """Choose and write the layouts of one block; `turns_f32`: whether the tensor engine passes f32 as it is."""
    share_turned(block)
    ops = list(block.ops)
    number = {op: i for i, op in enumerate(ops)}
    roomier = int(capacity_bytes * PRODUCT_SHARE / BUDGET_SHARE)
    capacity = [roomier if is_matrix_product(anchor_of(op)) else capacity_bytes for op in ops]
    budget = Budget(capacity, [0] * len(ops))
    chooser = _Chooser(ops, budget, wanted_partitions(ops), turns_f32, number)
    for op in ops:
        for index in range(len(op.results)):
            chosen = chooser.choose(op.results[index])
            if listening():
                tell_layout(op.results[index], chosen.get(op.results[index]), chooser.why_not)
            for value, layout in chosen.items():
                _encode(value, layout)


def share_turned(block: Block) -> None:
    """Give the products that read one matrix of rows a common turned form of it.

    A matrix of rows is one that something else than products reads too, or that is a result of normalisation.
    """
    for op in list(block.ops):
        for result in op.results:
            if len(shape_of(result)) != 2 or is_matrix_product(anchor_of(op)) or turns(op):
                continue
            products = [use for use in result.uses if multiplied(use.operation, result)]
            if len(products) < 2:
                continue
            relayout = RelayoutOp(result)
            relayout.location = op.location
            block.insert_op_after(relayout, op)
            for use in products:
                use.operation.operands[use.index] = relayout.result


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

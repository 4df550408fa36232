"""`graph-layout`: which tensors stay in SBUF between kernels, and with which dimension on the partitions.

A tensor can stay on chip when its producer can write, and all its consumers can read, the same layout, and when there
is room. Convolutions and pools want channels on partitions (with a halo of zeros for padding), softmax and
normalisation rows. Products of matrices contract along partitions, so that what they and attention read should lie with
features there; a product leaves its result as its readers want it, and what several kernels read in one form is brought
into it once (`shared_forms`). The choice is a plain greedy over values in program order under an SBUF budget; the pass
writes it as encodings.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import accumulate

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
    ClipOp,
    CompareOp,
    ConvOp,
    FusedOp,
    LayerNormOp,
    LayoutAttr,
    ReorderRowsOp,
    ReshapeOp,
    SelectOp,
    SliceOp,
    SoftmaxOp,
    UnaryOp,
    YieldOp,
    layout_of,
    shape_of,
    spec_of,
)
from neuron_dialects.neuron import PIN_ATTRIBUTE, core_functions, target_of, working_target
from neuron_dialects.remarks import listening
from passes.graph.aliases import own_partition, readers, with_steps
from passes.graph.chain_pixels import between, chains, spans, unchain
from passes.graph.joined import CHANNELS, joins, mark, marked, marked_place, places
from passes.graph.kernel_layouts import (
    FEATURES,
    POINTWISE,
    ROWS,
    anchor_of,
    is_matrix_product,
    joins_images,
    kernel_partition,
    merge_halo,
    multiplied,
    outer_value,
    reads,
    spreads_taps,
    turns,
    writes,
)
from passes.graph.layout_remarks import tell_layout
from passes.graph.pieces import ring_bytes, rows_of_piece
from passes.graph.residence import Budget, Halo, Interval, inheritance, overwrites, resident_bytes, set_overwrites
from passes.graph.row_pairs import paired_intervals, paired_layouts
from passes.graph.sample_products import is_sample_products
from passes.graph.shared_forms import drop_idle, gives_out, keep_arguments, keep_parts, keep_results, share_turned

BUDGET_SHARE = 0.75
"""Share of SBUF that resident tensors may take at any time; tiles, panels and weights need the rest."""

PRODUCT_SHARE = 0.8
"""The same while a product of matrices runs, whose weights can stream past."""

FEW_LANES = 16
"""Positions along a dimension of which pointwise work alone makes no partition dimension."""

STORED_SHARE = 6
"""A result that is only stored is gathered on chip first where it takes at most one part of so many of the budget."""

JOINED_COPIES = 3
"""Images are put together on chip where there is room for so many times of them."""

PINNED_SHARE = 0.85
"""The same where weights are pinned: share of what these leave."""


def resident_profile(ops: Sequence[Operation]) -> list[int]:
    """SBUF bytes per partition of the resident tensors while each op runs; they live until their last reader."""
    number = {op: i for i, op in enumerate(ops)}
    begin, until = spans(ops)
    changes = [0] * (len(ops) + 1)
    joined = set[SSAValue]()
    for join in marked(ops):
        place = marked_place(join, number)
        joined.update(place.values)
        changes[place.interval.start] += place.interval.bytes
        changes[place.interval.end + 1] -= place.interval.bytes
    for interval in paired_intervals(ops, paired_layouts(ops)).values():
        changes[interval.start] += interval.bytes
        changes[interval.end + 1] -= interval.bytes
    for start, op in enumerate(ops):
        for value in op.results:
            layout = layout_of(value)
            if layout is None or layout.is_paired or value in joined or isinstance(op, ReshapeOp | SliceOp):
                continue
            partition = layout.partition_dimension
            end = max((until[user] for user, _ in readers(value, partition)), default=start)
            size = _size_bytes(value, partition, layout.halo_pairs)
            # A result that takes the memory of an operand needs none of its own before the operand has gone.
            first = until[op] + 1 if value in overwrites(op) else begin[op]
            changes[first] += size
            changes[max(first, end + 1)] -= size
    return list(accumulate(changes[:-1]))


def _size_bytes(value: SSAValue, partition: int, halo: Halo) -> int:
    """SBUF bytes per partition of a resident value, or of the pieces of it that are there."""
    if (rows := rows_of_piece(value)) is not None:
        return ring_bytes(value, rows)
    dtype, shape = spec_of(value)
    return resident_bytes(shape, partition, halo, dtype.size_bytes)


@dataclass
class _Chooser:
    """Greedy choice over the kernels of one block.

    `begin`, `until`: kernel -> the first and the last one that it runs together with, by number. `wanted`: matrix ->
    the dimension that its readers want on partitions. `partition_of`: kernel -> the dimension that its result and what
    it reads beside the operands of the tensor engine have there. `turns_f32`: whether the tensor engine passes f32 as
    it is. `joined`: the operators that put images together on chip, if there is room when their turn comes.
    """

    ops: list[Operation]
    budget: Budget
    wanted: dict[SSAValue, int]
    turns_f32: bool = True
    number: dict[Operation, int] = field(default_factory=dict)
    begin: Mapping[Operation, int] = field(default_factory=dict[Operation, int])
    until: Mapping[Operation, int] = field(default_factory=dict[Operation, int])
    capacity: int = 0
    joined: Set[Operation] = frozenset()
    partition_of: dict[Operation, int] = field(default_factory=dict)
    why_not: str = ""  # why the tensor that was asked for last does not stay on chip

    def reserve_pairs(self) -> None:
        """Reserve room for what `graph-pair-rows` decided, which was found to fit."""
        for interval in paired_intervals(self.ops, paired_layouts(self.ops)).values():
            self.budget.admit(interval)

    def join(self) -> None:
        """Reserve room for concatenations of channels, and write the layouts of those that have it."""
        for join in joins(self.ops):
            choices = places(join, self.number, self.partition_of)
            place = next((choice for choice in choices if self.budget.admit(choice.interval)), None)
            if place is None:
                continue
            self.partition_of.update(dict.fromkeys(place.kernels, CHANNELS))
            mark(join, place.in_place)
            for value in place.values:
                encode(value, place.layout)

    def choose(self, value: SSAValue) -> dict[SSAValue, LayoutAttr]:
        """The layouts of `value` and its aliases if it can stay on chip."""
        owner = value.owner
        assert isinstance(owner, Operation)
        self.why_not = ""
        dtype, shape = spec_of(value)
        if len(shape) < 2 or isinstance(owner, ReshapeOp | SliceOp):
            return {}
        if any(joins_images(use.operation) and use.operation not in self.joined for use in value.uses):
            self.why_not = "it is put together with other images, for which SBUF has no room"
            return {}
        if kernel_partition(owner) is None and any(spreads_taps(use.operation) for use in value.uses):
            # An image, cast or scaled: a few lanes of it on chip would cost the first convolution its fast form.
            return {}
        self.why_not = "its kernel, or one that reads it, has no form for a tensor in SBUF"
        for partition in self._partitions(value, owner, len(shape)):
            uses = readers(value, partition)
            if partition == len(shape) - 1 and any(gives_out(user) for user, _ in uses):
                # The DMA would store it element by element.
                continue
            turned = isinstance(owner, AttentionOp) or (turns(owner) and partition == FEATURES)
            if turned and dtype is F32 and not self.turns_f32:
                continue
            if not uses or any(isinstance(user, func.ReturnOp) for user, _ in uses) or not writes(owner, partition):
                continue
            kernels = {owner: partition} | {
                user: own_partition(operand, partition, value)
                for user, operand in uses
                if not multiplied(user, operand) and not turns(user)
            }
            if (
                len(shape) > 2
                and shape[partition] <= FEW_LANES
                and all(isinstance(anchor_of(k), POINTWISE) for k in kernels)
            ):
                # Most of a sweep's lanes would have nothing to do.
                continue
            if any(self.partition_of.get(kernel, own) != own for kernel, own in kernels.items()):
                self.why_not = "another tensor of its kernels lies with another dimension on partitions"
                continue
            if turns(owner) and partition == ROWS and self.wanted.get(owner.results[0]) == FEATURES:
                continue
            halo = _halo_of(value, partition, uses)
            if halo is None:
                continue
            last = max(self.until[user] for user, _ in uses)
            size = _size_bytes(value, partition, halo)
            if size > self.capacity // STORED_SHARE and all(isinstance(user, ReshapeOp) for user, _ in uses):
                self.why_not = "it is only stored"
                continue
            place = LayoutAttr.resident(partition, halo)
            if self._has_room(owner, value, place, Interval(self.begin[owner], last, size)):
                self.partition_of.update(kernels)
                aliases = {operand for _, operand in uses} | {value}
                return {
                    alias: LayoutAttr.resident(own_partition(alias, partition, value), halo)
                    for alias in with_steps(aliases, value)
                }
            self.why_not = f"SBUF is full: it would take {size} bytes of each partition"
        return {}

    def _partitions(self, value: SSAValue, owner: Operation, rank: int) -> Iterable[int]:
        """Dimensions of `value` that may lie on partitions, the best first."""
        if isinstance(owner, AttentionOp):
            return (2,)
        usual = (self.wanted.get(value, 0 if rank == 2 else 1), 1 if rank > 2 else 0, rank - 2)
        if rank == 3 and any(is_sample_products(anchor_of(user)) for user, _ in readers(value, 0)):
            return dict.fromkeys((0, *usual))
        return dict.fromkeys(usual)

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
        later = replace(interval, start=self.until[owner] + 1)
        if later.start <= later.end and not self.budget.admit(later):
            return False
        set_overwrites(owner, value, inherited)
        return True

    def _inherited(self, owner: Operation, value: SSAValue, place: LayoutAttr) -> SSAValue | None:
        """The operand whose memory a result that lies at `place` can take: it lies there too, and ends here."""
        operand = inheritance(owner, value)
        if (
            operand is None
            or rows_of_piece(value)
            or rows_of_piece(operand)
            or overwrites(owner)
            or layout_of(operand) != place
        ):
            return None
        if not isinstance(operand.owner, Operation) or isinstance(operand.owner, ReshapeOp | SliceOp):
            return None
        users = [user for user, _ in readers(operand, place.partition_dimension)]
        return operand if all(self.number[user] <= self.number[owner] for user in users) else None


def joins_on_chip(op: Operation, capacity_bytes: int) -> bool:
    """Whether images that an operator puts together may well stay on chip for all their readers, beside their parts."""
    if not joins_images(op) or not writes(op, CHANNELS):
        return False
    uses = readers(op.results[0], CHANNELS)
    fits = JOINED_COPIES * _size_bytes(op.results[0], CHANNELS, ()) <= capacity_bytes
    return fits and all(
        not isinstance(user, func.ReturnOp) and reads(user, operand, CHANNELS) is not None for user, operand in uses
    )


def _halo_of(value: SSAValue, partition: int, uses: Sequence[tuple[Operation, SSAValue]]) -> Halo | None:
    """The zeros around `value` that suit all its readers; None where one cannot read it, or reads an alias of it, which
    has none.
    """
    halo: Halo = ()
    for user, operand in uses:
        needed = reads(user, operand, own_partition(operand, partition, value))
        if needed is None:
            return None
        halo = merge_halo(halo, needed)
    return None if halo and any(operand is not value for _, operand in uses) else halo


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
    if isinstance(user, AttentionOp | ReorderRowsOp) or multiplied(user, operand):
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
        for function in core_functions(op):
            target = working_target(function, target_of(op))
            # Pinned weights have their place already.
            share = max(self.budget_share, PINNED_SHARE if PIN_ATTRIBUTE in function.attributes else 0.0)
            capacity = int(int(target.sbuf_bytes_per_partition) * share)
            choose_layouts(function.body.block, capacity, bool(target.pe_transpose_exact))


def choose_layouts(block: Block, capacity_bytes: int, turns_f32: bool = True) -> None:
    """Choose and write the layouts of one block; `turns_f32`: whether the tensor engine passes f32 as it is."""
    share_turned(block)
    keep_arguments(block)
    keep_results(block)
    joined = {op for op in block.ops if joins_on_chip(op, capacity_bytes)}
    keep_parts(block, joined)
    ops = list(block.ops)
    number = {op: i for i, op in enumerate(ops)}
    roomier = int(capacity_bytes * PRODUCT_SHARE / BUDGET_SHARE)
    chained = {op for chain in chains(ops) for op in chain}
    capacity = [roomier if op in chained or is_matrix_product(anchor_of(op)) else capacity_bytes for op in ops]
    budget = Budget(capacity, [0] * len(ops))
    chooser = _Chooser(ops, budget, wanted_partitions(ops), turns_f32, number, *spans(ops), capacity_bytes, joined)
    chooser.reserve_pairs()
    chooser.join()
    for op in ops:
        for index in range(len(op.results)):
            if layout_of(op.results[index]) is not None:
                continue
            chosen = chooser.choose(op.results[index])
            if listening():
                tell_layout(op.results[index], chosen.get(op.results[index]), chooser.why_not)
            for value, layout in chosen.items():
                encode(value, layout)
    for chain in chains(ops):
        if not _all_resident(chain):
            # Pieces cannot be stored; in full these values would take more room than was found for them.
            for value in between(chain):
                encode(value, None)
            unchain(chain)
    drop_idle(block)


def _all_resident(chain: Sequence[Operation]) -> bool:
    """Whether what the kernels of a chain multiply, and all that lies between them, stays on chip."""
    anchor = anchor_of(chain[0])
    assert isinstance(anchor, ConvOp)
    layouts = [layout_of(value) for value in (outer_value(chain[0], anchor.x), *between(chain))]
    return all(layout == LayoutAttr.resident(CHANNELS, ()) for layout in layouts)


def encode(value: SSAValue, layout: LayoutAttr | None) -> None:
    """Write a layout, or that there is none, into the value's type, inside fused groups too."""
    type_ = value.type
    assert isinstance(type_, TensorType)
    encoded = TensorType(type_.element_type, type_.get_shape(), *([layout] if layout is not None else []))
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

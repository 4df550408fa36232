"""`graph-pair-rows`: feature maps of few channels that lie on chip with two rows beside each other on partitions.

Given core functions after `graph-depth-first`, the pass looks for chains of convolutions of up to 64 channels: what one
makes of them, and others read, can lie in pairs of rows (`row_pairs`). A chain gets that layout where its convolutions
are estimated to be faster together than with as many images beside each other as would be best, and where there is
room; `graph-fold-images` then leaves them alone. Where two rows of a few channels do not fill the partitions, images
lie beside each other as well: the pass folds those of the chain itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from neuron_dialects.graph import (
    CastOp,
    ConcatOp,
    ConvOp,
    FusedOp,
    LayoutAttr,
    PoolOp,
    RelayoutOp,
    SliceOp,
    WeightOp,
    ints,
    shape_of,
)
from neuron_dialects.graph.layout import ROWS_OF_PAIR
from neuron_dialects.neuron import core_functions, target_of
from neuron_dialects.remarks import listening, remark
from neuron_dialects.target import Target
from passes.graph.conv_groups import LANES, QUADRANT
from passes.graph.fold_images import comes_from_dram, engine_ns, fold_layers, folds_of
from passes.graph.fold_plan import FOLDS
from passes.graph.fold_weights import Recipes, outline
from passes.graph.kernel_layouts import (
    THIN_CHANNELS,
    anchor_of,
    conv_halo,
    merge_halo,
    outer_value,
    sweeps_channels,
)
from passes.graph.layout import BUDGET_SHARE, encode
from passes.graph.residence import Budget, Halo
from passes.graph.row_pairs import (
    ROW_HALO,
    ROWS,
    RowHalo,
    halo_of_rows,
    halves_rows,
    paired_intervals,
    paired_layout,
    paired_layouts,
    window_of,
)

WORTH = 0.95
"""Pairs are made where convolutions then take less than this share of the time."""


@dataclass(frozen=True)
class GraphPairRowsPass(ModulePass):
    """Give chains of thin feature maps layouts in pairs of rows.

        %1 = graph.conv %x, %w ... : (...) -> tensor<2x64x128x256xbf16>
        %2 = graph.conv %1, %v ... pads [1, 1, 1, 1] ... : (...) -> tensor<2x64x128x256xbf16>
        %3 = graph.pool max %2 kernel [2, 2] strides [2, 2] ...

    becomes

        %1 = graph.conv %x, %w ... : (...)
            -> tensor<2x64x128x256xbf16, #graph.layout<sbuf, partition 1, rows 2, halo [0, 0, 1, 1, 1, 1]>>
        %2 = graph.conv %1, %v ... pads [1, 1, 1, 1] ... : (...)
            -> tensor<2x64x128x256xbf16, #graph.layout<sbuf, partition 1, rows 2>>
        %3 = graph.pool max %2 kernel [2, 2] strides [2, 2] ...
    """

    name = "graph-pair-rows"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Decide in every core function."""
        recipes = Recipes(op)
        for function in core_functions(op):
            pair_block(function.body.block, target_of(op), recipes)


def pair_block(block: Block, target: Target, recipes: Recipes) -> None:
    """Decide in one block: first about maps of which images fill the partitions, with two rows, beside each other;
    their filters are `recipes`.
    """
    brought = _bring_on_chip(block)
    for fold in reversed(FOLDS):
        _pair_chains(block, brought, fold, target, recipes)
    for op in brought:
        if paired_layout(op.results[0]) is None:
            Rewriter.replace_op(op, [], [op.operands[0]])


def _pair_chains(block: Block, brought: Collection[Operation], fold: int, target: Target, recipes: Recipes) -> None:
    """Decide about chains with `fold` images beside each other."""
    ops = list(block.ops)
    number = {op: i for i, op in enumerate(ops)}
    chains = [chain for chain in _chains(ops, brought, fold) if fold == 1 or chain.folds_by(fold)]
    if not chains:
        return
    intervals = paired_intervals(ops, {value: layout for chain in chains for value, layout in chain.layouts.items()})
    capacity = int(int(target.sbuf_bytes_per_partition) * BUDGET_SHARE)
    budget = Budget([capacity] * len(ops), [0] * len(ops))
    budget.admit_all([*paired_intervals(ops, paired_layouts(ops)).values()])
    for chain in reversed(chains):
        plain = sum(engine_ns(op, target) for op in chain.kernels)
        paired = sum(_paired_ns(op, chain.layouts, target, fold) for op in chain.kernels)
        if paired >= WORTH * plain:
            continue
        taken = (intervals[value] for value in chain.layouts)
        if not budget.admit_all([replace(interval, bytes=interval.bytes // fold) for interval in taken]):
            continue
        kernels = sorted(chain.kernels, key=lambda op: number[op])
        if listening():
            why = f"rows lie in pairs between {len(kernels)} convolutions: {paired:.0f} ns instead of {plain:.0f}"
            remark("passed", "row-pairs", why, op=kernels[0])
        places = chain.layouts
        if fold > 1:
            folded = fold_layers(block, dict.fromkeys((*_casts(kernels), *kernels), fold))
            places = {folded[value]: layout for value, layout in places.items()}
            _outline_filters(folded.values(), block, recipes)
        for value, layout in places.items():
            encode(value, layout)


def _outline_filters(results: Iterable[SSAValue], block: Block, recipes: Recipes) -> None:
    """Let weights stand for the filters of so many images: kernels of pairs rearrange them at emission."""
    owners = [value.owner for value in results]
    convolved = [(op, conv) for op in owners if isinstance(op, Operation) and isinstance(conv := anchor_of(op), ConvOp)]
    for filters in dict.fromkeys(outer_value(op, conv.w).owner for op, conv in convolved):
        if isinstance(filters, ConcatOp):
            outline(filters, block, recipes)
            block.erase_op(filters)


def _casts(kernels: Sequence[Operation]) -> list[Operation]:
    """What casts an input of the function for one of these kernels alone."""
    read = (outer_value(op, conv.x) for op in kernels if isinstance(conv := anchor_of(op), ConvOp))
    casts = (value.owner for value in read if value.has_one_use() and comes_from_dram(value))
    return [op for op in casts if isinstance(op, CastOp)]


def _bring_on_chip(block: Block) -> dict[Operation, None]:
    """Give convolutions of parts of feature maps, which lie in DRAM, forms of these that may lie in pairs; the new
    operators.
    """
    brought: dict[Operation, None] = {}
    for op in list(block.ops):
        if not is_pairable(op) or not isinstance(part := op.operands[0].owner, SliceOp):
            continue
        whole, shape = shape_of(part.x), shape_of(part.result)
        if (whole[0], whole[ROWS]) != (shape[0], shape[ROWS]) and whole[1] == shape[1] and part.result.has_one_use():
            relayout = RelayoutOp(part.result)
            relayout.location = op.location
            block.insert_op_before(relayout, op)
            op.operands[0] = relayout.result
            brought[relayout] = None
    return brought


# -- chains ------------------------------------------------------------------------------------------------------------


@dataclass
class _Chain:
    """Values that lie in pairs of rows together, and the convolutions that make or read them."""

    layouts: dict[SSAValue, LayoutAttr] = field(default_factory=dict)
    kernels: dict[Operation, None] = field(default_factory=dict)

    def take(self, other: _Chain) -> None:
        self.layouts |= other.layouts
        self.kernels |= other.kernels

    def folds_by(self, fold: int) -> bool:
        """Whether so many images may lie beside each other: if others than these convolutions read any of the values,
        they would have to take them apart.
        """
        users = {use.operation for value in self.layouts for use in value.uses}
        alone = all(value.owner in self.kernels for value in self.layouts) and users <= self.kernels.keys()
        return alone and all(fold in folds_of(op) for op in self.kernels)


def _chains(ops: Sequence[Operation], brought: Collection[Operation], fold: int) -> list[_Chain]:
    """The longest chains of what is in no pairs yet, the last ones first; `brought`: what brings parts of feature maps
    on chip; `fold`: images beside each other.
    """
    chain_of: dict[Operation, _Chain] = {}
    found: dict[int, _Chain] = {}
    made: dict[SSAValue, RowHalo] = {}
    for op in reversed(ops):
        if not (is_pairable(op) or op in brought) or any(map(paired_layout, (*op.operands, *op.results))):
            continue
        value = op.results[0]
        if (layout := _layout(value, made, fold)) is None:
            continue
        made[value] = halo_of_rows(shape_of(value)[ROWS], layout)
        chain = _Chain({value: layout}, {} if op in brought else {op: None})
        for user in dict.fromkeys(use.operation for use in value.uses):
            if isinstance(anchor_of(user), ConvOp):
                chain.kernels[user] = None
                if (joined := chain_of.get(user)) is not None and joined is not chain:
                    chain.take(joined)
                    found.pop(id(joined))
        found[id(chain)] = chain
        chain_of.update(dict.fromkeys(chain.kernels, chain))
    return list(found.values())


def is_pairable(op: Operation) -> bool:
    """Whether a kernel is a convolution that can read or make pairs of rows."""
    conv = anchor_of(op) if isinstance(op, ConvOp | FusedOp) else None
    if not isinstance(conv, ConvOp) or conv.bias is not None or len(op.results) != 1 or len(shape_of(conv.x)) != 4:
        return False
    result = shape_of(conv.result)
    if isinstance(op, FusedOp):
        if not isinstance(conv.x, BlockArgument) or conv.x.index:
            return False
        if not all(sweeps_channels(inner, conv, result) for inner in op.body.block.ops):
            return False
    plain = conv.groups.value.data == 1 and isinstance(outer_value(op, conv.w).owner, WeightOp)
    return plain and ints(conv.strides)[0] <= ROWS_OF_PAIR and ints(conv.dilations)[0] == 1


def _layout(value: SSAValue, made: dict[SSAValue, RowHalo], fold: int) -> LayoutAttr | None:
    """How a value lies in pairs, given the results in pairs behind it; None where its readers cannot have that."""
    _, channels, rows, _ = shape_of(value)
    channels *= fold
    if channels * ROWS_OF_PAIR > LANES or channels % QUADRANT:
        return None
    halo: Halo = ((0, 0),) * 3
    needed = list[RowHalo]()
    for use in value.uses:
        user = use.operation
        if isinstance(user, PoolOp) and halves_rows(user):
            needed.append(RowHalo(rows))
        elif is_pairable(user) and use.index == 0 and [*user.operands].count(value) == 1:
            result, conv = user.results[0], anchor_of(user)
            assert isinstance(conv, ConvOp)
            window = window_of(conv)
            if result not in made and window.alone is window and shape_of(result)[ROWS] % ROWS_OF_PAIR:
                return None
            behind = made.get(result, RowHalo(shape_of(result)[ROWS]))
            needed += [one.paired_halo(behind, rows) for one in (window, window.alone)]
            halo = merge_halo(halo, conv_halo(conv))
        elif not isinstance(user, ConcatOp) or user.axis.value.data == 1:
            return None
    if len({one.low % ROWS_OF_PAIR for one in needed}) != 1:
        return None
    low, high = max(one.low for one in needed), max(one.high for one in needed)
    high += (low + rows + high) % ROWS_OF_PAIR
    pairs = tuple((low, high) if d == ROW_HALO else pair for d, pair in enumerate(halo))
    return LayoutAttr.resident(1, pairs, ROWS_OF_PAIR)


# -- estimates ---------------------------------------------------------------------------------------------------------


def _paired_ns(op: Operation, layouts: dict[SSAValue, LayoutAttr], target: Target, fold: int) -> float:
    """Time of the busiest engine for a convolution that reads or makes pairs of rows, with `fold` images as one."""
    conv, result = anchor_of(op), op.results[0]
    assert isinstance(conv, ConvOp)
    images, outputs, rows, columns = shape_of(result)
    x = outer_value(op, conv.x)
    images, outputs, channels = images // fold, outputs * fold, shape_of(x)[1] * fold
    stored = outputs * ROWS_OF_PAIR <= LANES and all(isinstance(use.operation, ConcatOp) for use in result.uses)
    window, across = window_of(conv), shape_of(conv.w)[3]
    if result not in layouts and not stored:
        window = window.alone
    if x in layouts:
        products = window.pairs_read * ceil(channels * ROWS_OF_PAIR / LANES)
    elif comes_from_dram(x) and channels <= THIN_CHANNELS and channels * window.rows_read <= LANES:
        products = 1
    else:
        products = window.rows_read * ceil(channels / LANES)
    pairs, tiles = ceil(rows / window.together), window.together * ceil(outputs / LANES)
    if result in layouts:
        pairs, tiles = halo_of_rows(rows, layouts[result]).pairs, 1
    elif stored:
        tiles = 1  # two rows at once
    moving = images * pairs * columns
    swept = tiles * moving / (target.clock_ghz("act") + target.clock_ghz("dve"))
    return max(swept, products * across * tiles * moving / target.clock_ghz("pe"))

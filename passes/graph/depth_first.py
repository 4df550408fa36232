"""`graph-depth-first`: layers whose feature maps do not fit on chip run one after the other on bands of rows.

Given core functions after `graph-split-batch`, which splits what a few images at a time are small enough for. Of the
layers that are left, those around feature maps over the budget are cut into runs by `row_bands.plan_bands`; a run
becomes one copy for each part of the batch and each band of rows, between slices of what it reads and concatenations of
what later layers read; channels that are put together of a run's own maps are part of it. Where the windows of a layer
reach over the end of a band, the rows there are made in both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.graph import (
    CastOp,
    ConcatOp,
    ConvOp,
    ConvTransposeOp,
    FusedOp,
    PoolOp,
    SliceOp,
    YieldOp,
    ints,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.work import bytes_of
from neuron_dialects.neuron import core_functions, target_of
from neuron_dialects.remarks import listening, remark
from neuron_dialects.target import Target
from passes.graph.band_copies import BandCopies
from passes.graph.fold_images import comes_from_dram, engine_ns, is_constant, is_layer
from passes.graph.fold_plan import FOLDS
from passes.graph.kernel_layouts import POINTWISE, merge_halo, reads
from passes.graph.layout import BUDGET_SHARE
from passes.graph.pieces import rows_of_piece
from passes.graph.residence import Halo
from passes.graph.row_bands import (
    MOST_PARTS,
    Chain,
    FeatureMap,
    Layer,
    Machine,
    Rows,
    RowWindow,
    Run,
    plan_bands,
    rows_of_bands,
)

CHANNELS, ROWS = 1, 2
"""Dimensions of a feature map [images, channels, rows, columns]."""


@dataclass(frozen=True)
class GraphDepthFirstPass(ModulePass):
    """Run layers of core functions band by band.

        %1 = graph.conv %x, %w ... pads [1, 1, 1, 1] : ... -> tensor<1x64x256x256xbf16>
        %2 = graph.pool max %1 kernel [2, 2] strides [2, 2] ... -> tensor<1x64x128x128xbf16>

    becomes, where 128 rows fit on chip and 256 do not,

        %a = graph.slice %x starts [0, 0, 0, 0] sizes [1, 64, 129, 256] ...
        %b = graph.conv %a, %w ... pads [1, 1, 0, 1] : ... -> tensor<1x64x128x256xbf16>
        %c = graph.pool max %b kernel [2, 2] strides [2, 2] ... -> tensor<1x64x64x128xbf16>
        %d = graph.slice %x starts [0, 0, 127, 0] sizes [1, 64, 129, 256] ...
        %e = graph.conv %d, %w ... pads [0, 1, 1, 1] : ... -> tensor<1x64x128x256xbf16>
        %f = graph.pool max %e kernel [2, 2] strides [2, 2] ... -> tensor<1x64x64x128xbf16>
        %2 = graph.concat %c, %f axis 2 : ... -> tensor<1x64x128x128xbf16>
    """

    name = "graph-depth-first"

    budget_share: float | int = BUDGET_SHARE

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Cut layers into bands in every core function."""
        target = target_of(op)
        capacity = int(int(target.sbuf_bytes_per_partition) * self.budget_share)
        rate = min(target.dma_rate_bytes_per_ns, float(target.dram_bytes_per_ns))
        machine = Machine(capacity, rate, float(target.dma_start_ns + target.dma_completion_ns))
        for function in core_functions(op):
            run_in_bands(function.body.block, target, machine)


def run_in_bands(block: Block, target: Target, machine: Machine) -> None:
    """Run the layers of one block band by band where that is estimated to be faster."""
    for layers in list(_chains(block)):
        hot = [i for i, op in enumerate(layers) if _bytes_at(op) > machine.capacity]
        if hot:
            # A neighbour may take what it reads, or leave what it makes, on chip as well.
            chosen = layers[max(0, hot[0] - 1) : hot[-1] + 2]
            described = _Described(chosen, target)
            # From the end: a run replaces what those behind it read.
            for run in reversed(plan_bands(described.chain, machine)):
                _apply(block, chosen[run.first : run.end], described, run)


# -- what a layer does with rows ---------------------------------------------------------------------------------------


def _chains(block: Block) -> Iterable[list[Operation]]:
    """The longest stretches of layers that compute rows of feature maps of as many images from rows of others.

    Nothing between the layers of a stretch reads what they make: copies of them stand where the last one does.
    """
    found: list[Operation] = []
    made: set[SSAValue] = set()
    for op in block.ops:
        if not is_layer(op) and made.isdisjoint(op.operands):
            continue
        local = is_layer(op) and row_windows(op) is not None
        if isinstance(op, ConcatOp):
            # What is put together of maps from elsewhere lies in DRAM as a whole.
            local = local and made.issuperset(op.operands)
        if found and (not local or shape_of(op.results[0])[0] != shape_of(found[0].results[0])[0]):
            yield found
            found, made = [], set()
        if local:
            found.append(op)
            made.update(op.results)
    if found:
        yield found


def row_windows(op: Operation) -> list[tuple[SSAValue, RowWindow]] | None:
    """(feature map, the rows of it that a row of the results is made of) for what a layer reads; None for a layer that
    reads or makes anything else, except constants that are the same for all rows.
    """
    if any(len(shape_of(value)) != 4 for value in op.results) or len({shape_of(v)[ROWS] for v in op.results}) > 1:
        return None
    if isinstance(op, FusedOp):
        return _fused_windows(op)
    if isinstance(op, POINTWISE):
        return _pointwise_windows(op, [x for x in op.operands if not is_constant(x)])
    if isinstance(op, ConcatOp):
        return _joined_windows(op)
    return _anchor_windows(op) if _are_constant(op.operands[1:]) else None


def _pointwise_windows(op: Operation, inside: Sequence[SSAValue]) -> list[tuple[SSAValue, RowWindow]] | None:
    """The same rows of what is as high as the result; what is not `inside` must be the same for all rows."""
    rows, images = shape_of(op.results[0])[ROWS], shape_of(op.results[0])[0]
    for x in op.operands:
        shape = shape_of(x)
        if x in inside:
            if len(shape) != 4 or shape[ROWS] != rows or shape[0] != images:
                return None
        elif (len(shape) > 1 and shape[-2] != 1) or (len(shape) > 3 and shape[0] != 1):
            return None
    return [(x, RowWindow()) for x in inside]


def _joined_windows(op: ConcatOp) -> list[tuple[SSAValue, RowWindow]] | None:
    """The same rows of all feature maps whose channels are put together."""
    if op.axis.value.data != CHANNELS or any(is_constant(x) for x in op.xs):
        return None
    return [(x, RowWindow()) for x in dict.fromkeys(op.xs)]


def _window_of(op: ConvOp | PoolOp, taps: int) -> RowWindow | None:
    """The rows that a window reads; None where the last one reaches over the padding."""
    stride, dilation = ints(op.strides)[0], ints(op.dilations)[0]
    window = RowWindow(stride, (taps - 1) * dilation + 1, ints(op.pads)[0])
    size, made = shape_of(op.x)[ROWS], shape_of(op.result)[ROWS]
    _, below = window.padding(Rows(0, made), size)
    return window if below <= ints(op.pads)[2] else None


def _are_constant(values: Iterable[SSAValue]) -> bool:
    return all(is_constant(value) for value in values)


def _fused_windows(op: FusedOp) -> list[tuple[SSAValue, RowWindow]] | None:
    """Of what the anchor and the pointwise operators behind it read."""
    outer: dict[SSAValue, SSAValue] = dict(zip(op.body.block.args, op.operands, strict=True))
    made: set[SSAValue] = set()
    found: dict[tuple[SSAValue, RowWindow], None] = {}
    for inner in op.body.block.ops:
        if isinstance(inner, YieldOp):
            break
        if isinstance(inner, POINTWISE):
            inside = [x for x in inner.operands if x in made or not is_constant(outer[x])]
            windows = _pointwise_windows(inner, inside) if len(shape_of(inner.results[0])) == 4 else None
        elif (made and not isinstance(inner, ConvOp)) or not _are_constant(outer[x] for x in inner.operands[1:]):
            return None
        else:
            windows = _anchor_windows(inner)
        if windows is None:
            return None
        found.update({(outer[value], window): None for value, window in windows if value not in made})
        made.update(inner.results)
    return list(found)


def _anchor_windows(op: Operation) -> list[tuple[SSAValue, RowWindow]] | None:
    """As `row_windows`, for an operator on one feature map; what else it reads is known to be constant."""
    if isinstance(op, ConvOp):
        window = _window_of(op, shape_of(op.w)[2])
        return [(op.x, window)] if window else None
    if isinstance(op, PoolOp):
        window = _window_of(op, ints(op.kernel)[0])
        return [(op.x, window)] if window and not bool(op.count_include_pad) else None
    if isinstance(op, ConvTransposeOp):
        plain = ints(op.strides)[0] == shape_of(op.w)[2] and not any((*ints(op.pads), *ints(op.output_padding)))
        return [(op.x, RowWindow(up=ints(op.strides)[0]))] if plain else None
    return None


# -- sizes and times ---------------------------------------------------------------------------------------------------


class _Described:
    """Layers as plain numbers, and which number stands for which value."""

    def __init__(self, layers: Sequence[Operation], target: Target):
        self.numbers: dict[SSAValue, int] = {}
        self.maps: dict[int, FeatureMap] = {}
        inside, described, outside = set(layers), list[Layer](), set[int]()
        for op in layers:
            windows = row_windows(op)
            assert windows is not None
            read = tuple((self._number(value), window) for value, window in windows)
            made = tuple(self._number(value) for value in op.results)
            weights = sum(bytes_of(value.type) for value in op.operands if is_constant(value))
            described.append(Layer(made, read, _engine_times(op, target), weights))
            users = {use.operation for value in op.results for use in value.uses}
            if not users <= inside:
                outside.update(
                    self.numbers[v] for v in op.results if any(use.operation not in inside for use in v.uses)
                )
        self.chain = Chain(described, self.maps, frozenset(outside))

    def _number(self, value: SSAValue) -> int:
        if value not in self.numbers:
            self.numbers[value] = len(self.numbers)
            self.maps[self.numbers[value]] = _feature_map(value)
        return self.numbers[value]


def _engine_times(op: Operation, target: Target) -> dict[int, float]:
    """Images at a time -> time of the busiest engine for all images, for every way to divide them into equal parts."""
    images = shape_of(op.results[0])[0]
    divisors = [parts for parts in range(1, min(images, MOST_PARTS) + 1) if images % parts == 0]
    return {images // parts: engine_ns(op, target, parts) for parts in divisors}


def _feature_map(value: SSAValue) -> FeatureMap:
    dtype, (images, channels, rows, columns) = spec_of(value)
    halo: Halo = ()
    for use in value.uses:
        halo = merge_halo(halo, reads(use.operation, value, CHANNELS) or ())
    low_high = [sum(pair) for pair in halo[1:]] or [0, 0]
    folds = tuple(fold for fold in FOLDS if images % fold == 0 and channels * fold <= max(channels, 128))
    passing = isinstance(value.owner, CastOp) and comes_from_dram(value.owner.x)
    passing = passing or rows_of_piece(value) is not None
    return FeatureMap(images, channels, rows, columns, dtype.size_bytes, low_high[0], low_high[1], folds, passing)


def _bytes_at(op: Operation) -> int:
    """Bytes of a partition that what a layer reads and makes would take together."""
    values = {x for x in (*op.operands, *op.results) if not is_constant(x)}
    maps = [_feature_map(value) for value in values if not comes_from_dram(value)]
    return sum(one.chip_bytes(one.images, one.rows) for one in maps)


# -- rewriting ---------------------------------------------------------------------------------------------------------


def _apply(block: Block, layers: Sequence[Operation], described: _Described, run: Run) -> None:
    """Replace the layers of a run by a copy for every part."""
    bands = rows_of_bands(described.chain, run.first, run.end, run.bands)
    assert bands is not None
    made = [value for op in layers for value in op.results]
    chosen, inside = set(layers), set(made)
    read = [value for op in layers for value, _ in row_windows(op) or ()]
    inputs = [value for value in dict.fromkeys(read) if value not in inside]
    outputs = [value for value in made if any(use.operation not in chosen for use in value.uses)]
    parts: dict[SSAValue, list[list[SSAValue]]] = {value: [] for value in outputs}
    place = layers[-1]
    images = shape_of(made[0])[0]
    for first in range(0, images, run.images):
        for value in outputs:
            parts[value].append([])
        for band in bands:
            rows = {value: band[described.numbers[value]] for value in (*inputs, *made)}
            copies = BandCopies(run.images, rows)
            new: list[Operation] = []
            mapping = {value: _cut(value, first, run.images, rows[value], layers[0], new) for value in inputs}
            new += [copies.clone(op, row_windows(op) or [], mapping) for op in layers]
            for value in outputs:
                parts[value][-1].append(mapping[value])
            block.insert_ops_after(new, place)
            place = new[-1]
    if listening():
        count = ceil(images / run.images) * run.bands
        why = f"{len(layers)} layers run for {run.images} images and one of {run.bands} bands of rows at a time"
        remark("passed", "depth-first", why, op=layers[0], parts=count)
    for value in outputs:
        new = _put_together(parts[value], layers[-1])
        result = new[-1].results[0]
        result.name_hint = value.name_hint
        block.insert_ops_after(new, place)
        place = new[-1]
        value.replace_uses_with_if(result, lambda use: use.operation not in chosen)
    for op in reversed(layers):
        block.erase_op(op)
    for whole in [value.owner for value in inputs]:
        if isinstance(whole, ConcatOp) and whole.result.first_use is None:
            block.erase_op(whole)


def _put_together(parts: Sequence[Sequence[SSAValue]], like: Operation) -> list[Operation]:
    """What makes the whole of the bands of each group of images."""
    new: list[Operation] = []

    def joined(values: Sequence[SSAValue], axis: int) -> SSAValue:
        if len(values) == 1:
            return values[0]
        op = ConcatOp(values, axis)
        op.location = like.location
        new.append(op)
        return op.result

    joined([joined(bands, ROWS) for bands in parts], 0)
    return new


def _cut(value: SSAValue, first: int, images: int, rows: Rows, like: Operation, new: list[Operation]) -> SSAValue:
    """Some images and rows of a value; the slice, where it needs one, joins `new`."""
    all_images, channels, size, columns = shape_of(value)
    if (images, rows) == (all_images, Rows(0, size)):
        return value
    if rows == Rows(0, size) and (part := joined_images(value, first, images)) is not None:
        return part
    starts, sizes = (first, 0, rows.first, 0), (images, channels, rows.end - rows.first, columns)
    cut = SliceOp(value, starts, sizes, (1, 1, 1, 1))
    cut.location = like.location
    new.append(cut)
    return cut.result


def joined_images(value: SSAValue, first: int, images: int) -> SSAValue | None:
    """What some images of a value are in the concatenation that it is the result of, if they are one operand there."""
    whole = value.owner
    if not isinstance(whole, ConcatOp) or whole.axis.value.data != 0:
        return None
    begins = accumulate((shape_of(part)[0] for part in whole.xs), initial=0)
    parts = {(begin, shape_of(part)[0]): part for part, begin in zip(whole.xs, begins, strict=False)}
    return parts.get((first, images))

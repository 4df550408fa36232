"""`graph-pixel-rows`: a 1x1 convolution whose result is wanted with channels last becomes a product of pixels.

Given core functions in front of `graph-fuse`. A detection head ends in a convolution, a transposition that puts its
channels last, an activation, and arithmetic on some of the last positions, put together again. With pixels as the rows
of a product none of this moves: the tensor engine leaves pixels on partitions and channels along the row, and all that
follows happens in that row before it is stored. `pixel_rows` recognises such a run of operators, in a block and in the
group that the pass makes of it; the kernel asks it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ClipOp,
    ConcatOp,
    ConstantOp,
    ConvOp,
    FusedOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    UnaryOp,
    WeightOp,
    YieldOp,
    ints,
    shape_of,
    spec_of,
)
from neuron_dialects.neuron import core_functions, target_of
from neuron_dialects.target import Target
from passes.graph.conv_groups import LANES
from passes.graph.fuse import grow_group, outline, split_bias

POINTWISE = (UnaryOp, BinaryOp, ClipOp, CastOp)
"""Operators that may follow in a row."""

LEAST_LANES = 64
"""Fewest pixels that one product takes: with fewer, the tensor engine's columns would be wasted."""

INPUT_BYTES = 32 * 1024
"""Most bytes of a partition that the pixels of an image may take."""

OPERAND_BYTES = 8 * 1024
"""Most bytes of a partition that constants of the row's arithmetic may take, each."""


@dataclass(frozen=True)
class PixelLanes:
    """Pixel `lane * positions + position` of an image lies on `lane`; a lane has `rows` whole rows of pixels, or
    (`rows` = 1) `columns` of one.
    """

    lanes: int
    rows: int
    columns: int

    @property
    def positions(self) -> int:
        """Pixels of a lane."""
        return self.rows * self.columns


def pixel_lanes(height: int, width: int, limit: int) -> PixelLanes:
    """The choice with the most lanes, up to `limit`."""
    within = [PixelLanes(height * (width // n), 1, n) for n in range(1, width + 1) if width % n == 0]
    across = [PixelLanes(height // n, n, width) for n in range(1, height + 1) if height % n == 0]
    return max((c for c in (*within, *across) if c.lanes <= limit), key=lambda c: c.lanes, default=across[-1])


@dataclass(frozen=True)
class Piece:
    """A part of the result's rows: `value` from position `start` on, made by `ops`, or (none) by the row itself."""

    value: SSAValue
    start: int
    size: int
    ops: tuple[Operation, ...]


@dataclass(frozen=True)
class PixelRows:
    """A convolution whose result has its channels last: `parts` of them side by side in dimension 1.

    `base`: pointwise operators on the whole rows, the last of which makes `row`; `pieces`: what the result is put
    together of, in place; none where it is the row.
    """

    conv: ConvOp
    bias: BinaryOp | None
    transpose: TransposeOp
    base: tuple[Operation, ...]
    row: SSAValue
    pieces: tuple[Piece, ...]
    result: SSAValue

    @property
    def parts(self) -> int:
        """Groups of channels, dimension 1 of the transposed result."""
        shape = shape_of(self.transpose.result)
        return shape[1] if len(shape) == 5 else 1


def pixel_rows(transpose: TransposeOp, following: Sequence[Operation]) -> PixelRows | None:
    """The run of operators around `transpose`, with `following` behind it in program order, if it is one."""
    head = _head(transpose)
    if head is None:
        return None
    conv, bias = head
    row, base = transpose.result, list[Operation]()
    rest = list(following)
    while rest and isinstance(rest[0], POINTWISE) and row.has_one_use() and row in rest[0].operands:
        op = rest[0]
        if any(other is not row and not _is_number(other) for other in op.operands):
            return None
        base.append(rest.pop(0))
        row = op.results[0]
    if not rest:
        return PixelRows(conv, bias, transpose, tuple(base), row, (), row)
    casts = list[Operation]()
    while rest and isinstance(rest[-1], CastOp):
        casts.insert(0, rest.pop())
    joined = rest.pop() if rest else None
    if not isinstance(joined, ConcatOp) or joined.axis.value.data != len(shape_of(joined.result)) - 1:
        return None
    if any(spec_of(value)[0].is_integer for cast in casts for value in (*cast.operands, *cast.results)):
        return None
    pieces = _pieces(joined, row, rest)
    result = casts[-1].results[0] if casts else joined.result
    return None if pieces is None else PixelRows(conv, bias, transpose, tuple(base), row, pieces, result)


def _head(transpose: TransposeOp) -> tuple[ConvOp, BinaryOp | None] | None:
    """The convolution behind a transposition that puts its channels last, and the addition of its bias."""
    value, permutation = transpose.x, list(ints(transpose.permutation))
    rank = len(permutation)
    if rank == 5 and permutation == [0, 1, 3, 4, 2] and isinstance(split := value.owner, ReshapeOp):
        images, parts, channels, *spatial = shape_of(value)
        if not value.has_one_use() or shape_of(split.x) != (images, parts * channels, *spatial):
            return None
        value = split.x
    elif rank != 4 or permutation != [0, 2, 3, 1]:
        return None
    bias = None
    if value.has_one_use() and isinstance(add := value.owner, BinaryOp) and add.kind.data is BinaryKind.ADD:
        bias, value = add, add.a
        column = (shape_of(add.result)[1], 1, 1)
        if shape_of(add.b) != column or not _is_constant(add.b):
            return None
    conv = value.owner
    if not isinstance(conv, ConvOp) or conv.bias is not None or not value.has_one_use() or not _is_constant(conv.w):
        return None
    return (conv, bias) if conv.is_pointwise and conv.groups.value.data == 1 else None


def _pieces(joined: ConcatOp, row: SSAValue, ops: Sequence[Operation]) -> tuple[Piece, ...] | None:
    """What the row's parts are made by, where each can be left in the place of what it is made of."""
    pieces, start, left = list[Piece](), 0, {op for op in ops if not isinstance(op, SliceOp)}
    read = [op for op in ops if isinstance(op, SliceOp)]
    if any(not _is_part(op, row) for op in read):
        return None
    for value in joined.xs:
        size = shape_of(value)[-1]
        chain = _chain(value, left)
        if chain is None:
            return None
        left -= set(chain)
        sources = [operand.owner for op in chain for operand in op.operands] if chain else [value.owner]
        slices = [owner for owner in sources if isinstance(owner, SliceOp)]
        if any((ints(cut.starts)[-1], ints(cut.sizes)[-1]) != (start, size) for cut in slices):
            return None
        if len(slices) != 1 or not slices[0].result.has_one_use():
            return None
        pieces.append(Piece(value, start, size, tuple(chain)))
        start += size
    return tuple(pieces) if not left and len(read) == len(pieces) and start == shape_of(row)[-1] else None


def _chain(value: SSAValue, among: set[Operation]) -> list[Operation] | None:
    """The operators that make `value` of a slice and constants, in program order; None where it is made otherwise."""
    owner = value.owner
    if isinstance(owner, SliceOp):
        return []
    if not isinstance(owner, POINTWISE) or owner not in among or not value.has_one_use():
        return None
    chain = list[Operation]()
    for operand in owner.operands:
        if _is_number(operand) or (_is_constant(operand) and _fits_row(operand, shape_of(value))):
            continue
        made = _chain(operand, among)
        if made is None or shape_of(operand) != shape_of(value):
            return None
        chain += made
    return [*chain, owner]


def _fits_row(operand: SSAValue, shape: tuple[int, ...]) -> bool:
    """Whether a constant has a number for each pixel of an image."""
    return shape_of(operand) == (1, *shape[1:])


def _is_part(op: SliceOp, row: SSAValue) -> bool:
    """Whether a slice takes some of the last positions of every row."""
    whole = shape_of(row)[:-1]
    return op.x is row and ints(op.sizes)[:-1] == whole and all(step == 1 for step in ints(op.steps))


def _is_number(value: SSAValue) -> bool:
    owner = _given(value).owner
    return isinstance(owner, ConstantOp) and owner.is_splat and prod(shape_of(value)) == 1


def _is_constant(value: SSAValue) -> bool:
    owner = _given(value).owner
    while isinstance(owner, ReshapeOp):
        owner = owner.x.owner
    return isinstance(owner, WeightOp)


def _given(value: SSAValue) -> SSAValue:
    """What is given for an argument of a group."""
    parent = value.owner.parent_op() if isinstance(value.owner, Block) else None
    if isinstance(parent, FusedOp):
        return parent.operands[parent.body.block.args.index(value)]  # pyright: ignore[reportArgumentType]
    return value


def rows_of(op: FusedOp) -> PixelRows | None:
    """The run that a group is; None for any other group."""
    ops = [inner for inner in op.body.block.ops if not isinstance(inner, YieldOp)]
    turned = next((i for i, inner in enumerate(ops) if isinstance(inner, TransposeOp)), None)
    if turned is None:
        return None
    transpose = ops[turned]
    assert isinstance(transpose, TransposeOp)
    return pixel_rows(transpose, ops[turned + 1 :])


# -- the pass ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GraphPixelRowsPass(ModulePass):
    """Outline 1x1 convolutions whose channels are put last, with the arithmetic that follows, into `graph.fused`.

        %0 = graph.conv %x, %w ... : ... -> tensor<8x255x80x80xbf16>
        %1 = graph.reshape %0 : ... -> tensor<8x3x85x80x80xbf16>
        %2 = graph.transpose %1 permutation [0, 1, 3, 4, 2] : ... -> tensor<8x3x80x80x85xbf16>
        %3 = graph.unary sigmoid %2

    becomes

        %3 = graph.fused(%x, %w) {
          ^bb0(%a, %b):
            %0 = graph.conv %a, %b ...
            %1 = graph.reshape %0 ...
            %2 = graph.transpose %1 ...
            %3 = graph.unary sigmoid %2
            graph.yield %3
        }

    A cast of what is put together of several such results becomes part of each.
    """

    name = "graph-pixel-rows"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Outline in every core function."""
        target = target_of(op)
        for function in core_functions(op):
            outline_rows(function.body.block, target)


def outline_rows(block: Block, target: Target) -> None:
    """Outline the runs of one block."""
    if not any(isinstance(op, TransposeOp) for op in block.ops):
        return
    split_bias(block)
    transposes = [op for op in block.ops if isinstance(op, TransposeOp) and _head(op) is not None]
    if not transposes:
        return
    for op in list(block.ops):
        if isinstance(op, CastOp):
            _cast_parts(block, op, transposes)
    ops = list(block.ops)
    number = {op: i for i, op in enumerate(ops)}
    for transpose in transposes:
        members = [ops[i] for i in _members(ops, number, number[transpose])]
        for count in range(len(members), 0, -1):
            found = pixel_rows(transpose, members[1:count])
            if found is not None and _is_closed(members[:count], found.result) and _fits(found, target):
                outline(block, [*_run_before(found), *members[:count]])
                break


def _members(ops: Sequence[Operation], number: dict[Operation, int], seed: int) -> list[int]:
    """The transposition and what follows it and could be part of its run."""

    def users(node: int) -> list[int]:
        return [number[use.operation] for result in ops[node].results for use in result.uses]

    def eligible(node: int) -> bool:
        return isinstance(ops[node], (*POINTWISE, SliceOp, ConcatOp))

    return grow_group(seed, users, eligible)


def _is_closed(members: Sequence[Operation], result: SSAValue) -> bool:
    """Whether nobody but `members` reads what they make, but for `result`."""
    inside = set(members)
    made = [value for op in members for value in op.results if value is not result]
    return all(use.operation in inside for value in made for use in value.uses)


def _run_before(found: PixelRows) -> list[Operation]:
    """The convolution and what stands between it and the transposition."""
    split = found.transpose.x.owner
    run: list[Operation] = [found.conv]
    if found.bias is not None:
        run.append(found.bias)
    if isinstance(split, ReshapeOp):
        run.append(split)
    return run


def _fits(found: PixelRows, target: Target) -> bool:
    """Whether the kernel can do it: full lanes of pixels, a row of channels in one bank, an image on chip."""
    dtype, (_, channels, height, width) = spec_of(found.conv.x)
    outputs = shape_of(found.conv.result)[1]
    lanes = pixel_lanes(height, width, min(LANES, int(target.pe_columns)))
    bank = min(int(target.pe_moving_elements), int(target.psum_bank_bytes) // 4)
    image = -(-channels // LANES) * height * width * dtype.size_bytes
    constants = [
        prod(shape_of(value)) // lanes.lanes * spec_of(value)[0].size_bytes
        for piece in found.pieces
        for op in piece.ops
        for value in op.operands
        if _is_constant(value)
    ]
    room = image <= INPUT_BYTES and all(size <= OPERAND_BYTES for size in constants)
    floats = all(spec_of(value)[0].is_float for value in (found.conv.x, found.result))
    return floats and room and outputs <= bank and LEAST_LANES <= lanes.lanes <= min(LANES, int(target.pe_columns))


def _cast_parts(block: Block, cast: CastOp, transposes: Sequence[TransposeOp]) -> None:
    """cast(concat(a, b)) to a wider type -> concat(cast(a), cast(b)), where runs that end in `transposes` make a and b
    and nobody else reads them.
    """
    joined = cast.x.owner
    before, after = spec_of(cast.x)[0], spec_of(cast.result)[0]
    wider = before.is_float and after.is_float and after.size_bytes > before.size_bytes
    if not isinstance(joined, ConcatOp) or not joined.result.has_one_use() or not wider:
        return
    xs = [*joined.xs]
    places = [_place_of_cast(value) for value in xs]
    if not all(value.has_one_use() for value in (*xs, *places)):
        return
    # Parts of one row are cast with the row.
    if any(isinstance(value.owner, SliceOp) or not _comes_from(value, set(transposes)) for value in places):
        return
    parts = list[SSAValue]()
    for value, place in zip(xs, places, strict=True):
        made = CastOp(place, after)
        made.location = cast.location
        block.insert_op_before(made, cast)
        part = made.result
        if place is not value:
            reshape = ReshapeOp(part, shape_of(value))
            reshape.location = cast.location
            block.insert_op_before(reshape, cast)
            part = reshape.result
        parts.append(part)
    whole = ConcatOp(parts, joined.axis.value.data)
    whole.location = joined.location
    whole.result.name_hint = cast.result.name_hint
    block.insert_op_before(whole, cast)
    cast.result.replace_all_uses_with(whole.result)
    block.erase_op(cast)
    block.erase_op(joined)
    for value, place in zip(xs, places, strict=True):
        if place is not value and isinstance(value.owner, Operation):
            block.erase_op(value.owner)


def _place_of_cast(value: SSAValue) -> SSAValue:
    """What is reshaped into `value`, or the value."""
    return value.owner.x if isinstance(value.owner, ReshapeOp) else value


def _comes_from(value: SSAValue, transposes: set[TransposeOp]) -> bool:
    """Whether a run behind one of `transposes` makes `value`."""
    pending, seen = [value], set[SSAValue]()
    while pending:
        value = pending.pop()
        owner = value.owner
        if owner in transposes:
            return True
        if isinstance(owner, (*POINTWISE, SliceOp, ConcatOp)) and value not in seen:
            seen.add(value)
            pending += owner.operands
    return False

"""Which pieces of a function keep their feature maps in blocks of pixels (`pixel_grid`): analysis and estimates.

A function is cut in front of convolutions whose operand is the only value alive there. What a piece computes is in
pixels or in blocks; the convolution at its front reads what the piece before it leaves. Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from math import ceil, inf, prod

from xdsl.ir import Block, Operation, SSAValue, Use

from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ClipOp,
    ConvOp,
    ReduceKind,
    ReduceOp,
    UnaryKind,
    UnaryOp,
    ints,
    shape_of,
    spec_of,
)
from neuron_dialects.target import Target
from passes.graph.conv_groups import LANES, QUADRANT
from passes.graph.fold_images import comes_from_dram, is_constant
from passes.graph.fold_plan import FOLDS, Convolution, Sweep, convolution_ns, round_trip_ns, sweep_ns
from passes.graph.pixel_border import vanishes
from passes.graph.pixel_grid import PIXELS, SIDE, Lines, lines_of, shape_in, windows_of

ALONE = (UnaryOp, ClipOp, CastOp)
"""Pointwise operators of one operand."""

UNBOUNDED = (UnaryKind.EXP, UnaryKind.LOG, UnaryKind.SQRT, UnaryKind.RSQRT, UnaryKind.RECIPROCAL)
"""Functions that are not finite everywhere: weights of zero do not leave out what they make of pixels beside a map."""

WORTH = 0.95
"""Blocks are made where convolutions then take less than this share of the time: filters between them are larger."""

MEAN = "mean"
"""The form of what has one number for each channel and pixel of a block."""

Form = Lines | str


@dataclass(frozen=True)
class Convolved:
    """How a convolution is computed: from `read` to `made`, and, if these are not the `final` ones, moved to these.

    `clears`: what is made beside the map becomes zero.
    """

    read: Lines
    made: Lines
    final: Lines
    ns: float
    clears: bool = False


@dataclass
class Piece:
    """Operators from one cut to the next; `blocks`: how its convolutions behind the first op are computed in blocks."""

    ops: list[Operation]
    plain_ns: float = 0.0
    blocks_ns: float = inf
    carries: bool = False
    """Whether something else than the front reads its operand, as a residual is read."""

    blocks: dict[Operation, Convolved] = field(default_factory=dict)


def choose_blocks(block: Block, target: Target) -> dict[Operation, Convolved]:
    """The convolutions that read or make blocks, and how; empty where pixels are as good."""
    pieces = _pieces(block)
    if not any(is_depthwise(op) for piece in pieces for op in piece.ops):
        return {}
    for piece in pieces[1:]:
        _estimate(piece, target)
    kept = _with_depthwise(pieces, _cheapest(pieces, target))
    chosen: dict[Operation, Convolved] = {}
    for number, piece in enumerate(pieces[1:], 1):
        before, here = kept[number - 1], kept[number]
        if here:
            chosen.update(piece.blocks)
        if here or before:
            chosen[piece.ops[0]] = _front(piece, before, here, target)
    return chosen


# -- pieces ------------------------------------------------------------------------------------------------------------


def _pieces(block: Block) -> list[Piece]:
    """The operators of a block that compute something, cut where one value alone is alive."""
    ops = [op for op in block.ops if not op.results or not all(is_constant(value) for value in op.results)]
    number = {op: i for i, op in enumerate(ops)}
    starts = [0] * (len(ops) + 2)

    def live(value: SSAValue, made: int) -> None:
        last = max((number.get(use.operation, made) for use in value.uses), default=made)
        starts[made + 1] += 1
        starts[last + 1] -= 1

    for argument in block.args:
        live(argument, -1)
    for i, op in enumerate(ops):
        for result in op.results:
            live(result, i)
    alive = list(accumulate(starts))
    pieces = [Piece([])]
    for i, op in enumerate(ops):
        if alive[i] == 1 and is_convertible(op) and not _is_within_shift(op):
            pieces.append(Piece([], carries=not op.operands[0].has_one_use()))
        pieces[-1].ops.append(op)
    return pieces


def is_convertible(op: Operation) -> bool:
    """Whether an operator is a convolution of feature maps with constant filters."""
    if not isinstance(op, ConvOp) or len(shape_of(op.x)) != 4 or is_constant(op.x) or not is_constant(op.w):
        return False
    known = op.bias is None or is_constant(op.bias)
    pads = ints(op.pads)
    return known and set(ints(op.dilations)) == {1} and pads[:2] == pads[2:] and prod(shape_of(op.result)) > 0


def is_depthwise(op: Operation) -> bool:
    """Whether an operator is a depthwise convolution of enough channels that pixels of them fill lanes."""
    if not is_convertible(op) or not isinstance(op, ConvOp):
        return False
    groups, taps = op.groups.value.data, prod(shape_of(op.w)[2:])
    return groups == shape_of(op.x)[1] == shape_of(op.result)[1] >= QUADRANT // 2 and taps > 1


def _is_within_shift(op: Operation) -> bool:
    """Whether what a convolution makes or reads may begin a pixel before its map: both lie in blocks then."""
    if not isinstance(op, ConvOp) or _shifts(op):
        return True
    value = op.x
    while isinstance(value.owner, (*ALONE, BinaryOp)):
        value = value.owner.operands[0] if isinstance(value.owner, ALONE) else weighed_map(value.owner)
        if value is None:
            return False
    owner = value.owner
    return isinstance(owner, ConvOp) and is_convertible(owner) and _shifts(owner)


def _shifts(op: ConvOp) -> bool:
    """Whether fewer blocks are read where those of the result begin a pixel before the map, and its end moves it back:
    a 1x1 convolution that alone reads it.
    """
    if not _is_even(op) or closing_of(op) is None:
        return False
    read = lines_of(shape_of(op.x), 0)
    windows = [windows_of(op, read, lines_of(shape_of(op.result), origin)) for origin in (0, -1)]
    taps = [prod(w.taps for w in pair) if pair else inf for pair in windows]
    return taps[1] < taps[0]


def closing_of(op: ConvOp) -> ConvOp | None:
    """The 1x1 convolution that alone reads what a convolution makes, maybe behind activations that are finite, or
    weighed by what its means give, if what is beside the map becomes zero.
    """
    value: SSAValue = op.result
    while (use := _onward(value, op)) is not None:
        user = use.operation
        if isinstance(user, ConvOp):
            ok = use.index == 0 and is_convertible(user) and user.is_pointwise and user.groups.value.data == 1
            return user if ok else None
        if not isinstance(user, (*ALONE, BinaryOp)) or (isinstance(user, UnaryOp) and user.kind.data in UNBOUNDED):
            return None
        value = user.results[0]
    return None


def _onward(value: SSAValue, op: ConvOp) -> Use | None:
    """The only use of what was made of the result of `op`, beside the mean that weighs it."""
    uses = list(value.uses)
    if len(uses) == 1 and not isinstance(uses[0].operation, BinaryOp):
        return uses[0]
    users = {type(use.operation): use for use in uses}
    if len(uses) != 2 or users.keys() != {ReduceOp, BinaryOp}:
        return None
    weighing, activation = users[BinaryOp].operation, value.owner
    cleared = isinstance(activation, Operation) and vanishes(activation) and activation.operands[0] is op.result
    return users[BinaryOp] if cleared and weighed_map(weighing) is value else None


def weighed_map(op: Operation) -> SSAValue | None:
    """The map of which an operator multiplies each channel with a number of its own; None for any other operator."""
    if not isinstance(op, BinaryOp) or op.kind.data is not BinaryKind.MUL:
        return None
    shape = shape_of(op.result)
    for value, other in ((op.a, op.b), (op.b, op.a)):
        if value is not other and shape_of(value) == shape and not is_constant(value) and is_repeatable(other, shape):
            return value
    return None


def _is_weighed(op: ConvOp) -> bool:
    """Whether the mean of what a convolution makes is taken."""
    reached = (
        use.operation for result in (x for u in op.result.uses for x in u.operation.results) for use in result.uses
    )
    return any(isinstance(user, ReduceOp) for user in reached)


def _is_even(op: ConvOp) -> bool:
    sides = (*shape_of(op.x)[2:], *shape_of(op.result)[2:])
    return all(size % SIDE == 0 for size in sides)


# -- a piece in blocks -------------------------------------------------------------------------------------------------


def _estimate(piece: Piece, target: Target) -> None:
    """Note what a piece costs behind its front, in pixels and, where that is possible, in blocks."""
    front = piece.ops[0]
    piece.plain_ns = sum(plain_ns(op, target) for op in piece.ops[1:] if isinstance(op, ConvOp) and is_convertible(op))
    shape = shape_of(front.results[0])
    if any(size % SIDE for size in shape[2:]):
        return
    forms: dict[SSAValue, Form] = {front.results[0]: lines_of(shape, 0)}
    if piece.carries:
        forms[front.operands[0]] = lines_of(shape_of(front.operands[0]), 0)
    for op in piece.ops[1:]:
        if any(value in forms for value in op.operands) and not _take(op, forms, piece, target):
            return
    inside = set(piece.ops)
    last = {value for op in piece.ops for value in op.results if any(u.operation not in inside for u in value.uses)}
    if all(forms.get(value) == lines_of(shape_of(value), 0) for value in last):
        piece.blocks_ns = sum(convolved.ns for convolved in piece.blocks.values()) / WORTH


def _take(op: Operation, forms: dict[SSAValue, Form], piece: Piece, target: Target) -> bool:
    """Note the form of what an operator makes of blocks; whether it can be computed."""
    if isinstance(op, ConvOp):
        return _take_conv(op, forms, piece, target)
    if isinstance(op, ALONE):
        form = forms[op.results[0]] = forms[op.operands[0]]
        return form != MEAN or is_float_cast(op)
    if isinstance(op, ReduceOp):
        whole = op.kind.data is ReduceKind.MEAN and op.keep_dims and set(ints(op.axes)) == {2, 3}
        if not whole or forms[op.x] not in (lines_of(shape_of(op.x), 0), lines_of(shape_of(op.x), -1)):
            return False
        forms[op.result] = MEAN
        return True
    if not isinstance(op, BinaryOp):
        return False
    shape = shape_of(op.result)
    found = {forms[value] for value in op.operands if value in forms}
    whole = all(shape_of(value) == shape for value in op.operands if value in forms)
    others = [value for value in op.operands if value not in forms]
    if len(found) != 1 or not whole or not all(is_repeatable(value, shape) for value in others):
        return False
    (forms[op.result],) = found
    return MEAN not in found


def _take_conv(op: ConvOp, forms: dict[SSAValue, Form], piece: Piece, target: Target) -> bool:
    """The same for a convolution."""
    read = forms[op.x] if op.x in forms else MEAN
    if not is_convertible(op) or op.w in forms:
        return False
    if isinstance(read, str):
        return op.is_pointwise and op.groups.value.data == 1  # its weights take the means of pixels together
    if not _is_even(op):
        return False
    final = lines_of(shape_of(op.result), 0)
    if read != lines_of(shape_of(op.x), 0):
        convolved = closed(op, read, final, target)
    else:
        convolved = aligned = convolve(op, read, final, target)
        closing = closing_of(op)
        if closing is not None and _shifts(op):  # no piece ends between the two
            shifted = convolve(op, read, lines_of(shape_of(op.result), -1), target)
            ends = [convolve(closing, final, final, target), closed(closing, shifted.final, final, target)]
            if aligned.ns + ends[0].ns > shifted.ns + ends[1].ns:
                convolved = replace(shifted, clears=_is_weighed(op))
    forms[op.result] = convolved.final
    piece.blocks[op] = convolved
    return convolved.ns < inf


def is_float_cast(op: Operation) -> bool:
    """Whether an operator makes of a sum the sum of what it makes of the terms, but for rounding."""
    return isinstance(op, CastOp) and spec_of(op.x)[0].is_float and spec_of(op.result)[0].is_float


def is_repeatable(value: SSAValue, shape: Sequence[int]) -> bool:
    """Whether a value is the same for all pixels of an image, and can be made for those of blocks: a constant, or what
    a 1x1 convolution makes of numbers of each image.
    """
    own = shape_of(value)
    if is_constant(value):
        return prod(own) == 1 or (len(own) > 2 and own[-3] == shape[1] == prod(own))
    while isinstance(value.owner, ALONE) and value.has_one_use():
        value = value.owner.operands[0]
    owner = value.owner
    made = isinstance(owner, ConvOp) and is_convertible(owner) and owner.is_pointwise and value.has_one_use()
    return made and own[1:] == (shape[1], 1, 1)


# -- estimates ---------------------------------------------------------------------------------------------------------


def plain_ns(op: ConvOp, target: Target) -> float:
    """Time of a convolution of pixels."""
    pixels = lines_of(shape_of(op.x), None), lines_of(shape_of(op.result), None)
    return convolve(op, *pixels, target).ns


def convolve(op: ConvOp, read: Lines, made: Lines, target: Target) -> Convolved:
    """A convolution between blocks or pixels, infinitely slow where that is not possible."""
    windows = windows_of(op, read, made)
    if windows is None:
        return Convolved(read, made, made, inf)
    down, right = windows
    x, result = shape_in(shape_of(op.x), read), shape_in(shape_of(op.result), made)
    taps = (down.taps, right.taps)
    ns = _kernel_ns(op, x[1], result, op.groups.value.data, taps, target)
    return Convolved(read, made, made, ns)


def closed(op: ConvOp, read: Lines, final: Lines, target: Target) -> Convolved:
    """A 1x1 convolution of blocks that begin before their map: to the `final` ones at once, or moved there behind."""
    at_once, apart = convolve(op, read, final, target), convolve(op, read, read, target)
    result = shape_in(shape_of(op.result), final)
    moved = _kernel_ns(op, result[1], result, shape_of(op.result)[1], (SIDE, SIDE), target)
    if at_once.ns <= apart.ns + moved:
        return at_once
    return Convolved(read, apart.made, final, apart.ns + moved)


def apart_ns(op: ConvOp, target: Target) -> float:
    """Time of a 1x1 convolution that takes the pixels of blocks apart: a transposed one, a pixel of all at a time."""
    images, outputs, rows, columns = shape_of(op.result)
    products = ceil(shape_of(op.x)[1] * PIXELS / LANES) * ceil(outputs / LANES)
    swept = Sweep(images, outputs, rows * columns, 1.0, spec_of(op.result)[0].size_bytes)
    multiplied = products * images * rows * columns / target.clock_ghz("pe")
    return multiplied + sweep_ns(swept, 1, target, stored=False)


def _kernel_ns(
    op: ConvOp, channels: int, result: Sequence[int], groups: int, taps: tuple[int, int], target: Target
) -> float:
    """Time of the busiest engine, with as many images beside each other as is best."""
    images, outputs, rows, columns = result
    size = spec_of(op.w)[0].size_bytes
    thin = comes_from_dram(op.x)
    work = Convolution(images, channels, outputs, groups, rows * columns, prod(taps), taps[0], thin, size)
    swept = Sweep(images, outputs, rows * columns, 1.0, spec_of(op.result)[0].size_bytes)
    folds = [fold for fold in FOLDS if images % fold == 0]
    return min(convolution_ns(work, fold, target) + sweep_ns(swept, fold, target, stored=False) for fold in folds)


# -- choice ------------------------------------------------------------------------------------------------------------


def _front(piece: Piece, before: bool, here: bool, target: Target) -> Convolved:
    """How the convolution at a cut goes from what is before it to what is behind."""
    op = piece.ops[0]
    assert isinstance(op, ConvOp)
    pixels = lines_of(shape_of(op.x), None)
    if piece.carries and before != here:
        return Convolved(pixels, pixels, pixels, inf)
    for blocks, shape in ((before, shape_of(op.x)), (here, shape_of(op.result))):
        if blocks and any(size % SIDE for size in shape[2:]):
            return Convolved(pixels, pixels, pixels, inf)
    read = lines_of(shape_of(op.x), 0 if before else None)
    made = lines_of(shape_of(op.result), 0 if here else None)
    if before == here:
        convolved = convolve(op, read, made, target)
        return replace(convolved, ns=convolved.ns / WORTH) if here else convolved
    # As many images beside each other as suit pixels do not suit blocks: what is read comes from DRAM.
    crossing = 0.0 if comes_from_dram(op.x) else _round_trip_ns(op.x, target)
    if before and op.is_pointwise and op.groups.value.data == 1:
        return Convolved(read, made, made, apart_ns(op, target) + crossing)
    at_once = convolve(op, read, made, target)
    at_once = replace(at_once, ns=at_once.ns + crossing)
    if before:
        return at_once
    result = shape_in(shape_of(op.result), made)
    moved = _kernel_ns(op, result[1] // PIXELS, result, shape_of(op.result)[1], (SIDE, SIDE), target)
    behind = plain_ns(op, target) + moved + _round_trip_ns(op.result, target)
    if at_once.ns <= behind:
        return at_once
    return Convolved(read, lines_of(shape_of(op.result), None), made, behind)


def _round_trip_ns(value: SSAValue, target: Target) -> float:
    dtype, shape = spec_of(value)
    return round_trip_ns(prod(shape) * dtype.size_bytes, target)


def _cheapest(pieces: Sequence[Piece], target: Target) -> list[bool]:
    """Whether each piece is computed in blocks, so that estimates add up to the least; pixels where they are equal."""
    best = {False: 0.0, True: inf}
    steps: list[dict[bool, bool]] = []
    for piece in pieces[1:]:
        total: dict[bool, float] = {}
        came: dict[bool, bool] = {}
        for here, own in ((False, piece.plain_ns), (True, piece.blocks_ns)):
            options: dict[bool, float] = {}
            for before in (False, True):
                options[before] = best[before] + own + _front(piece, before, here, target).ns
            came[here] = options[True] < options[False]
            total[here] = options[came[here]]
        steps.append(came)
        best = total
    here = False  # what a function returns is in pixels
    chosen = [here]
    for came in reversed(steps):
        here = came[here]
        chosen.append(here)
    return chosen[::-1]


def _with_depthwise(pieces: Sequence[Piece], chosen: Sequence[bool]) -> list[bool]:
    """The choice without runs of pieces in blocks that have no depthwise convolution."""
    kept: list[bool] = []
    for here, run in groupby(zip(chosen, pieces, strict=True), key=lambda pair: pair[0]):
        members = [piece for _, piece in run]
        deep = any(is_depthwise(op) for piece in members for op in piece.ops)
        kept += [here and deep] * len(members)
    return kept

"""`graph-part-sums`: a 1x1 convolution of maps that are put together is the sum of a convolution of each.

    conv(concat(a, b), w) = conv(a, w[:, :n]) + conv(b, w[:, n:])

Given core functions in front of `graph-fold-weights`. Where the maps have few channels, neighbouring images will be
taken as one of more channels (`graph-fold-images`); then a concatenation would take the images of each map apart again.
The sum needs no concatenation, and its kernel adds up in PSUM.
"""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ConcatOp,
    ConvOp,
    ReshapeOp,
    SliceOp,
    WeightOp,
    shape_of,
)
from neuron_dialects.neuron import core_functions
from passes.graph.conv_groups import LANES

PART_SUM = "graph.part_sum"
"""Attribute of an addition of convolutions that one kernel adds up."""

IMAGES = 4
"""Images that will be taken as one, at least: of fewer, a concatenation in DRAM is hidden behind what they cost."""

MOST_PARTS = 4
"""Most maps of a sum: each costs the tensor engine a pass."""


@dataclass(frozen=True)
class GraphPartSumsPass(ModulePass):
    """Take 1x1 convolutions of concatenations apart.

        %0 = graph.concat %a, %b axis 1 : (tensor<4x32x8x8xbf16>, tensor<4x32x8x8xbf16>) -> tensor<4x64x8x8xbf16>
        %1 = graph.conv %0, %w ... : (tensor<4x64x8x8xbf16>, tensor<64x64x1x1xbf16>) -> tensor<4x64x8x8xbf16>

    becomes

        %v = graph.slice %w starts [0, 0, 0, 0] sizes [64, 32, 1, 1] ...
        %0 = graph.conv %a, %v ... : (tensor<4x32x8x8xbf16>, tensor<64x32x1x1xbf16>) -> tensor<4x64x8x8xbf16>
        %u = graph.slice %w starts [0, 32, 0, 0] sizes [64, 32, 1, 1] ...
        %2 = graph.conv %b, %u ... : (tensor<4x32x8x8xbf16>, tensor<64x32x1x1xbf16>) -> tensor<4x64x8x8xbf16>
        %1 = graph.binary add %0, %2 {graph.part_sum}
    """

    name = "graph-part-sums"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite in every core function."""
        for function in core_functions(op):
            take_apart(function.body.block)


def take_apart(block: Block) -> None:
    """Replace the convolutions of concatenations of one block by sums, where that is worth it."""
    for op in list(block.ops):
        if isinstance(op, ConcatOp) and _is_worth_it(op):
            _take_apart(block, op)


def _is_worth_it(joined: ConcatOp) -> bool:
    """Whether images of equal maps of few channels are put together for plain 1x1 convolutions alone."""
    shapes = {shape_of(x) for x in joined.xs}
    shape = shape_of(joined.xs[0])
    if joined.axis.value.data != 1 or len(shape) != 4 or len(shapes) > 1 or len(joined.xs) > MOST_PARTS:
        return False
    few = shape[0] % IMAGES == 0 and IMAGES * shape[1] <= LANES and LANES % shape[1] == 0
    users = [use.operation for use in joined.result.uses]
    return few and len(users) > 0 and all(isinstance(user, ConvOp) and _is_plain(user, joined) for user in users)


def _is_plain(op: ConvOp, joined: ConcatOp) -> bool:
    """Whether a convolution has one tap that meets every pixel, one group, and constant filters."""
    return _is_constant(op.w) and op.x is joined.result and op.is_pointwise and op.groups.value.data == 1


def _is_constant(value: SSAValue) -> bool:
    """Whether filters are a weight, maybe cast."""
    owner = value.owner
    return isinstance(owner, WeightOp) or (isinstance(owner, CastOp) and _is_constant(owner.x))


def _take_apart(block: Block, joined: ConcatOp) -> None:
    """Replace the convolutions of a concatenation by sums, and the concatenation by nothing."""
    for user in [use.operation for use in joined.result.uses]:
        assert isinstance(user, ConvOp)
        _replace(block, user, [*joined.xs])
    block.erase_op(joined)


def _replace(block: Block, op: ConvOp, parts: list[SSAValue]) -> None:
    outputs, total, first = shape_of(op.w)[0], None, 0

    def add(new: Operation) -> SSAValue:
        new.location = op.location
        block.insert_op_before(new, op)
        return new.results[0]

    for part in parts:
        channels = shape_of(part)[1]
        weight = add(SliceOp(op.w, (0, first, 0, 0), (outputs, channels, 1, 1), (1, 1, 1, 1)))
        attributes = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "groups": 1}
        product = add(ConvOp(part, weight, **attributes))  # pyright: ignore[reportArgumentType]
        if total is not None:
            addition = BinaryOp(BinaryKind.ADD, total, product)
            addition.attributes[PART_SUM] = UnitAttr()
            product = add(addition)
        total, first = product, first + channels
    assert total is not None
    if op.bias is not None:
        column = add(ReshapeOp(op.bias, shape=(outputs, 1, 1)))
        total = add(BinaryOp(BinaryKind.ADD, total, column))
    total.name_hint = op.result.name_hint
    op.result.replace_all_uses_with(total)
    block.erase_op(op)


def convolutions_of(addition: Operation) -> list[Operation] | None:
    """The convolutions and additions of a sum that ends with `addition`, in program order; None for anything else."""
    if not isinstance(addition, BinaryOp) or PART_SUM not in addition.attributes:
        return None
    first, last = addition.a.owner, addition.b.owner
    assert isinstance(last, Operation)
    if isinstance(first, ConvOp):
        return [first, last, addition]
    before = convolutions_of(first) if isinstance(first, Operation) else None
    return [*before, last, addition] if before is not None else None

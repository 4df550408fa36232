"""`graph-split-hidden`: two layers whose hidden features do not fit on chip take them in parts.

Given core functions on matrices of rows, after `graph-flatten-rows`. What a feed-forward block makes between its
products is several times as wide as what goes in and comes out. Where it does not fit, it would be written to DRAM and
read again by every block of the second product's columns. The pass finds a product of what pointwise operators make of
products of one matrix, and computes a part of the hidden features at a time; the second product of each part adds to
the sum so far, residual first. Every weight is still read once. `hidden_parts` is the choice as plain arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ClipOp,
    ConstantOp,
    MatMulOp,
    SliceOp,
    UnaryOp,
    WeightOp,
    shape_of,
    spec_of,
    tensor_type,
)
from neuron_dialects.neuron import core_functions, target_of
from passes.graph.conv_groups import LANES
from passes.graph.layout import BUDGET_SHARE
from passes.graph.residence import resident_bytes

MAX_PARTS = 16
"""Most parts: each is a copy of the code, and rounds the sum once more."""

POINTWISE = (UnaryOp, BinaryOp, ClipOp, CastOp)

ROWS, FEATURES = 0, 1
"""Dimensions of the matrices."""


def hidden_parts(features: int, hidden_bytes: int, others_bytes: int, capacity_bytes: int) -> int:
    """In how many equal parts of whole tiles to take hidden `features`.

    All sizes are bytes of a partition: of all hidden matrices that are live at once, of what is live beside them, and
    what may be live. 1 where everything fits, or where no number of parts up to `MAX_PARTS` is enough.
    """
    for parts in range(1, MAX_PARTS + 1):
        if features % (parts * LANES) == 0 and others_bytes + hidden_bytes // parts <= capacity_bytes:
            return parts
    return 1


@dataclass(frozen=True)
class GraphSplitHiddenPass(ModulePass):
    """Split the hidden features between two products.

        %0 = graph.matmul %x, %w : (tensor<1024x256xbf16>, tensor<256x512xbf16>) -> tensor<1024x512xbf16>
        %1 = graph.unary relu %0 : ...
        %2 = graph.matmul %1, %v : (tensor<1024x512xbf16>, tensor<512x256xbf16>) -> tensor<1024x256xbf16>

    becomes, where half of the features fit on chip,

        %0 = graph.matmul %x, (%w [:, :256]) -> tensor<1024x256xbf16>
        %1 = graph.unary relu %0
        %2 = graph.matmul %1, (%v [:256]) -> tensor<1024x256xbf16>
        %3 = graph.matmul %x, (%w [:, 256:]) -> tensor<1024x256xbf16>
        %4 = graph.unary relu %3
        %5 = graph.matmul %4, (%v [256:]) -> tensor<1024x256xbf16>
        %6 = graph.binary add %2, %5
    """

    name = "graph-split-hidden"

    budget_share: float | int = BUDGET_SHARE

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Split in every core function."""
        capacity = int(int(target_of(op).sbuf_bytes_per_partition) * self.budget_share)
        for function in core_functions(op):
            split_block(function.body.block, capacity)


def split_block(block: Block, capacity_bytes: int) -> None:
    """Split the hidden features of one block; `capacity_bytes` of a partition may be live."""
    for product in [child for child in block.ops if isinstance(child, MatMulOp)]:
        layers = _hidden_layers(product) if product.parent is block else None
        if layers is not None and (parts := layers.parts(capacity_bytes)) > 1:
            _Splitter(block, layers, parts).run()


@dataclass(frozen=True)
class _HiddenLayers:
    """`second` multiplies what the pointwise `ops`, in program order, make of the products `firsts` of `x`."""

    x: SSAValue
    firsts: Sequence[MatMulOp]
    ops: Sequence[Operation]
    second: MatMulOp

    def parts(self, capacity_bytes: int) -> int:
        """In how many parts the hidden features fit on chip, beside x and a residual.

        A kernel makes one product and what follows, so that of several products all but the last lie on chip as well.
        """

        def on_chip(value: SSAValue, partition: int) -> int:
            dtype, shape = spec_of(value)
            return resident_bytes(shape, partition, (), dtype.size_bytes)

        hidden = on_chip(self.second.a, FEATURES) * len(self.firsts)
        others = on_chip(self.x, FEATURES) + on_chip(self.second.result, ROWS)
        return hidden_parts(shape_of(self.second.a)[FEATURES], hidden, others, capacity_bytes)


def _hidden_layers(second: MatMulOp) -> _HiddenLayers | None:
    """The layers in front of `second`, whose results nothing else reads; None where they are others."""
    if not _multiplies_weight(second):
        return None
    shape, block = shape_of(second.a), second.parent_block()
    firsts: dict[MatMulOp, None] = {}
    ops: dict[Operation, None] = {}
    pending = [second.a]
    while pending:
        owner = pending.pop().owner
        if isinstance(owner, ConstantOp | WeightOp) or owner in firsts or owner in ops:
            continue
        if not isinstance(owner, (MatMulOp, *POINTWISE)) or shape_of(owner.results[0]) != shape:
            return None
        if owner.parent_block() is not block:
            return None
        if isinstance(owner, MatMulOp):
            firsts[owner] = None
            continue
        ops[owner] = None
        if not all(_is_sliced(value, shape) for value in owner.operands):
            return None
        pending += [value for value in owner.operands if shape_of(value) == shape]
    inner = {second, *ops}
    sources = {first.a for first in firsts}
    if len(sources) != 1 or not all(_multiplies_weight(first) for first in firsts):
        return None
    if any(use.operation not in inner for op in (*firsts, *ops) for use in op.results[0].uses):
        return None
    assert block is not None
    order = [op for op in block.ops if op in ops]
    return _HiddenLayers(sources.pop(), list(firsts), order, second)


def _multiplies_weight(product: MatMulOp) -> bool:
    """Whether a product is one of a matrix of rows with a matrix of weights."""
    plain = len(shape_of(product.a)) == len(shape_of(product.b)) == 2 and not product.transpose_a
    return plain and isinstance(product.b.owner, WeightOp) and product.a is not product.b


def _is_sliced(value: SSAValue, shape: tuple[int, ...]) -> bool:
    """Whether an operand of work on [rows, features] is such a matrix, a weight per feature, or one number."""
    have = shape_of(value)
    return have == shape or have in ((), (1,), (1, 1)) or (isinstance(value.owner, WeightOp) and have == shape[1:])


class _Splitter:
    """Replaces two layers by copies for a part of the hidden features each."""

    def __init__(self, block: Block, layers: _HiddenLayers, parts: int) -> None:
        self.block, self.layers = block, layers
        self.size = shape_of(layers.second.a)[FEATURES] // parts
        self.parts = parts

    def run(self) -> None:
        """The first part takes the layers' place; the others follow the sums that its result goes into."""
        layers, place = self.layers, _last_sum(self.layers.second)
        total = place.results[0]
        readers = {use.operation for use in total.uses}
        sum_ = total
        for part in range(1, self.parts):
            made = self._part(part)
            addition = BinaryOp(BinaryKind.ADD, sum_, made[-1].results[0])
            addition.location = layers.second.location
            self.block.insert_ops_after([*made, addition], place)
            place, sum_ = addition, addition.result
        sum_.name_hint = total.name_hint
        total.replace_uses_with_if(sum_, lambda use: use.operation in readers)
        made = self._part(0)
        self.block.insert_ops_before(made, layers.second)
        first = made[-1].results[0]
        first.name_hint = layers.second.result.name_hint
        layers.second.result.replace_all_uses_with(first)
        for op in (layers.second, *reversed(layers.ops), *layers.firsts):
            self.block.erase_op(op)

    def _part(self, part: int) -> list[Operation]:
        """Copies of the layers for part number `part`, the second product last."""
        made: list[Operation] = []
        values: dict[SSAValue, SSAValue] = {}

        def add(op: Operation, like: Operation) -> SSAValue:
            op.location = like.location
            made.append(op)
            return op.results[0]

        def cut(value: SSAValue, axis: int, user: Operation) -> SSAValue:
            shape = list(shape_of(value))
            starts = [part * self.size if d == axis else 0 for d in range(len(shape))]
            shape[axis] = self.size
            return add(SliceOp(value, starts, shape, [1] * len(shape)), user)

        for first in self.layers.firsts:
            weights = cut(first.b, ROWS if first.transpose_b else FEATURES, first)
            values[first.result] = add(_product(first, first.a, weights), first)
        whole = shape_of(self.layers.second.a)
        for op in self.layers.ops:
            for value in op.operands:
                if value not in values and shape_of(value) == whole[1:] and isinstance(value.owner, WeightOp):
                    values[value] = cut(value, 0, op)
            dtype, (rows, _) = spec_of(op.results[0])
            copy = type(op).create(
                operands=[values.get(value, value) for value in op.operands],
                properties=dict(op.properties),
                attributes=dict(op.attributes),
                result_types=[tensor_type(dtype, (rows, self.size))],
            )
            values[op.results[0]] = add(copy, op)
        second = self.layers.second
        weights = cut(second.b, FEATURES if second.transpose_b else ROWS, second)
        add(_product(second, values[second.a], weights), second)
        return made


def _product(like: MatMulOp, x: SSAValue, weights: SSAValue) -> MatMulOp:
    """The product of `x` and `weights`, of the kind of another."""
    wide = spec_of(like.result)[0] is not spec_of(like.a)[0]
    return MatMulOp(x, weights, transpose_b=bool(like.transpose_b), accumulate_f32=wide)


def _last_sum(product: MatMulOp) -> Operation:
    """The last of the additions, of a bias or a residual, that a product's result goes through alone."""
    op: Operation = product
    while op.results[0].has_one_use():
        (use,) = op.results[0].uses
        user = use.operation
        added = isinstance(user, BinaryOp) and user.kind.data is BinaryKind.ADD
        if (
            not added
            or spec_of(user.results[0]) != spec_of(product.result)
            or user.parent_block() is not op.parent_block()
        ):
            break
        op = user
    return op

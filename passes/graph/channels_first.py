"""`graph-channels-first`: layers over the last dimension of turned images become layers over their channels.

Some networks turn images [N, C, H, W] to [N, H, W, C], normalise and multiply the channels there, and turn the result
back for the next convolution. Given graph-level functions, leaves such runs between two transpositions on the images
as they were: a product with weights is a convolution of one tap, and a normalisation takes mean and variance from two
products with ones, for a core sums over the dimension that lies on partitions with the tensor engine. Unless
`graph-auto-cast` casts everything, what is summed is not rounded: it stays f32, or, for a target that does not multiply
f32, is summed as two parts of 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, UnitAttr, i64
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.transforms.dead_code_elimination import dce

from neuron_dialects.dtypes import BF16, F32
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ClipOp,
    ConstantOp,
    ConvOp,
    LayerNormOp,
    MatMulOp,
    ReshapeOp,
    TransposeOp,
    UnaryKind,
    UnaryOp,
    ints,
    shape_of,
    spec_of,
    tensor_type,
)
from neuron_dialects.graph.work import KEEPS_TYPE, MODEL_MACS
from neuron_dialects.neuron import target_of
from passes.graph.weight_values import is_known

ALL = "all"
"""The cast mode in which what is summed is rounded like everything else."""

ELEMENTWISE = (UnaryOp, BinaryOp, ClipOp, CastOp)
"""Operators that do not care where the channels are."""


class Sums(Enum):
    """How what a normalisation sums up is multiplied with ones.

    CAST: in the type that everything is cast to. KEPT: in f32. SPLIT: as the sum of what bf16 holds of it and of what
    bf16 holds of the rest, 16 bits together.
    """

    CAST = auto()
    KEPT = auto()
    SPLIT = auto()


@dataclass(frozen=True)
class GraphChannelsFirstPass(ModulePass):
    """Write layers between two transpositions of images on channels in dimension 1.

        %0 = graph.transpose %x permutation [0, 2, 3, 1] : (tensor<2x8x5x5xf32>) -> tensor<2x5x5x8xf32>
        %1 = graph.matmul %0, %w : (tensor<2x5x5x8xf32>, tensor<8x4xf32>) -> tensor<2x5x5x4xf32>
        %2 = graph.unary relu %1 : (tensor<2x5x5x4xf32>) -> tensor<2x5x5x4xf32>
        %3 = graph.transpose %2 permutation [0, 3, 1, 2] : (tensor<2x5x5x4xf32>) -> tensor<2x4x5x5xf32>

    becomes, with the weight turned and reshaped to [4, 8, 1, 1],

        %1 = graph.conv %x, %v ... : (tensor<2x8x5x5xf32>, tensor<4x8x1x1xf32>) -> tensor<2x4x5x5xf32>
        %3 = graph.unary relu %1 : (tensor<2x4x5x5xf32>) -> tensor<2x4x5x5xf32>

    and y = layer_norm(x) over the channels becomes, with sums over channels that are convolutions with ones,

        d = x - sum(x) / C
        y = d * rsqrt(sum(d * d) / C + epsilon)

    Only with mode=all are these convolutions cast.
    """

    name = "graph-channels-first"

    mode: str = ALL

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite every function."""
        sums = Sums.CAST
        if self.mode != ALL:
            sums = Sums.KEPT if F32.name in target_of(op).matmul_dtypes else Sums.SPLIT
        blocks = [block for f in op.ops if isinstance(f, FuncOp) for block in f.body.blocks]
        turned = [(block, run) for block in blocks for run in turned_runs(block)]
        for block, run in turned:
            _Turner(block, sums).run(run)
        if turned:
            dce(op)


def channels_last(rank: int) -> tuple[int, ...]:
    """The permutation that moves dimension 1 to the end."""
    return (0, *range(2, rank), 1)


def channels_first(rank: int) -> tuple[int, ...]:
    """Its inverse."""
    return (0, rank - 1, *range(1, rank - 1))


def _moves(op: Operation, to: Sequence[int]) -> bool:
    return isinstance(op, TransposeOp) and len(to) > 2 and tuple(ints(op.permutation)) == tuple(to)


def turned_runs(block: Block) -> list[list[Operation]]:
    """Runs of operators that only read what was turned to channels last, and are only read by themselves and by what
    turns them back; those with a product or a normalisation among them. Each in program order, with its transpositions.
    """
    runs = _Runs()
    for op in block.ops:
        rank = len(ints(op.permutation)) if isinstance(op, TransposeOp) else 0
        turned = [value for value in op.operands if value in runs.of]
        if _moves(op, channels_last(rank)):
            runs.spoil(turned)
            runs.join(op, [])
        elif turned and (_moves(op, channels_first(rank)) or _follows(op, turned)):
            runs.join(op, turned)
            if isinstance(op, TransposeOp):
                del runs.of[op.result]
        else:
            runs.spoil(turned)
    return [run for run in runs.found() if any(isinstance(op, MatMulOp | LayerNormOp) for op in run)]


@dataclass
class _Runs:
    """Sets of operators that are joined while a block is read, the smaller into the larger."""

    of: dict[SSAValue, int] = field(default_factory=dict[SSAValue, int])
    members: dict[int, list[Operation]] = field(default_factory=dict[int, list[Operation]])
    into: dict[int, int] = field(default_factory=dict[int, int])
    spoiled: set[int] = field(default_factory=set[int])
    order: dict[Operation, int] = field(default_factory=dict[Operation, int])

    def root(self, number: int) -> int:
        """The set that a set has become part of."""
        while (parent := self.into[number]) != number:
            self.into[number] = self.into[parent]
            number = parent
        return number

    def join(self, op: Operation, operands: Sequence[SSAValue]) -> None:
        """`op` joins the sets of its operands, which become one, or a new set."""
        self.order[op] = number = len(self.order)
        self.into[number], self.members[number] = number, [op]
        for other in {self.root(self.of[value]) for value in operands}:
            small, large = sorted((number, other), key=lambda n: len(self.members[n]))
            self.members[large] += self.members.pop(small)
            self.into[small] = number = large
            if small in self.spoiled:
                self.spoiled.add(large)
        self.of[op.results[0]] = number

    def spoil(self, values: Sequence[SSAValue]) -> None:
        """Something else reads `values`: they stay as they are."""
        self.spoiled.update(self.root(self.of[value]) for value in values)

    def found(self) -> list[list[Operation]]:
        """The sets that nothing else reads."""
        spoiled = {self.root(number) for number in self.spoiled}
        return [sorted(ops, key=self.order.__getitem__) for n, ops in self.members.items() if n not in spoiled]


def _follows(op: Operation, turned: Sequence[SSAValue]) -> bool:
    """Whether `op` can compute the same with channels in dimension 1."""
    if any(spec_of(value)[0] is not F32 for value in (*turned, *op.results)):
        return False
    if isinstance(op, LayerNormOp):
        parameters = [value for value in (op.scale, op.bias) if value is not None]
        rank = len(shape_of(op.x))
        return len(turned) == 1 and op.axis.value.data == rank - 1 and all(map(is_known, parameters))
    if isinstance(op, MatMulOp):
        return turned == [op.a] and len(shape_of(op.b)) == 2 and not op.transpose_a and is_known(op.b)
    if not isinstance(op, ELEMENTWISE):
        return False
    shape = shape_of(op.results[0])
    return all(
        shape_of(value) == shape if value in turned else is_known(value) and _per_channel(value, shape)
        for value in op.operands
    )


def _per_channel(value: SSAValue, shape: Sequence[int]) -> bool:
    """Whether a value is one number, or one for each position of the last dimension of `shape`."""
    *outer, last = shape_of(value) or (1,)
    return all(size == 1 for size in outer) and last in (1, shape[-1])


class _Turner:
    """Writes one run on channels in dimension 1; `first` maps its values to their new form."""

    def __init__(self, block: Block, sums: Sums) -> None:
        self.block, self.sums = block, sums
        self.first: dict[SSAValue, SSAValue] = {}
        self.made: set[Operation] = set()
        self.place: Operation | None = None

    def run(self, ops: Sequence[Operation]) -> None:
        """Rewrite the run; its operators are left to be removed as dead."""
        for op in ops:
            self.place = op
            match op:
                case TransposeOp():
                    if op.x in self.first:
                        op.result.replace_all_uses_with(self.first[op.x])
                    else:
                        self.first[op.result] = op.x
                case LayerNormOp():
                    self.first[op.result] = self._layer_norm(op)
                case MatMulOp():
                    self.first[op.result] = self._product(op)
                case _:
                    self.first[op.results[0]] = self._affine(op) or self._elementwise(op)

    def _add(self, op: Operation) -> SSAValue:
        assert self.place is not None
        op.location = self.place.location
        self.block.insert_op_before(op, self.place)
        self.made.add(op)
        return op.results[0]

    def _conv(self, x: SSAValue, w: SSAValue, bias: SSAValue | None = None) -> SSAValue:
        n = len(shape_of(x)) - 2
        return self._add(ConvOp(x, w, bias, strides=(1,) * n, pads=(0,) * 2 * n, dilations=(1,) * n))

    def _product(self, op: MatMulOp) -> SSAValue:
        x = self.first[op.a]
        rows = op.b if op.transpose_b else self._add(TransposeOp(op.b, (1, 0)))
        return self._conv(x, self._add(ReshapeOp(rows, (*shape_of(rows), *(1,) * (len(shape_of(x)) - 2)))))

    def _layer_norm(self, op: LayerNormOp) -> SSAValue:
        x = self.first[op.x]
        _, channels, *spatial = shape_of(x)
        dtype = BF16 if self.sums is Sums.SPLIT else F32
        ones = self._add(ConstantOp(1.0, dtype, (channels, channels, *(1 for _ in spatial))))
        share = self._number(1 / channels)
        centred = x
        if not op.uncentred:
            mean = self._binary(BinaryKind.MUL, self._sum(x, ones), share)
            centred = self._binary(BinaryKind.SUB, x, mean)
        squares = self._sum(self._add(UnaryOp(UnaryKind.SQUARE, centred)), ones)
        variance = self._binary(BinaryKind.MUL, squares, share)
        variance = self._binary(BinaryKind.ADD, variance, self._number(op.epsilon.value.data))
        result = self._binary(BinaryKind.MUL, centred, self._add(UnaryOp(UnaryKind.RSQRT, variance)))
        if op.scale is not None:
            result = self._binary(BinaryKind.MUL, result, self._column(op.scale, len(spatial)))
        if op.bias is not None:
            result = self._binary(BinaryKind.ADD, result, self._column(op.bias, len(spatial)))
        return result

    def _sum(self, x: SSAValue, ones: SSAValue) -> SSAValue:
        """The sum over the channels, on all channels: no product of the model."""
        if self.sums is Sums.SPLIT:
            high = self._add(CastOp(x, BF16))
            rest = self._binary(BinaryKind.SUB, x, self._add(CastOp(high, F32)))
            parts = [self._ones(part, ones) for part in (high, self._add(CastOp(rest, BF16)))]
            return self._binary(BinaryKind.ADD, *parts)
        return self._ones(x, ones)

    def _ones(self, x: SSAValue, ones: SSAValue) -> SSAValue:
        """A convolution with ones."""
        n = len(shape_of(x)) - 2
        conv = ConvOp(x, ones, strides=(1,) * n, pads=(0,) * 2 * n, dilations=(1,) * n, accumulate_f32=True)
        conv.attributes[MODEL_MACS] = IntegerAttr(0, i64)
        if self.sums is Sums.KEPT:
            conv.attributes[KEEPS_TYPE] = UnitAttr()
        return self._add(conv)

    def _number(self, value: float) -> SSAValue:
        return self._add(ConstantOp(value, F32, ()))

    def _binary(self, kind: BinaryKind, a: SSAValue, b: SSAValue) -> SSAValue:
        return self._add(BinaryOp(kind, a, b))

    def _column(self, value: SSAValue, spatial: int) -> SSAValue:
        """A number, or one for each channel, as [C, 1, ...]."""
        count = (shape_of(value) or (1,))[-1]
        return self._add(ReshapeOp(value, (count, *(1,) * spatial)))

    def _affine(self, op: Operation) -> SSAValue | None:
        """What is added to or multiplied with each channel of a convolution, as part of its bias and weights."""
        if not isinstance(op, BinaryOp) or op.kind.data not in (BinaryKind.ADD, BinaryKind.MUL):
            return None
        for old, given in ((op.a, op.b), (op.b, op.a)):
            if old not in self.first or given in self.first or not old.has_one_use():
                continue
            conv, count = self.first[old].owner, shape_of(given)[-1:]
            if not isinstance(conv, ConvOp) or conv not in self.made or count != shape_of(conv.result)[1:2]:
                continue
            vector = self._add(ReshapeOp(given, count))
            if op.kind.data is BinaryKind.ADD:
                bias = vector if conv.bias is None else self._binary(BinaryKind.ADD, conv.bias, vector)
                return self._conv(conv.x, conv.w, bias)
            bias = None if conv.bias is None else self._binary(BinaryKind.MUL, conv.bias, vector)
            column = self._add(ReshapeOp(given, (*count, *(1,) * (len(shape_of(conv.w)) - 1))))
            return self._conv(conv.x, self._binary(BinaryKind.MUL, conv.w, column), bias)
        return None

    def _elementwise(self, op: Operation) -> SSAValue:
        shape = shape_of(op.results[0])
        batch, *spatial, channels = shape
        operands = [
            self.first[x] if x in self.first else self._column(x, len(spatial)) if shape_of(x) else x
            for x in op.operands
        ]
        made = type(op).create(
            operands=operands,
            properties=dict(op.properties),
            attributes=dict(op.attributes),
            result_types=[tensor_type(F32, (batch, channels, *spatial))],
        )
        made.results[0].name_hint = op.results[0].name_hint
        return self._add(made)

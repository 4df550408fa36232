"""`graph-fold-batch-norm`: batch normalisation as part of the layer before it, or as a multiplication and an addition.

Given graph-level functions, leaves them without `graph.batch_norm`. What this computes of weights stands in the program
as operators on weights; `graph-fold-weights` makes recipes of them, which are evaluated when the weights are laid out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter

from neuron_dialects.dtypes import F32, DType
from neuron_dialects.graph import (
    BatchNormOp,
    BinaryKind,
    BinaryOp,
    CastOp,
    ConstantOp,
    ConvOp,
    ConvTransposeOp,
    MatMulOp,
    ReshapeOp,
    UnaryKind,
    UnaryOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.shapes import element_count
from passes.graph.weight_values import is_known
from passes.rewriting import apply_rewrites, rewrites


@dataclass(frozen=True)
class GraphFoldBatchNormPass(ModulePass):
    """Fold batch normalisation into the weights of the conv, conv_transpose or matmul before it.

        %y = graph.conv %x, %w ...
        %z = graph.batch_norm %y, %scale, %bias, %mean, %variance epsilon 1.0e-05 ...

    becomes, with factor = scale / sqrt(variance + epsilon) computed of weights,

        %z = graph.conv %x, (%w * factor), (%bias - %mean * factor) ...

    where the layer's result has no other use. Otherwise it becomes x * factor + (bias - mean * factor), with factor and
    shift in the shape [C, 1, ...] that broadcasts over x. Parameters of narrow floats are computed in f32.
    """

    name = "graph-fold-batch-norm"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Fold or split every batch normalisation."""
        apply_rewrites(op, [fold_into_layer, scale_and_shift])


@dataclass
class _Arithmetic:
    """Operators made so far; values are computed in f32, or in f64 where they have that type."""

    made: list[Operation] = field(default_factory=list[Operation])

    def emit(self, op: Operation) -> SSAValue:
        self.made.append(op)
        return op.results[0]

    def wide(self, value: SSAValue) -> SSAValue:
        dtype = spec_of(value)[0]
        return self.emit(CastOp(value, F32)) if dtype.size_bytes < F32.size_bytes else value

    def cast(self, value: SSAValue, dtype: DType) -> SSAValue:
        return value if spec_of(value)[0] is dtype else self.emit(CastOp(value, dtype))

    def binary(self, kind: BinaryKind, a: SSAValue, b: SSAValue) -> SSAValue:
        return self.emit(BinaryOp(kind, a, b))

    def reshape(self, value: SSAValue, *shape: int) -> SSAValue:
        return value if shape_of(value) == shape else self.emit(ReshapeOp(value, shape))

    def factor_and_shift(self, op: BatchNormOp) -> tuple[SSAValue, SSAValue]:
        """The normalisation is x * factor + shift; both [C]."""
        scale, bias, mean, variance = (self.wide(value) for value in op.operands[1:])
        epsilon = self.emit(ConstantOp(op.epsilon.value.data, spec_of(variance)[0], ()))
        deviation = self.emit(UnaryOp(UnaryKind.SQRT, self.binary(BinaryKind.ADD, variance, epsilon)))
        factor = self.binary(BinaryKind.DIV, scale, deviation)
        return factor, self.binary(BinaryKind.SUB, bias, self.binary(BinaryKind.MUL, mean, factor))


@rewrites(BatchNormOp)
def fold_into_layer(op: BatchNormOp, rewriter: PatternRewriter) -> None:
    """batch_norm(layer(x, w) + b) -> layer(x, w * factor) + (b * factor + shift)"""
    if not all(is_known(value) for value in op.operands[1:]):
        return
    if (found := _layer_before(op)) is None:
        return
    layer, bias = found
    if not is_known(layer.operands[1]) or (bias is not None and not is_known(bias)):
        return
    arithmetic = _Arithmetic()
    factor, shift = arithmetic.factor_and_shift(op)
    if bias is not None:
        flat = arithmetic.reshape(arithmetic.wide(bias), *shape_of(shift))
        shift = arithmetic.binary(BinaryKind.ADD, arithmetic.binary(BinaryKind.MUL, flat, factor), shift)
    weight = _scaled_weight(arithmetic, layer, factor)
    shift = arithmetic.cast(shift, spec_of(op.result)[0])
    operands = [layer.operands[0], weight, *([] if isinstance(layer, MatMulOp) else [shift])]
    made = type(layer).create(
        operands=operands,
        properties=dict(layer.properties),
        attributes=dict(layer.attributes),
        result_types=[layer.result.type],
        location=layer.location,
    )
    result = arithmetic.emit(made)
    if isinstance(layer, MatMulOp):
        arithmetic.binary(BinaryKind.ADD, result, shift)
    rewriter.replace(op, arithmetic.made)


def _layer_before(op: BatchNormOp) -> tuple[ConvOp | ConvTransposeOp | MatMulOp, SSAValue | None] | None:
    """The layer whose result nothing else uses, and what is added to each of its channels on the way."""
    if not op.x.has_one_use():
        return None
    match op.x.owner:
        case ConvOp() | ConvTransposeOp() as layer:
            return layer, layer.bias
        case MatMulOp() as layer if _has_channels(op.x):
            return layer, None
        case BinaryOp(a=a, b=b) as add if add.kind.data is BinaryKind.ADD and _has_channels(op.x):
            for product, bias in ((a, b), (b, a)):
                layer, channels = product.owner, shape_of(op.x)[1]
                per_channel = element_count(shape_of(bias)) == channels and shape_of(bias)[-1:] == (channels,)
                if isinstance(layer, MatMulOp) and product.has_one_use() and product.type == op.x.type and per_channel:
                    return layer, bias
        case _:
            pass
    return None


def _has_channels(product: SSAValue) -> bool:
    """Whether the columns of a product of matrices are its channels, dimension 1."""
    return len(shape_of(product)) == 2


def _scaled_weight(arithmetic: _Arithmetic, layer: ConvOp | ConvTransposeOp | MatMulOp, factor: SSAValue) -> SSAValue:
    """The layer's weight with every output channel multiplied by its factor, in the weight's own type and shape."""
    given = layer.operands[1]
    dtype, shape = spec_of(given)
    weight = arithmetic.wide(given)
    channels = shape_of(factor)[0]
    match layer:
        case ConvOp():
            scaled = arithmetic.reshape(factor, channels, *(1,) * (len(shape) - 1))
        case ConvTransposeOp():
            # Each group has input channels [C/groups] and output channels [M/groups] of its own.
            groups = layer.groups.value.data
            weight = arithmetic.reshape(weight, groups, shape[0] // groups, *shape[1:])
            scaled = arithmetic.reshape(factor, groups, 1, shape[1], *(1,) * (len(shape) - 2))
        case MatMulOp():
            scaled = arithmetic.reshape(factor, channels, 1) if layer.transpose_b else factor
    product = arithmetic.binary(BinaryKind.MUL, weight, scaled)
    return arithmetic.cast(arithmetic.reshape(product, *shape), dtype)


@rewrites(BatchNormOp)
def scale_and_shift(op: BatchNormOp, rewriter: PatternRewriter) -> None:
    """batch_norm(x) -> x * factor + shift"""
    arithmetic = _Arithmetic()
    dtype, shape = spec_of(op.result)
    per_channel = (shape[1], *(1,) * (len(shape) - 2))
    factor, shift = (
        arithmetic.reshape(arithmetic.cast(value, dtype), *per_channel) for value in arithmetic.factor_and_shift(op)
    )
    arithmetic.binary(BinaryKind.ADD, arithmetic.binary(BinaryKind.MUL, op.x, factor), shift)
    rewriter.replace(op, arithmetic.made)

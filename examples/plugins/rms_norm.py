"""A new graph operator with its lowering: root mean square normalisation, which recent language models use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import FloatAttr, ModuleOp, TensorType
from xdsl.ir import Dialect, Operation, SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, prop_def, result_def, traits_def
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter
from xdsl.traits import Pure

from lowering.graph_to_tile.emitter import Emitter
from lowering.graph_to_tile.iteration import Piece
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.row_space import dram_rows, each_row
from lowering.graph_to_tile.tensors import DramTensor
from lowering.graph_to_tile.view import View
from lowering.onnx_to_graph.node import Node
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ComputeOp,
    ReduceKind,
    ReduceOp,
    TensorSpec,
    UnaryKind,
    Value,
    f32_attr,
    ints,
    shape_of,
    spec_of,
    tensor_type,
)
from neuron_dialects.graph.assembly import DIRECTIVES
from neuron_dialects.graph.base import GRAPH_OPTIONS, require_dtype, require_same_dtype
from neuron_dialects.graph.shapes import ShapeError, text
from neuron_dialects.target import Target
from neuron_toolkit import GraphOperator, Plugin
from passes.graph.known_numbers import binary_of, factors_of, is_number, number_of, unary_of
from passes.rewriting import apply_rewrites, rewrites
from runtime.graph_interpreter.numerics import Array, rounded, widened

# -- the operator ------------------------------------------------------------------------------------------------------


@irdl_op_definition
class RmsNormOp(ComputeOp):
    """`example.rms_norm %x, %scale epsilon 1.0e-05`: x / sqrt(mean(x * x) + epsilon) * scale along the last dimension.

    x, result: float, rank >= 1. scale: x's element type, of shape [x.shape[-1]].
    """

    name = "example.rms_norm"
    x = operand_def(TensorType)
    scale = operand_def(TensorType)
    epsilon = prop_def(FloatAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = "$x `,` $scale custom<Number>($epsilon) attr-dict `:` functional-type(operands, results)"

    def __init__(self, x: Value, scale: Value, *, epsilon: float) -> None:
        super().__init__(
            operands=[x, scale],
            properties={"epsilon": f32_attr(epsilon)},
            result_types=[tensor_type(*self.infer(spec_of(x), spec_of(scale)))],
        )

    @staticmethod
    def infer(x: TensorSpec, scale: TensorSpec) -> TensorSpec:
        """Result of normalising x."""
        require_dtype(x[0].is_float, "rms_norm", x[0])
        require_same_dtype(x[0], scale[0])
        if not x[1] or scale[1] != x[1][-1:]:
            raise ShapeError(f"scale is {text(scale[1])}, x {text(x[1])}")
        return x

    def inferred(self) -> TensorSpec:
        return self.infer(spec_of(self.x), spec_of(self.scale))


Example = Dialect("example", [RmsNormOp])

# -- what it means -----------------------------------------------------------------------------------------------------


def meaning(op: RmsNormOp, x: Array, scale: Array) -> Array:
    """The result on arrays: computed in f32, rounded to the operator's type."""
    wide = widened(x)
    root = np.sqrt(np.mean(wide * wide, axis=-1, keepdims=True) + op.epsilon.value.data)
    return rounded(wide / root * widened(scale), spec_of(op.result)[0])


def host_model(writer: Any, op: RmsNormOp, names: Sequence[str]) -> str:
    """The operator in ONNX operators, where it runs on the host."""
    x, scale = names
    squares = writer.node("Mul", x, x)
    mean = writer.node("ReduceMean", squares, writer.constant(np.array([-1], np.int64)), keepdims=1)
    shifted = writer.node("Add", mean, writer.constant(np.array(op.epsilon.value.data, np.float32)))
    return writer.node("Mul", writer.node("Div", x, writer.node("Sqrt", shifted)), scale)


# -- where it comes from -----------------------------------------------------------------------------------------------


@rewrites(BinaryOp)
def rms_norm_formula(op: BinaryOp, rewriter: PatternRewriter) -> None:
    """x / sqrt(mean(x * x) + epsilon) * scale -> rms_norm(x, scale)"""
    number, factors = factors_of(op.result)
    if op.kind.data is not BinaryKind.MUL or number != 1.0 or len(factors) != 3:
        return
    for inverse in factors:
        radicand = inverse_root(inverse)
        rest = [factor for factor in factors if factor is not inverse]
        if radicand is None or len(rest) != 2:
            continue
        for x, scale in (rest, rest[::-1]):
            epsilon = mean_square_plus(radicand, x)
            if epsilon is not None and x.type == op.result.type and shape_of(scale) == shape_of(x)[-1:]:
                rewriter.replace(op, RmsNormOp(x, scale, epsilon=epsilon))
                return


def inverse_root(value: SSAValue) -> SSAValue | None:
    """v where `value` is rsqrt(v) or 1 / sqrt(v)."""
    if (inverse := unary_of(value, UnaryKind.RSQRT)) is not None:
        return inverse.x
    reciprocal, quotient = unary_of(value, UnaryKind.RECIPROCAL), binary_of(value, BinaryKind.DIV)
    if reciprocal is not None:
        root = unary_of(reciprocal.x, UnaryKind.SQRT)
    elif quotient is not None and is_number(quotient.a, 1.0):
        root = unary_of(quotient.b, UnaryKind.SQRT)
    else:
        root = None
    return None if root is None else root.x


def mean_square_plus(value: SSAValue, x: SSAValue) -> float | None:
    """epsilon where `value` is mean(x * x) + epsilon over the last dimension."""
    total = binary_of(value, BinaryKind.ADD)
    if total is None:
        return None
    for mean, epsilon in ((total.a.owner, number_of(total.b)), (total.b.owner, number_of(total.a))):
        if epsilon is None or not isinstance(mean, ReduceOp) or mean.kind.data is not ReduceKind.MEAN:
            continue
        last = len(shape_of(x)) - 1
        if ints(mean.axes) == (last,) and mean.keep_dims and is_square(mean.x, x):
            return epsilon
    return None


def is_square(value: SSAValue, x: SSAValue) -> bool:
    """Whether `value` is x * x, however it is written."""
    if (square := unary_of(value, UnaryKind.SQUARE)) is not None:
        return square.x is x
    if (power := binary_of(value, BinaryKind.POW)) is not None:
        return power.a is x and is_number(power.b, 2.0)
    product = binary_of(value, BinaryKind.MUL)
    return product is not None and product.a is x and product.b is x


def convert(node: Node) -> Sequence[SSAValue]:
    """The ONNX operator RmsNorm(x, scale) of the domain com.example, whose attribute epsilon is 1e-5 by default."""
    return [node.emit(RmsNormOp(node.operand(0), node.operand(1), epsilon=node.float_attr("epsilon", 1e-5)))]


@dataclass(frozen=True)
class RaiseRmsNormPass(ModulePass):
    """Recognise root mean square normalisation: x / sqrt(mean(x * x) + epsilon) * scale.

        %0 = graph.unary square %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
        %1 = graph.reduce mean %0 axes [1] keep_dims : (tensor<4x8xf32>) -> tensor<4x1xf32>
        %2 = graph.binary add %1, %epsilon : (tensor<4x1xf32>, tensor<f32>) -> tensor<4x1xf32>
        %3 = graph.unary rsqrt %2 : (tensor<4x1xf32>) -> tensor<4x1xf32>
        %4 = graph.binary mul %x, %3 : (tensor<4x8xf32>, tensor<4x1xf32>) -> tensor<4x8xf32>
        %5 = graph.binary mul %4, %scale : (tensor<4x8xf32>, tensor<8xf32>) -> tensor<4x8xf32>

    becomes

        %5 = example.rms_norm %x, %scale epsilon 1.0e-05 : (tensor<4x8xf32>, tensor<8xf32>) -> tensor<4x8xf32>
    """

    name = "raise-rms-norm"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite everywhere; what nobody uses any more goes."""
        apply_rewrites(op, [rms_norm_formula])


# -- how a core computes it --------------------------------------------------------------------------------------------

MeanSquare = Callable[[Emitter, View, View, float], None]
"""Emits dst = mean(x * x) + epsilon, for a column dst [lanes, 1] and rows x [lanes, n]."""


def mean_square(e: Emitter, dst: View, x: View, epsilon: float) -> None:
    """The scalar engine squares and sums in one instruction; the vector engine scales the sum."""
    e.b.activation(e.temp(x), x, "square", row_sum=dst)
    e.scalar(dst, dst, "multiply", 1.0 / x.free_elements, "add", epsilon)


def lower_rms_norm(k: Kernel, op: RmsNormOp, mean_square: MeanSquare = mean_square) -> None:
    """Lower `example.rms_norm`: rows on the partitions, whole rows in SBUF."""
    shape = shape_of(op.x)
    # This kernel reads and writes DRAM, whatever graph-layout would keep on chip.
    k.residents.pop(op.result, None)
    x, scale, out = k.dram(op.x), k.dram(op.scale), k.output(op.result)
    assert isinstance(out, DramTensor)
    along_rows = (*(0 for _ in shape[:-1]), *scale.strides)
    tensors = [(x, x.strides), (scale, along_rows), (out, out.strides)]
    rows = dram_rows(k, shape, [len(shape) - 1], tensors)
    chunks = rows.chunks(k.row_budget_elements)
    assert chunks is not None, "support() has refused longer rows"
    e, b = Emitter(k.b, k.target), k.b
    from_x, from_scale, to_out = rows.accesses

    def body(piece: Piece, views: dict[str, View]) -> None:
        view, commit = to_out.store(b, rows.space, piece, b.rotation)
        each_row(b, len(rows.kept), [rows.arranged(view), views["x"], views["scale"]], normalize)
        commit()

    def normalize(views: Sequence[View]) -> None:
        dst, x, scale = views
        root = b.alloc((x.partitions, 1), "f32", "sbuf", b.rotation).view()
        mean_square(e, root, x, op.epsilon.value.data)
        e.function(root, root, "rsqrt")
        e.scalar_tensor(dst, x, "multiply", root, "multiply", scale)

    rows.each_piece(b, chunks, {"x": from_x, "scale": from_scale}, body)


def support(op: Operation, target: Target) -> str | None:
    """Why a core cannot run it: a row must fit a twelfth of a partition of SBUF, as f32."""
    length, limit = shape_of(op.operands[0])[-1], int(target.sbuf_bytes_per_partition) // 12 // 4
    return f"rows of {length} elements, limit {limit}" if length > limit else None


PLUGIN = Plugin(
    dialects=[Example],
    operators=[GraphOperator(RmsNormOp, meaning, lower_rms_norm, host_model, support)],
    passes=[RaiseRmsNormPass],
    pipeline=[("raise-rms-norm", "graph-canonicalize")],
    converters={("com.example", "RmsNorm"): convert},
)

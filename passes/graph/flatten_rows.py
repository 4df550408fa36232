"""`graph-flatten-rows`: layers over the last dimension see one matrix of rows.

A projection of [batch, positions, features] treats every position alike. Given graph-level functions, leaves such
products, what is looked up in tables, and the elementwise operators and layer normalisations between them, on
[batch * positions, features]: rows
then fill tiles of 128 whatever the batch and the length are. What cares about positions, as attention does, is reached
through reshapes, which cost nothing while the features stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.transforms.dead_code_elimination import dce

from neuron_dialects.graph import (
    BinaryOp,
    BroadcastOp,
    CastOp,
    ClipOp,
    ConstantOp,
    GatherOp,
    LayerNormOp,
    MatMulOp,
    ReshapeOp,
    UnaryOp,
    WeightOp,
    shape_of,
    spec_of,
    tensor_type,
)
from neuron_dialects.neuron import core_functions

ELEMENTWISE = (UnaryOp, BinaryOp, ClipOp, CastOp)
"""Operators that follow the rows of their operands."""

MOST_REPEATED_BYTES = 8 * 1024 * 1024
"""Bytes that a weight of the rows of one sample, as of its positions, may take when it is repeated for all samples."""


@dataclass(frozen=True)
class GraphFlattenRowsPass(ModulePass):
    """Write layers over the last dimension on matrices of rows.

        %0 = graph.matmul %x, %w : (tensor<2x5x8xf32>, tensor<8x4xf32>) -> tensor<2x5x4xf32>
        %1 = graph.unary relu %0 : (tensor<2x5x4xf32>) -> tensor<2x5x4xf32>

    becomes

        %2 = graph.reshape %x : (tensor<2x5x8xf32>) -> tensor<10x8xf32>
        %0 = graph.matmul %2, %w : (tensor<10x8xf32>, tensor<8x4xf32>) -> tensor<10x4xf32>
        %1 = graph.unary relu %0 : (tensor<10x4xf32>) -> tensor<10x4xf32>
        %3 = graph.reshape %1 : (tensor<10x4xf32>) -> tensor<2x5x4xf32>
    """

    name = "graph-flatten-rows"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Flatten in every core function."""
        for function in core_functions(op):
            _Flattener(function.body.block).run()
        dce(op)


@dataclass
class _Flattener:
    """One walk over a block in program order; `flat` maps values to their form as a matrix of rows."""

    block: Block
    flat: dict[SSAValue, SSAValue] = field(default_factory=dict)

    def run(self) -> None:
        """Rewrite the block."""
        for op in list(self.block.ops):
            if isinstance(op, MatMulOp):
                self._matmul(op)
            elif isinstance(op, LayerNormOp):
                self._layer_norm(op)
            elif isinstance(op, GatherOp):
                self._gather(op)
            elif isinstance(op, ReshapeOp):
                self._reshape(op)
            elif isinstance(op, ELEMENTWISE):
                self._elementwise(op)

    def _rows(self, value: SSAValue, user: Operation) -> SSAValue:
        """`value` [..., n] as [rows, n]."""
        if value not in self.flat:
            shape, source = shape_of(value), value
            while isinstance(owner := source.owner, ReshapeOp):
                source = owner.x
            reshape = ReshapeOp(source, (prod(shape[:-1]), shape[-1]))
            self._insert(reshape, user)
            self.flat[value] = reshape.result
        return self.flat[value]

    def _insert(self, new: Operation, before: Operation) -> None:
        new.location = before.location
        self.block.insert_op_before(new, before)

    def _replace(self, old: Operation, new: Operation) -> None:
        """Put `new`, on rows, in the place of `old`; its readers see the old shape, until they are rewritten too."""
        self._insert(new, old)
        result = new.results[0]
        result.name_hint = old.results[0].name_hint
        reshape = ReshapeOp(result, shape_of(old.results[0]))
        self._insert(reshape, old)
        self.flat[reshape.result] = result
        old.results[0].replace_all_uses_with(reshape.result)
        self.block.erase_op(old)

    def _matmul(self, op: MatMulOp) -> None:
        if len(shape_of(op.a)) < 3 or len(shape_of(op.b)) != 2 or op.transpose_a:
            return
        rows = self._rows(op.a, op)
        wide = spec_of(op.result)[0] is not spec_of(op.a)[0]
        self._replace(op, MatMulOp(rows, op.b, transpose_b=bool(op.transpose_b), accumulate_f32=wide))

    def _layer_norm(self, op: LayerNormOp) -> None:
        rank = len(shape_of(op.x))
        if rank < 3 or op.axis.value.data != rank - 1 or (rank > 3 and op.x not in self.flat):
            return
        rows = self._rows(op.x, op)
        epsilon, uncentred = op.epsilon.value.data, bool(op.uncentred)
        self._replace(op, LayerNormOp(rows, op.scale, op.bias, axis=1, epsilon=epsilon, uncentred=uncentred))

    def _gather(self, op: GatherOp) -> None:
        """Rows of a table, one for each index."""
        indices = shape_of(op.indices)
        if (
            op.axis.value.data != 0
            or len(shape_of(op.data)) != 2
            or len(indices) < 2
            or isinstance(op.indices.owner, ConstantOp)
        ):
            return
        listed = ReshapeOp(op.indices, (prod(indices),))
        self._insert(listed, op)
        self._replace(op, GatherOp(op.data, listed.result, 0))

    def _reshape(self, op: ReshapeOp) -> None:
        """A model's own change between rows and [..., positions, features]; back on rows, it is their matrix."""
        before, after = shape_of(op.x), shape_of(op.result)
        if before[-1:] != after[-1:]:
            return
        if len(before) == 2 and len(after) > 2:
            self.flat[op.result] = op.x
        elif len(after) == 2 and op.x in self.flat:
            op.result.replace_all_uses_with(self.flat[op.x])
            self.block.erase_op(op)
        elif len(after) > 2 and op.x in self.flat:
            again = ReshapeOp(self.flat[op.x], after)
            self._insert(again, op)
            again.result.name_hint = op.result.name_hint
            self.flat[again.result] = self.flat[op.x]
            op.result.replace_all_uses_with(again.result)
            self.block.erase_op(op)

    def _elementwise(self, op: Operation) -> None:
        dtype, shape = spec_of(op.results[0])
        if len(shape) < 3 or not any(value in self.flat and shape_of(value) == shape for value in op.operands):
            return
        if not all(self._follows_rows(value, shape) for value in op.operands):
            return
        operands = [self._operand(value, shape, op) for value in op.operands]
        made = type(op).create(
            operands=operands,
            properties=dict(op.properties),
            attributes=dict(op.attributes),
            result_types=[tensor_type(dtype, (prod(shape[:-1]), shape[-1]))],
        )
        self._replace(op, made)

    @staticmethod
    def _follows_rows(value: SSAValue, shape: tuple[int, ...]) -> bool:
        """Whether an operand of a result of `shape` has one row for each of its rows, or one for all."""
        have = shape_of(value)
        if prod(have) == 1:
            return True
        return have[:-1] == shape[:-1] or (prod(have[:-1]) == 1 and have[-1] == shape[-1]) or _repeats(value, shape)

    def _operand(self, value: SSAValue, shape: tuple[int, ...], user: Operation) -> SSAValue:
        have = shape_of(value)
        if have[:-1] == shape[:-1]:
            return self._rows(value, user)
        if _repeats(value, shape):
            repeated = BroadcastOp(value, shape)
            self._insert(repeated, user)
            return self._rows(repeated.result, user)
        if len(have) <= 2:
            return value
        owner = value.owner
        if isinstance(owner, ConstantOp) and owner.is_splat:
            constant = ConstantOp(owner.array().flat[0], spec_of(value)[0], have[-1:])
            self._insert(constant, user)
            return constant.result
        reshape = ReshapeOp(value, have[-1:])
        self._insert(reshape, user)
        return reshape.result


def _repeats(value: SSAValue, shape: tuple[int, ...]) -> bool:
    """Whether `value` is a weight of one sample's rows, few enough to be repeated for each sample of `shape`."""
    dtype, have = spec_of(value)
    few = prod(shape) * dtype.size_bytes <= MOST_REPEATED_BYTES
    return isinstance(value.owner, WeightOp) and few and have[-2:] == shape[-2:] and prod(have) == prod(shape[-2:])

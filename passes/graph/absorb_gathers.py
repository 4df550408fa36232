"""`graph-absorb-gathers`: products of gathered columns multiply all columns, by weights that are zero for the others.

Given graph-level functions, leaves products with weights that read what a gather with known indices picked from, in
place of the gather's result; it may be one of several parts that a concatenation joins. Picking columns one by one
takes the DMA a descriptor an element, and the tensor engine hardly notices some more rows of weights. The new weights
are recipes: the old ones times a matrix that has a one where an index names a column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.dtypes import I64, DType
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    CompareKind,
    CompareOp,
    ConcatOp,
    ConstantOp,
    GatherOp,
    MatMulOp,
    ReshapeOp,
    SelectOp,
    SliceOp,
    WeightOp,
    YieldOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.shapes import element_count
from neuron_dialects.graph.work import MODEL_ELEMENTS, MODEL_MACS, model_elements, model_macs
from passes.graph.fold_weights import Recipes
from passes.graph.weight_values import is_known

MOST_COLUMNS = 4
"""All columns are multiplied where there are at most so many times as many as were picked."""

PICKED_WEIGHTS = 64
"""Weights that are loaded while one element is picked: a descriptor takes 7 ns, in which one of the engines moves 119
bytes."""

COUNTED = 128
"""Numbers that one constant counts."""


@dataclass(frozen=True)
class GraphAbsorbGathersPass(ModulePass):
    """Multiply what gathers picked from.

        %i = graph.weight @i : tensor<3xi64>
        %w = graph.weight @w : tensor<3x8xf32>
        %0 = graph.gather %x, %i axis 1 : (tensor<4x5xf32>, tensor<3xi64>) -> tensor<4x3xf32>
        %1 = graph.matmul %0, %w : (tensor<4x3xf32>, tensor<3x8xf32>) -> tensor<4x8xf32>

    becomes

        %0 = graph.weight @w$matmul : tensor<5x8xf32>
        %1 = graph.matmul %x, %0 : (tensor<4x5xf32>, tensor<5x8xf32>) -> tensor<4x8xf32>

    Columns that no index names must be finite: they are multiplied by zero.
    """

    name = "graph-absorb-gathers"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite every function of the module."""
        recipes = Recipes(op)
        for function in [child for child in op.ops if isinstance(child, FuncOp)]:
            for block in function.body.blocks:
                for product in [inner for inner in block.ops if isinstance(inner, MatMulOp)]:
                    _absorb(block, product, recipes)


def _absorb(block: Block, product: MatMulOp, recipes: Recipes) -> None:
    """Take the gathers out of what a product with weights reads."""
    cast = product.a.owner if isinstance(product.a.owner, CastOp) and product.a.has_one_use() else None
    whole = cast.x if cast is not None else product.a
    joined = whole.owner
    if product.transpose_a or len(shape_of(product.b)) != 2 or not isinstance(product.b.owner, WeightOp):
        return
    last = len(shape_of(product.a)) - 1
    apart = isinstance(joined, ConcatOp) and joined.axis.value.data == last and joined.result.has_one_use()
    parts = list(joined.xs) if isinstance(joined, ConcatOp) and apart else [whole]
    gathers = [_absorbable(part, last) for part in parts]
    if not _pays(product, [gather for gather in gathers if gather is not None]):
        return
    weight = WeightOp(*_outlined(product, parts, gathers, recipes))
    sources = [gather.data if gather else part for part, gather in zip(parts, gathers, strict=True)]
    new: list[Operation] = [weight]
    if len(sources) > 1:
        new.append(ConcatOp(sources, last))
    wide = spec_of(product.result)[0] is not spec_of(product.a)[0]
    a = new[-1].results[0] if len(sources) > 1 else sources[0]
    if cast is not None:
        new.append(CastOp(a, spec_of(cast.result)[0]))
        a = new[-1].results[0]
    new.append(MatMulOp(a, weight.result, transpose_b=bool(product.transpose_b), accumulate_f32=wide))
    # What the model asks for stays the measure of the program.
    weight.attributes[MODEL_ELEMENTS] = IntegerAttr(model_elements(product.b), i64)
    new[-1].attributes[MODEL_MACS] = IntegerAttr(model_macs(product), i64)
    for op in new:
        op.location = product.location
        block.insert_op_before(op, product)
    new[-1].results[0].name_hint = product.result.name_hint
    product.result.replace_all_uses_with(new[-1].results[0])
    block.erase_op(product)
    for op in dict.fromkeys((cast, joined, *gathers)):
        if isinstance(op, CastOp | ConcatOp | GatherOp) and op.result.first_use is None:
            block.erase_op(op)


def _pays(product: MatMulOp, gathers: Sequence[GatherOp]) -> bool:
    """Whether there are gathers, and picking takes longer than loading the weights of what was not picked."""
    picked = sum(element_count(shape_of(gather.result)) for gather in gathers)
    others = sum(shape_of(gather.data)[-1] - shape_of(gather.result)[-1] for gather in gathers)
    return picked > 0 and PICKED_WEIGHTS * picked >= others * shape_of(product.result)[-1]


def _absorbable(value: SSAValue, axis: int) -> GatherOp | None:
    """The gather of columns with known indices that `value` is, where all columns are not many more."""
    gather = value.owner
    if not isinstance(gather, GatherOp) or gather.axis.value.data != axis or not value.has_one_use():
        return None
    indices, columns = shape_of(gather.indices), shape_of(gather.data)[axis]
    known = len(indices) == 1 and isinstance(gather.indices.owner, WeightOp | ConstantOp)
    few = known and is_known(gather.indices) and columns <= MOST_COLUMNS * indices[0]
    return gather if few and spec_of(gather.data)[0].is_float and columns <= COUNTED * COUNTED else None


def _outlined(
    product: MatMulOp, parts: Sequence[SSAValue], gathers: Sequence[GatherOp | None], recipes: Recipes
) -> tuple[str, Attribute]:
    """Name and type of the weights that multiply all columns of each part."""
    body = Block()

    def add(op: Operation) -> SSAValue:
        op.location = product.location
        body.add_op(op)
        return op.results[0]

    turned = bool(product.transpose_b)
    assert isinstance(product.b.owner, WeightOp)
    weight, depth = add(product.b.owner.clone()), int(turned)
    columns: list[SSAValue] = []
    first = 0
    for part, gather in zip(parts, gathers, strict=True):
        starts, sizes = [0, 0], list(shape_of(weight))
        starts[depth], sizes[depth] = first, shape_of(part)[-1]
        first += sizes[depth]
        rows = weight if sizes == list(shape_of(weight)) else add(SliceOp(weight, starts, sizes, (1, 1)))
        if gather is not None:
            named = _named(add, gather, spec_of(weight)[0])
            rows = add(MatMulOp(rows, named) if turned else MatMulOp(named, rows, transpose_a=True))
        columns.append(rows)
    result = columns[0] if len(columns) == 1 else add(ConcatOp(columns, depth))
    root = result.owner
    assert isinstance(root, Operation)
    type_ = result.type
    add_yield = YieldOp(result)
    add_yield.location = product.location
    body.add_op(add_yield)
    return recipes.add(body, root), type_


def _named(add: Callable[[Operation], SSAValue], gather: GatherOp, dtype: DType) -> SSAValue:
    """[indices, columns] of type `dtype`, one where the index names the column and zero elsewhere."""
    count, columns = shape_of(gather.indices)[0], shape_of(gather.data)[-1]
    assert isinstance(gather.indices.owner, WeightOp | ConstantOp)
    index = add(ReshapeOp(add(CastOp(add(gather.indices.owner.clone()), I64)), (count, 1)))
    negative = add(CompareOp(CompareKind.LT, index, add(ConstantOp(0, I64, (1, 1)))))
    index = add(SelectOp(negative, add(BinaryOp(BinaryKind.ADD, index, add(ConstantOp(columns, I64, (1, 1))))), index))
    blocks = ceil(columns / COUNTED)
    high = add(ConstantOp(np.arange(blocks, dtype=np.int64)[:, None] * COUNTED, I64))
    low = add(ConstantOp(np.arange(COUNTED, dtype=np.int64)[None], I64))
    numbers = add(ReshapeOp(add(BinaryOp(BinaryKind.ADD, high, low)), (1, blocks * COUNTED)))
    numbers = add(SliceOp(numbers, (0, 0), (1, columns), (1, 1)))
    return add(CastOp(add(CompareOp(CompareKind.EQ, index, numbers)), dtype))

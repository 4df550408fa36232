"""`graph-sample-features`: entries of samples' little products, which a layer multiplies, fill lanes.

Given core functions after `graph-absorb-gathers`. Recommenders multiply the features of a sample with each other, a
little matrix by a little matrix, and give all entries of the result to a layer, beside other features. A matrix of 27 x
27 lies on 27 lanes; as features, which the tensor engine contracts, its entries would lie on others, where only the DMA
gets them. Filled up with zeros to rows of 32, four rows fill the lanes, and engines write a row there on their way from
PSUM. The pass fills the product up, puts it in front of the layer's other features, and gives the layer weights in that
order, which are zero for what was filled up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.graph import ConcatOp, MatMulOp, PadOp, ReshapeOp, SliceOp, WeightOp, YieldOp, shape_of, spec_of
from neuron_dialects.graph.work import MODEL_ELEMENTS, MODEL_MACS, model_elements, model_macs
from neuron_dialects.neuron import core_functions
from passes.graph.fold_weights import Recipes
from passes.graph.sample_products import FEATURES, is_sample_products, whole_sides


@dataclass(frozen=True)
class GraphSampleFeaturesPass(ModulePass):
    """Fill up products of samples.

        %0 = graph.matmul %x, %x transpose_b : (tensor<256x27x64xbf16>, ...) -> tensor<256x27x27xbf16>
        %1 = graph.reshape %0 : (tensor<256x27x27xbf16>) -> tensor<256x729xbf16>
        %2 = graph.concat %y, %1 axis 1 : (tensor<256x64xbf16>, tensor<256x729xbf16>) -> tensor<256x793xbf16>
        %3 = graph.matmul %2, %w : (tensor<256x793xbf16>, tensor<793x512xbf16>) -> tensor<256x512xbf16>

    becomes

        %0 = graph.matmul %x, %x transpose_b : (tensor<256x27x64xbf16>, ...) -> tensor<256x27x27xbf16>
        %1 = graph.pad constant %0 low [0, 0, 0] high [0, 1, 5] value 0.0 : ... -> tensor<256x28x32xbf16>
        %2 = graph.reshape %1 : (tensor<256x28x32xbf16>) -> tensor<256x896xbf16>
        %3 = graph.concat %2, %y axis 1 : ... -> tensor<256x960xbf16>
        %4 = graph.matmul %3, (rows of %w in that order) : ... -> tensor<256x512xbf16>
    """

    name = "graph-sample-features"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Fill up in every core function."""
        recipes: Recipes | None = None
        for function in core_functions(op):
            for layer in [child for child in function.body.block.ops if isinstance(child, MatMulOp)]:
                found = _entries_of(layer)
                if found is not None:
                    recipes = recipes or Recipes(op)
                    _fill_up(layer, *found, recipes)


def _entries_of(layer: MatMulOp) -> tuple[list[SSAValue], int] | None:
    """The features that a layer with weights multiplies, part by part, and which part are entries of little products;
    None where no part is.
    """
    if layer.transpose_a or not isinstance(layer.b.owner, WeightOp):
        return None
    if len(shape_of(layer.a)) != 2 or len(shape_of(layer.b)) != 2 or not layer.a.has_one_use():
        return None
    joined = layer.a.owner
    parts = [layer.a]
    if isinstance(joined, ConcatOp) and joined.axis.value.data == FEATURES:
        parts = list(joined.xs)
    block = layer.parent_block()
    for number, part in enumerate(parts):
        flat = part.owner
        if not isinstance(flat, ReshapeOp) or flat.parent_block() is not block or not part.has_one_use():
            continue
        product = flat.x.owner
        if not isinstance(product, MatMulOp) or not is_sample_products(product) or not flat.x.has_one_use():
            continue
        samples, rows, columns = shape_of(flat.x)
        done = (rows, columns) == whole_sides(rows, columns) and number == 0 and len(parts) <= 2
        if shape_of(part) == (samples, rows * columns) and not done:
            return parts, number
    return None


def _fill_up(layer: MatMulOp, parts: Sequence[SSAValue], number: int, recipes: Recipes) -> None:
    """Write the features and the weights of a layer anew; part `number` are entries of little products."""
    block, flat = layer.parent_block(), parts[number].owner
    assert block is not None
    assert isinstance(flat, ReshapeOp)
    new: list[Operation] = []

    def add(op: Operation) -> SSAValue:
        op.location = layer.location
        new.append(op)
        return op.results[0]

    samples, rows, columns = shape_of(flat.x)
    whole_rows, whole_columns = whole_sides(rows, columns)
    filled, high = flat.x, (0, whole_rows - rows, whole_columns - columns)
    if any(high):
        filled = add(PadOp(filled, (0, 0, 0), high))
    features = add(ReshapeOp(filled, (samples, whole_rows * whole_columns)))
    others = [part for place, part in enumerate(parts) if place != number]
    if len(others) > 1:
        others = [add(ConcatOp(others, FEATURES))]
    if others:
        features = add(ConcatOp([features, *others], FEATURES))
    weight = WeightOp(*_outlined(layer, parts, number, high, recipes))
    wide = spec_of(layer.result)[0] is not spec_of(layer.a)[0]
    product = MatMulOp(features, add(weight), transpose_b=bool(layer.transpose_b), accumulate_f32=wide)
    result = add(product)
    # What the model asks for stays the measure of the program.
    weight.attributes[MODEL_ELEMENTS] = IntegerAttr(model_elements(layer.b), i64)
    product.attributes[MODEL_MACS] = IntegerAttr(model_macs(layer), i64)
    block.insert_ops_before(new, layer)
    result.name_hint = layer.result.name_hint
    layer.result.replace_all_uses_with(result)
    joined = layer.a.owner
    block.erase_op(layer)
    for op in dict.fromkeys((joined, flat)):
        assert isinstance(op, Operation)
        block.erase_op(op)


def _outlined(
    layer: MatMulOp, parts: Sequence[SSAValue], number: int, high: Sequence[int], recipes: Recipes
) -> tuple[str, Attribute]:
    """Name and type of the weights with those of part `number` first, filled up by `high`."""
    assert isinstance(layer.b.owner, WeightOp)
    body = Block()

    def add(op: Operation) -> SSAValue:
        op.location = layer.location
        body.add_op(op)
        return op.results[0]

    depth = int(bool(layer.transpose_b))
    weight = add(layer.b.owner.clone())
    pieces: list[SSAValue] = []
    first = 0
    for part in parts:
        starts, sizes = [0, 0], list(shape_of(weight))
        starts[depth], sizes[depth] = first, shape_of(part)[FEATURES]
        first += sizes[depth]
        pieces.append(weight if len(parts) == 1 else add(SliceOp(weight, starts, sizes, (1, 1))))
    entries = pieces.pop(number)
    flat = parts[number].owner
    assert isinstance(flat, ReshapeOp)
    _, rows, columns = shape_of(flat.x)
    outputs = shape_of(weight)[1 - depth]
    sides, ends = (rows, columns), high[1:]
    apart = (outputs, *sides) if depth else (*sides, outputs)
    filled = add(PadOp(add(ReshapeOp(entries, apart)), (0, 0, 0), (0, *ends) if depth else (*ends, 0)))
    count = (rows + ends[0]) * (columns + ends[1])
    entries = add(ReshapeOp(filled, (outputs, count) if depth else (count, outputs)))
    result = add(ConcatOp([entries, *pieces], depth)) if pieces else entries
    root, type_ = result.owner, result.type
    assert isinstance(root, Operation)
    add_yield = YieldOp(result)
    add_yield.location = layer.location
    body.add_op(add_yield)
    return recipes.add(body, root), type_

"""Copies of operators whose feature maps lie in blocks of pixels, as `block_plan` has chosen; rewriting only.

Filters between blocks become recipes of the model's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from xdsl.dialects.builtin import IntegerAttr, TensorType, i64
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.rewriter import Rewriter

from neuron_dialects.dtypes import F32
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ConstantOp,
    ConvOp,
    ConvTransposeOp,
    ReduceOp,
    WeightOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.work import MODEL_ELEMENTS, MODEL_MACS, model_elements, model_macs
from passes.graph.block_plan import ALONE, Convolved
from passes.graph.fold_images import is_constant
from passes.graph.fold_weights import Recipes
from passes.graph.pixel_border import add_border, border_weights
from passes.graph.pixel_grid import (
    SIDE,
    Lines,
    apart_ops,
    filter_ops,
    lines_of,
    repeat_ops,
    shape_in,
    window_of,
    windows_of,
)


class BlockCopies:
    """Puts copies in the place of the operators of `block` that read or make blocks."""

    def __init__(self, block: Block, recipes: Recipes, chosen: Mapping[Operation, Convolved]):
        self.block, self.recipes, self.chosen = block, recipes, chosen
        self.copies: dict[SSAValue, SSAValue] = {}  # feature map -> the same in blocks
        self.replaced: set[Operation] = set()

    def apply(self) -> None:
        """Replace all of them."""
        for op in list(self.block.ops):
            if op in self.chosen or any(value in self.copies for value in op.operands):
                self._copy(op)
        for op in reversed(list(self.block.ops)):
            unused = all(result.first_use is None for result in op.results)
            if unused and (op in self.replaced or (op.results and is_constant(op.results[0]))):
                self.block.erase_op(op)

    def _copy(self, op: Operation) -> None:
        """One operator that reads or makes blocks."""
        self.replaced.add(op)
        if isinstance(op, ConvOp):
            how = self.chosen.get(op)
            if how is None:
                self._from_means(op)
            elif how.final == lines_of(shape_of(op.result), None):
                op.result.replace_all_uses_with(self._to_pixels(op, how))
            else:
                made = self._as_it_is(op) if how.made[0].side == 1 else self._between(op, how.read, how.made)
                self.copies[op.result] = self._cleared(op, made, how) if how.clears else self._moved(op, made, how)
            return
        operands = {value: self._operand(value, op) for value in op.operands}
        copy = op.clone(operands)
        self._insert(copy, op)
        result = op.results[0]
        shape = shape_of(copy.operands[0])
        if isinstance(op, BinaryOp):
            shape = max((shape_of(value) for value in copy.operands), key=lambda shape: (len(shape), prod(shape)))
        if isinstance(op, ReduceOp):
            shape = (*shape[:2], 1, 1)
        Rewriter.replace_value_with_new_type(copy.results[0], TensorType(_element(result), shape))
        copy.results[0].name_hint = result.name_hint
        self.copies[result] = copy.results[0]

    def _operand(self, value: SSAValue, op: Operation) -> SSAValue:
        """What a copy reads instead of a value: its blocks, or what is the same for all pixels for those of a block."""
        if value in self.copies:
            return self.copies[value]
        shape = shape_of(value)
        if prod(shape) == 1 and is_constant(value):
            return value
        if is_constant(value):
            return self._recipe(repeat_ops(value, len(shape) - 3), op)
        self.copies[value] = copy = self._repeated(value)
        return copy

    def _repeated(self, value: SSAValue) -> SSAValue:
        """Numbers of each image and channel, for each pixel of a block."""
        op = value.owner
        assert isinstance(op, Operation)
        self.replaced.add(op)
        if isinstance(op, ConvOp):
            w, bias = (x and self._recipe(repeat_ops(x, 0), op) for x in (op.w, op.bias))
            assert w is not None
            return self._insert(self._convolution(op, op.x, w, bias, (0, 0)), op).results[0]
        assert isinstance(op, ALONE)
        copy = op.clone({op.operands[0]: self._repeated(op.operands[0])})
        shape = shape_of(copy.operands[0])
        Rewriter.replace_value_with_new_type(copy.results[0], TensorType(_element(value), shape))
        return self._insert(copy, op).results[0]

    # -- convolutions --------------------------------------------------------------------------------------------------

    def _as_it_is(self, op: ConvOp) -> SSAValue:
        """The convolution itself, of pixels."""
        return self._insert(op.clone(), op).results[0]

    def _between(self, op: ConvOp, read: Lines, made: Lines) -> SSAValue:
        """A convolution from blocks or pixels to blocks or pixels."""
        windows = windows_of(op, read, made)
        assert windows is not None
        w = self._recipe(filter_ops(op.w, (read[0].side, made[0].side), windows), op)
        bias = op.bias
        if bias is not None and made[0].side > 1:
            bias = self._recipe(repeat_ops(bias, 0), op)
        down, right = windows
        pads = (down.low, right.low, down.high, right.high)
        copy = self._convolution(op, self.copies.get(op.x, op.x), w, bias, pads, (down.stride, right.stride))
        copy.result.name_hint = op.result.name_hint
        assert shape_of(copy.result) == shape_in(shape_of(op.result), made)
        return self._insert(copy, op).results[0]

    def _moved(self, op: ConvOp, made: SSAValue, how: Convolved) -> SSAValue:
        """What a convolution made, in the blocks where it is wanted."""
        if how.made == how.final:
            return made
        dtype, channels = spec_of(made)[0], shape_of(op.result)[1]
        ones = self._insert(ConstantOp(1.0, dtype, (channels, 1, 1, 1)), op).results[0]
        down, right = (window_of(1, 1, 0, read, final) for read, final in zip(how.made, how.final, strict=True))
        assert down is not None and right is not None
        w = self._recipe(filter_ops(ones, (how.made[0].side, SIDE), (down, right)), op)
        copy = ConvOp(made, w, strides=(down.stride, right.stride), pads=(0,) * 4, dilations=(1, 1), groups=channels)
        copy.attributes[MODEL_MACS] = IntegerAttr(0, i64)
        return self._insert(copy, op).results[0]

    def _cleared(self, op: ConvOp, made: SSAValue, how: Convolved) -> SSAValue:
        """What a convolution made, far down beside the map."""
        for ops in border_weights(how.made, shape_of(op.result)[1], spec_of(op.result)[0]):
            made = self._insert(add_border(made, self._recipe(ops, op)), op).results[0]
        return made

    def _to_pixels(self, op: ConvOp, how: Convolved) -> SSAValue:
        """A convolution of blocks whose result is one of pixels."""
        if windows_of(op, how.read, how.final) is not None:
            return self._between(op, how.read, how.final)
        dtype, shape = spec_of(op.result)
        w = self._recipe(apart_ops(op.w), op)
        strides, none = (SIDE, SIDE), (0, 0)
        copy = ConvTransposeOp(
            self.copies[op.x],
            w,
            op.bias,
            strides=strides,
            pads=(*none, *none),
            dilations=(1, 1),
            output_padding=none,
            accumulate_f32=dtype is F32 and spec_of(op.x)[0] is not F32,
        )
        copy.attributes[MODEL_MACS] = IntegerAttr(model_macs(op), i64)
        copy.result.name_hint = op.result.name_hint
        assert shape_of(copy.result) == shape
        return self._insert(copy, op).results[0]

    def _from_means(self, op: ConvOp) -> None:
        """A 1x1 convolution of the means of each pixel of the blocks: its weights add them up."""
        dtype, ops = spec_of(op.w)[0], repeat_ops(op.w, 1)
        # A share that is rounded itself would make all sums too large, or too small.
        exact = CastOp(ops[-1].results[0], F32)
        share = ConstantOp(self._share_of_map(op.x), F32, (1, 1, 1, 1))
        part = BinaryOp(BinaryKind.MUL, exact.result, share.result)
        ops += [exact, share, part, CastOp(part.result, dtype)]
        copy = self._convolution(op, self.copies[op.x], self._recipe(ops, op), op.bias, (0, 0, 0, 0))
        copy.result.name_hint = op.result.name_hint
        op.result.replace_all_uses_with(self._insert(copy, op).results[0])

    def _share_of_map(self, mean: SSAValue) -> float:
        """How much of the mean of a map the mean of a pixel of all blocks is, where what is beside the map is zero."""
        while isinstance(mean.owner, ALONE):
            mean = mean.owner.operands[0]
        assert isinstance(mean.owner, ReduceOp)
        x = mean.owner.x
        return prod(shape_of(self.copies[x])[2:]) / prod(shape_of(x)[2:])

    def _convolution(
        self,
        op: ConvOp,
        x: SSAValue,
        w: SSAValue,
        bias: SSAValue | None,
        pads: Sequence[int],
        strides: Sequence[int] = (1, 1),
    ) -> ConvOp:
        """A convolution in the place of another one, of as many groups and, for who counts them, multiply-adds."""
        accumulate_f32 = spec_of(op.result)[0] is F32 and spec_of(op.x)[0] is not F32
        pads = pads if len(pads) == 4 else (*pads, *pads)
        groups = op.groups.value.data
        copy = ConvOp(
            x, w, bias, strides=strides, pads=pads, dilations=(1, 1), groups=groups, accumulate_f32=accumulate_f32
        )
        copy.attributes.update(op.attributes)
        copy.attributes[MODEL_MACS] = IntegerAttr(model_macs(op), i64)
        return copy

    # -- insertion -----------------------------------------------------------------------------------------------------

    def _insert(self, copy: Operation, op: Operation) -> Operation:
        copy.location = op.location
        self.block.insert_op_before(copy, op)
        return copy

    def _recipe(self, ops: Sequence[Operation], op: Operation) -> SSAValue:
        """The weight that `ops` compute of weights and constants."""
        for each in ops:
            self._insert(each, op)
        root = ops[-1]
        weight = WeightOp(self.recipes.add_of(root), root.results[0].type)
        given = {x for each in ops for x in each.operands if isinstance(x.owner, WeightOp)}
        elements = sum(model_elements(x) for x in given)
        weight.attributes[MODEL_ELEMENTS] = IntegerAttr(elements, i64)
        self._insert(weight, op)
        for each in reversed(ops):
            self.block.erase_op(each)
        return weight.result


def _element(value: SSAValue) -> Attribute:
    type_ = value.type
    assert isinstance(type_, TensorType)
    return type_.element_type

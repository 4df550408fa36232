"""Neighbouring images as more channels of one: convolutions of few channels then fill the tensor engine's array.

Two images of 64 channels are one of 128, and a convolution of either is a convolution of both in two groups with the
same filters twice. What it costs the engine is columns, of which there are half as many. `FoldedImages` gives copies of
layers that keep images apart in this form; a reshape leads there and back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from xdsl.dialects.builtin import IntegerAttr, TensorType
from xdsl.ir import Block, Operation, SSAValue
from xdsl.rewriter import Rewriter

from neuron_dialects.graph import ConcatOp, ConstantOp, ConvOp, FusedOp, ReshapeOp, WeightOp, shape_of


def images_together(layers: Sequence[Operation], inside: set[SSAValue], images: int, columns: int) -> int:
    """How many images to fold where `images` run at once: 2 where some convolution has too few outputs for an array of
    `columns`, all layers work on channels, and what they read beside images is constant; else 1.
    """
    convolutions = [op for layer in layers for op in layer.walk() if isinstance(op, ConvOp)]
    if images % 2 or not any(2 * shape_of(op.result)[1] <= columns for op in convolutions):
        return 1
    values = [v for layer in layers for v in (*layer.results, *(x for x in layer.operands if x in inside))]
    others = [x for layer in layers for x in layer.operands if x not in inside]
    return 2 if all(len(shape_of(v)) > 2 for v in values) and all(_is_constant(x) for x in others) else 1


def _is_constant(value: SSAValue) -> bool:
    owner = value.owner
    if isinstance(owner, ReshapeOp):
        return _is_constant(owner.x)
    return isinstance(owner, WeightOp | ConstantOp)


@dataclass
class FoldedImages:
    """Copies of layers for `images` images, `together` of which are folded into one.

    `inside`: the values of the original layers that have one position for each image. New constants stand at the start
    of `block`, or behind what they are made of.
    """

    block: Block
    inside: set[SSAValue]
    images: int
    together: int
    repeated: dict[tuple[SSAValue, int], SSAValue] = field(default_factory=dict)

    def fold(self, value: SSAValue) -> ReshapeOp:
        """`images` images as fewer with more channels."""
        return ReshapeOp(value, self._shape(shape_of(value)))

    def unfold(self, value: SSAValue) -> ReshapeOp:
        """Inverse of `fold`."""
        _, channels, *rest = shape_of(value)
        return ReshapeOp(value, (self.images, channels // self.together, *rest))

    def _shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of a value that has one position for each image."""
        _, channels, *rest = shape
        return (self.images // self.together, channels * self.together, *rest)

    def clone(self, op: Operation, mapping: dict[SSAValue, SSAValue]) -> Operation:
        """A copy of `op` on the operands that `mapping` names; its results join the mapping."""
        own = {**mapping, **self._constants(op)}
        clone = op.clone(own)
        clone.location = op.location
        if isinstance(op, FusedOp):
            assert isinstance(clone, FusedOp)
            below: set[SSAValue] = set()
            for argument, original, x in zip(clone.body.block.args, op.operands, clone.operands, strict=True):
                if original in self.inside:
                    below.add(self._retyped(argument))
                elif argument.type != x.type:
                    Rewriter.replace_value_with_new_type(argument, x.type)
            for inner, original in zip(clone.body.block.ops, op.body.block.ops, strict=True):
                inner.location = original.location
                if any(operand in below for operand in inner.operands):
                    below.update([self._retyped(result) for result in inner.results])
                    self._group(inner)
        self._group(clone)
        for old, new in zip(op.results, clone.results, strict=True):
            mapping[old] = self._retyped(new)
        return clone

    def _retyped(self, value: SSAValue) -> SSAValue:
        type_ = value.type
        assert isinstance(type_, TensorType)
        shape = self._shape(type_.get_shape()) if self.together > 1 else (self.images, *type_.get_shape()[1:])
        return Rewriter.replace_value_with_new_type(value, TensorType(type_.element_type, shape, type_.encoding))

    def _group(self, op: Operation) -> None:
        if isinstance(op, ConvOp) and self.together > 1:
            old = op.groups
            op.properties["groups"] = IntegerAttr(old.value.data * self.together, old.type)

    def _constants(self, op: Operation) -> dict[SSAValue, SSAValue]:
        """Constants that `op` reads along the channels -> the same for all images that are together."""
        if self.together == 1:
            return {}
        found: dict[SSAValue, SSAValue] = {}
        arguments: Iterable[tuple[SSAValue, SSAValue]] = zip(op.operands, op.operands, strict=True)
        inner = [op]
        if isinstance(op, FusedOp):
            arguments, inner = zip(op.body.block.args, op.operands, strict=True), [*op.body.block.ops]
        for argument, operand in arguments:
            if operand in self.inside:
                continue
            users = [use for use in argument.uses if use.operation in inner]
            axes = [axis for use in users if (axis := _channel_axis(use.operation, use.index)) is not None]
            if axes:
                found[operand] = self._repeat(operand, axes[0])
        return found

    def _repeat(self, value: SSAValue, axis: int) -> SSAValue:
        """`value` as often along `axis` as images are together."""
        if (value, axis) not in self.repeated:
            op = ConcatOp([value] * self.together, axis)
            owner = value.owner
            assert isinstance(owner, Operation)
            op.location = owner.location
            self.block.insert_op_after(op, owner)
            self.repeated[value, axis] = op.result
        return self.repeated[value, axis]


def _channel_axis(op: Operation, index: int) -> int | None:
    """The dimension of an operand that counts channels of the result; None where the operand has no such dimension."""
    shape, result = shape_of(op.operands[index]), shape_of(op.results[0])
    if isinstance(op, ConvOp):
        return 0
    axis = len(shape) - len(result) + 1
    return axis if axis >= 0 and shape[axis] > 1 else None

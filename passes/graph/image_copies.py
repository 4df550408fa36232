"""Copies of layers that keep images apart, for other numbers of images and channels.

Given a layer of N images of C channels, a copy takes a part of the images, or takes neighbouring ones as one of more
channels: a convolution then has as many groups as images are together, with the same filters in each.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from xdsl.dialects.builtin import IntegerAttr, TensorType
from xdsl.ir import Block, Operation, SSAValue
from xdsl.rewriter import Rewriter

from neuron_dialects.graph import ConcatOp, ConvOp, FusedOp, SliceOp, ints, shape_of
from neuron_dialects.graph.attrs import ints_attr
from neuron_dialects.graph.work import MODEL_MACS


@dataclass
class ImageCopies:
    """Copies of layers for a `parts`-th of the images, with `together` times as many channels.

    New constants stand behind what they are made of, in `block`.
    """

    block: Block
    parts: int
    together: int = 1
    repeated: dict[tuple[SSAValue, int], SSAValue] = field(default_factory=dict)

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The copy's shape of a value that has one position for each image."""
        images, *rest = shape
        if self.together > 1:
            rest[0] *= self.together
        return (images // self.parts, *rest)

    def clone(self, op: Operation, mapping: dict[SSAValue, SSAValue]) -> Operation:
        """A copy of `op`, whose operands that have one position for each image are as `mapping` says; its results join
        the mapping.
        """
        clone = op.clone({**mapping, **self._constants(op, mapping)})
        clone.location = op.location
        if isinstance(op, FusedOp):
            assert isinstance(clone, FusedOp)
            below: set[SSAValue] = set()
            for argument, original, x in zip(clone.body.block.args, op.operands, clone.operands, strict=True):
                if original in mapping:
                    below.add(self._retyped(argument))
                elif argument.type != x.type:
                    Rewriter.replace_value_with_new_type(argument, x.type)
            for inner, original in zip(clone.body.block.ops, op.body.block.ops, strict=True):
                inner.location = original.location
                if any(operand in below for operand in inner.operands):
                    below.update([self._retyped(result) for result in inner.results])
                    self._resize(inner)
        self._resize(clone)
        for old, new in zip(op.results, clone.results, strict=True):
            mapping[old] = self._retyped(new)
        return clone

    def _retyped(self, value: SSAValue) -> SSAValue:
        type_ = value.type
        assert isinstance(type_, TensorType)
        own = TensorType(type_.element_type, self.shape(type_.get_shape()), type_.encoding)
        return Rewriter.replace_value_with_new_type(value, own)

    def _resize(self, op: Operation) -> None:
        """Adapt what a copy says of its images and channels in numbers."""
        if isinstance(op, ConvOp):
            old = op.groups
            op.properties["groups"] = IntegerAttr(old.value.data * self.together, old.type)
        if isinstance(op, SliceOp):
            sizes = ints(op.sizes)
            op.properties["sizes"] = ints_attr((sizes[0] // self.parts, *sizes[1:]))
        if isinstance(known := op.attributes.get(MODEL_MACS), IntegerAttr):
            op.attributes[MODEL_MACS] = IntegerAttr(known.value.data * self.together // self.parts, known.type)

    def _constants(self, op: Operation, mapping: dict[SSAValue, SSAValue]) -> dict[SSAValue, SSAValue]:
        """Constants that `op` reads along the channels -> the same for all images that are together."""
        if self.together == 1:
            return {}
        found: dict[SSAValue, SSAValue] = {}
        for argument, operand, inner in _read_by(op):
            if operand in mapping:
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


def _read_by(op: Operation) -> Iterator[tuple[SSAValue, SSAValue, list[Operation]]]:
    """(value as the computing ops know it, operand, these ops) for each operand."""
    arguments: Iterable[tuple[SSAValue, SSAValue]] = zip(op.operands, op.operands, strict=True)
    inner = [op]
    if isinstance(op, FusedOp):
        arguments, inner = zip(op.body.block.args, op.operands, strict=True), [*op.body.block.ops]
    for argument, operand in arguments:
        yield argument, operand, inner


def _channel_axis(op: Operation, index: int) -> int | None:
    """The dimension of an operand that counts channels of the result; None where the operand has no such dimension."""
    shape, result = shape_of(op.operands[index]), shape_of(op.results[0])
    if isinstance(op, ConvOp):
        return 0
    axis = len(shape) - len(result) + 1
    return axis if axis >= 0 and shape[axis] > 1 else None

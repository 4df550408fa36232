"""Copies of layers for some of the images and some of the rows of their feature maps.

Given a layer, the rows that a copy is to make, and those that it reads, a copy has the padding that these leave: a band
inside of the image has none above or below.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import IntegerAttr, TensorType
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import Rewriter

from neuron_dialects.graph import ConvOp, FusedOp, PoolOp, ints, shape_of
from neuron_dialects.graph.attrs import ints_attr
from neuron_dialects.graph.work import MODEL_MACS
from passes.graph.row_bands import Rows, RowWindow


@dataclass
class BandCopies:
    """Copies of layers for `images` images and `rows` of each feature map."""

    images: int
    rows: Mapping[SSAValue, Rows]

    def clone(
        self, op: Operation, windows: Sequence[tuple[SSAValue, RowWindow]], mapping: dict[SSAValue, SSAValue]
    ) -> Operation:
        """A copy of `op`, which reads its feature maps through `windows` and finds them in `mapping`, which its results
        join.
        """
        clone = op.clone(mapping)
        clone.location = op.location
        made = self.rows[op.results[0]]
        for old, new in zip(op.results, clone.results, strict=True):
            mapping[old] = self._retyped(new, made)
        padded = [
            window.padding(made, shape_of(value)[2]) for value, window in windows if window.reach > 1 or window.pad
        ]
        low, high = padded[0] if padded else (0, 0)
        if isinstance(op, FusedOp):
            assert isinstance(clone, FusedOp)
            for argument, original in zip(clone.body.block.args, op.operands, strict=True):
                if original in self.rows:
                    self._retyped(argument, self.rows[original])
            for inner, original in zip(clone.body.block.ops, op.body.block.ops, strict=True):
                inner.location = original.location
                for result in inner.results:
                    self._retyped(result, made)
                _pad(inner, low, high)
                self._share_work(inner, original, made)
        _pad(clone, low, high)
        self._share_work(clone, op, made)
        return clone

    def _share_work(self, clone: Operation, op: Operation, made: Rows) -> None:
        """Adapt what a copy says of its multiply-adds, if it says something."""
        if isinstance(known := op.attributes.get(MODEL_MACS), IntegerAttr):
            images, _, rows, _ = shape_of(op.results[0])
            part = known.value.data * self.images * (made.end - made.first) // (images * rows)
            clone.attributes[MODEL_MACS] = IntegerAttr(part, known.type)

    def _retyped(self, value: SSAValue, rows: Rows) -> SSAValue:
        type_ = value.type
        assert isinstance(type_, TensorType)
        _, channels, _, columns = type_.get_shape()
        own = TensorType(type_.element_type, (self.images, channels, rows.end - rows.first, columns), type_.encoding)
        return Rewriter.replace_value_with_new_type(value, own)


def _pad(op: Operation, low: int, high: int) -> None:
    """Write the padding above and below into a convolution or a pool."""
    if isinstance(op, ConvOp | PoolOp):
        _, left, _, right = ints(op.pads)
        op.properties["pads"] = ints_attr((low, left, high, right))

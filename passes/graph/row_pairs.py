"""Arithmetic of feature maps whose rows lie on partitions two by two, (row, channel), and of what reads and makes them.

A convolution of 64 channels fills half of the tensor engine's rows, one with 64 outputs half of its columns. With two
neighbouring rows beside each other on partitions it makes two rows at once, each from `taps` of the `taps + 1` rows
below: a filter of three rows takes two pairs of rows and six products where three columns of taps are, of which three
quarters of the numbers are the filter's. Two images beside each other would take nine, half of whose numbers are zero.
With a stride of two a filter of three rows takes two pairs for each row of the result, six products again.

Pairs begin with the first row of the halo. The kernel of a convolution makes all pairs of its result, those of the halo
too, which are set to zero afterwards: with as many rows of halo above as there are in the result and the padding
together, a pair of the result begins at a pair of the operand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from xdsl.ir import Operation, SSAValue

from neuron_dialects.graph import (
    ConcatOp,
    ConvOp,
    FusedOp,
    LayoutAttr,
    PoolKind,
    PoolOp,
    RelayoutOp,
    ints,
    layout_of,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.layout import ROWS_OF_PAIR
from passes.graph.residence import Halo, Interval, resident_bytes

ROWS = 2
"""The dimension of a feature map [images, channels, rows, columns] that is paired."""

ROW_HALO = 1
"""The place of the rows in a halo, which names all dimensions but the channels."""


@dataclass(frozen=True)
class RowHalo:
    """`rows` of a feature map between `low` and `high` rows of zeros."""

    rows: int
    low: int = 0
    high: int = 0

    @property
    def pairs(self) -> int:
        """Pairs of rows; the last one may be half."""
        return ceil((self.low + self.rows + self.high) / ROWS_OF_PAIR)


@dataclass(frozen=True)
class Window:
    """`taps` neighbouring rows of a filter, the first of which reads `pad` rows above. `stride`: rows of the operand
    from one row of the result to the next; `together`: rows of the result that are made of the same rows.
    """

    taps: int
    pad: int
    stride: int = 1
    together: int = ROWS_OF_PAIR

    @property
    def rows_read(self) -> int:
        """Rows that the rows made together are made of."""
        return self.taps + (self.together - 1) * self.stride

    @property
    def rows_on(self) -> int:
        """Rows of the operand from the first one that they are made of to the first one of those that follow."""
        return self.together * self.stride

    @property
    def pairs_read(self) -> int:
        """Pairs of rows that they are made of."""
        return ceil(self.rows_read / ROWS_OF_PAIR)

    @property
    def alone(self) -> Window:
        """The same for each row of the result, where all of them begin at a pair of the operand; else unchanged."""
        return self if self.stride % ROWS_OF_PAIR else replace(self, together=1)

    def first_row(self, made: RowHalo) -> int:
        """How many rows above the operand's first one that of the halo of `made` is made of begins."""
        return made.low * self.stride + self.pad

    def paired_halo(self, made: RowHalo, rows: int) -> RowHalo:
        """What an operand of `rows` in pairs needs around it for all rows of `made`."""
        low = self.first_row(made)
        windows = ceil((made.low + made.rows + made.high) / self.together)
        wanted = max(low + rows, self.rows_on * (windows - 1) + ROWS_OF_PAIR * self.pairs_read)
        return RowHalo(rows, low, wanted + wanted % ROWS_OF_PAIR - low - rows)

    def plain_halo(self, made: RowHalo, rows: int) -> RowHalo:
        """The same for an operand whose rows are not paired."""
        low = self.first_row(made)
        last = self.rows_on * (made.pairs - 1) + self.rows_read
        return RowHalo(rows, low, max(0, last - low - rows))


def window_of(op: ConvOp) -> Window:
    """The rows of a convolution's filter, for pairs of the result."""
    return Window(shape_of(op.w)[2], ints(op.pads)[0], ints(op.strides)[0])


def paired_layout(value: SSAValue) -> LayoutAttr | None:
    """The layout of a value whose rows are paired."""
    layout = layout_of(value)
    return layout if layout is not None and layout.is_paired else None


def paired_layouts(ops: Sequence[Operation]) -> dict[SSAValue, LayoutAttr]:
    """The results of a block's ops whose rows are paired, with their layouts."""
    results = (value for op in ops for value in op.results)
    return {value: layout for value in results if (layout := paired_layout(value)) is not None}


def paired_bytes(value: SSAValue, layout: LayoutAttr) -> int:
    """SBUF bytes per partition of a value with its rows in pairs."""
    dtype, shape = spec_of(value)
    return resident_bytes(shape, 1, layout.halo_pairs, dtype.size_bytes, ROWS_OF_PAIR)


def paired_intervals(ops: Sequence[Operation], layouts: Mapping[SSAValue, LayoutAttr]) -> dict[SSAValue, Interval]:
    """When the values of a block that lie in pairs take memory: while what is made is read on chip, for what is put
    together with others in DRAM is stored at once. What is brought from DRAM keeps its memory for the next of its kind.
    """
    number = {op: i for i, op in enumerate(ops)}
    found: dict[SSAValue, Interval] = {}
    following: dict[tuple[object, LayoutAttr], int] = {}
    for op in reversed(ops):
        for value in op.results:
            if (layout := layouts.get(value)) is None:
                continue
            kernels = [use.operation for use in value.uses if not isinstance(use.operation, ConcatOp)]
            last = max((number[kernel] for kernel in kernels), default=number[op])
            if isinstance(op, RelayoutOp):
                last = max(last, following.get((spec_of(value), layout), 0) - 1)
                following[spec_of(value), layout] = number[op]
            found[value] = Interval(number[op], last, paired_bytes(value, layout))
    return found


def kernel_result(op: Operation) -> SSAValue:
    """The result of the kernel that an operator belongs to."""
    group = op.parent_op()
    return group.results[0] if isinstance(group, FusedOp) else op.results[0]


def row_halo(value: SSAValue) -> RowHalo:
    """The rows of a value, and those of zeros around them; none where they are not in pairs."""
    return halo_of_rows(shape_of(value)[ROWS], paired_layout(value))


def halo_of_rows(rows: int, layout: LayoutAttr | None) -> RowHalo:
    """So many rows with a layout's zeros around them."""
    return RowHalo(rows, *layout.halo_pairs[ROW_HALO]) if layout and layout.halo_pairs else RowHalo(rows)


def halo_for_pairs(op: ConvOp, halo: Halo) -> Halo:
    """The halo of a plain operand of a convolution, given that of its padding: more rows where the result is paired."""
    result = kernel_result(op)
    if paired_layout(result) is None:
        return halo
    needed = window_of(op).plain_halo(row_halo(result), shape_of(op.x)[ROWS])
    return tuple((needed.low, needed.high) if d == ROW_HALO else pair for d, pair in enumerate(halo))


def halves_rows(op: PoolOp) -> bool:
    """Whether a pool takes the maximum of the rows of a pair."""
    window = (ints(op.kernel), ints(op.strides), ints(op.dilations), ints(op.pads))
    return op.kind.data is PoolKind.MAX and window == ((2, 2), (2, 2), (1, 1), (0, 0, 0, 0))

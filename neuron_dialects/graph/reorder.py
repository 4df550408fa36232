"""Rows in another order, as a few strided pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, TensorType
from xdsl.irdl import irdl_op_definition, operand_def, prop_def, result_def, traits_def
from xdsl.traits import Pure

from neuron_dialects.graph.assembly import DIRECTIVES
from neuron_dialects.graph.attrs import int_attr, ints, ints_attr
from neuron_dialects.graph.base import GRAPH_OPTIONS, ComputeOp, TensorSpec, Value, spec_of, tensor_type
from neuron_dialects.graph.shapes import ShapeError, text

MOST_PERIOD = 1 << 16
"""Rows after which an order repeats, at most."""


@dataclass(frozen=True)
class RowPiece:
    """Rows `to + sum(i * to_step)` of the result are rows `source + sum(i * source_step)` of the operand.

    `dims`: (size, to_step, source_step) for each index i, the outermost first.
    """

    to: int
    source: int
    dims: tuple[tuple[int, int, int], ...] = ()

    @property
    def rows(self) -> int:
        """How many rows."""
        return prod(size for size, _, _ in self.dims)

    def indices(self) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
        """Its rows of the result, and those of the operand."""
        to, source = np.array([self.to]), np.array([self.source])
        for size, to_step, source_step in self.dims:
            to = (to[:, None] + np.arange(size) * to_step).reshape(-1)
            source = (source[:, None] + np.arange(size) * source_step).reshape(-1)
        return to, source


@irdl_op_definition
class ReorderRowsOp(ComputeOp):
    """`graph.reorder_rows %x period 4 pieces [0, 2, 1, 2, 1, 1, 2, 0, 1, 2, 1, 1]`: the rows of a matrix in another
    order.

    The order is the same for each `period` rows. Each piece is a list of numbers: the first row of the result, the
    first row of x, the number of indices, and for each of these its size and by how many rows it moves in the result
    and in x. The pieces hold every row once. result: shape of x.
    """

    name = "graph.reorder_rows"
    x = operand_def(TensorType)
    period = prop_def(IntegerAttr)
    pieces = prop_def(DenseArrayBase)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = (
        "$x custom<Integer>($period) custom<Integers>($pieces) attr-dict `:` functional-type(operands, results)"
    )

    def __init__(self, x: Value, period: int, pieces: Sequence[RowPiece]) -> None:
        numbers = [n for p in pieces for n in (p.to, p.source, len(p.dims), *(m for dim in p.dims for m in dim))]
        self.infer(spec_of(x), period, pieces)
        super().__init__(
            operands=[x],
            properties={"period": int_attr(period), "pieces": ints_attr(numbers)},
            result_types=[tensor_type(*spec_of(x))],
        )

    @property
    def row_pieces(self) -> list[RowPiece]:
        """The pieces of one period; ShapeError where the list of numbers is not a list of pieces."""
        numbers, found, at = ints(self.pieces), list[RowPiece](), 0
        while at < len(numbers):
            count = numbers[at + 2] if at + 3 <= len(numbers) else -1
            end = at + 3 + 3 * count
            if count < 0 or end > len(numbers):
                raise ShapeError(f"{len(numbers)} numbers are not pieces of rows")
            dims = tuple((numbers[i], numbers[i + 1], numbers[i + 2]) for i in range(at + 3, end, 3))
            found.append(RowPiece(numbers[at], numbers[at + 1], dims))
            at = end
        return found

    def order(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The row of x for each row of the result, in one period."""
        return order_of(self.row_pieces, self.period.value.data)

    @staticmethod
    def infer(x: TensorSpec, period: int, pieces: Sequence[RowPiece]) -> TensorSpec:
        """Result of reordering the rows of `x`; ShapeError where the pieces do not hold each row of a period once."""
        _, shape = x
        if len(shape) != 2 or not 0 < period <= MOST_PERIOD or shape[0] % period:
            raise ShapeError(f"an order of {period} rows does not go with {text(shape)}")
        order_of(pieces, period)
        return x

    def inferred(self) -> TensorSpec:
        return self.infer(spec_of(self.x), self.period.value.data, self.row_pieces)


def order_of(pieces: Sequence[RowPiece], period: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The source of each row of a period; ShapeError where pieces do not hold each of its rows once."""
    sizes = [size for piece in pieces for size, _, _ in piece.dims]
    if any(size < 1 for size in sizes) or sum(piece.rows for piece in pieces) != period:
        raise ShapeError(f"the pieces do not hold {period} rows")
    pairs = [piece.indices() for piece in pieces]
    to, source = (np.concatenate(part) for part in zip(*pairs, strict=True))
    for rows in (to, source):
        if rows.min() < 0 or rows.max() >= period or len(np.unique(rows)) != period:
            raise ShapeError(f"the pieces do not hold each of {period} rows once")
    order = np.empty(period, np.int64)
    order[to] = source
    return order

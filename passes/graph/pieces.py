"""What lies between kernels that run piece by piece: some rows of an image at a time, two pieces on chip."""

from xdsl.dialects.builtin import IntegerAttr
from xdsl.ir import Operation, SSAValue

from neuron_dialects.graph import spec_of
from passes.graph.residence import resident_bytes

CHAINED = "graph.chained"
"""Attribute of a kernel that runs piece by piece with the next one: rows of an image in a piece."""

SLOTS = 2
"""Pieces of a result that have room on chip: one is made while the other is read."""


def ring_bytes(value: SSAValue, rows: int) -> int:
    """Bytes of a partition that pieces of so many rows of a result take."""
    dtype, (_, channels, _, columns) = spec_of(value)
    return resident_bytes((SLOTS, channels, rows, columns), 1, (), dtype.size_bytes)


def rows_of_piece(value: SSAValue) -> int | None:
    """Rows of a piece of a value that lies between kernels of a chain; None for any other."""
    owner = value.owner
    mark = owner.attributes.get(CHAINED) if isinstance(owner, Operation) else None
    return mark.value.data if isinstance(mark, IntegerAttr) else None

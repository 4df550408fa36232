"""The layout of a tensor as its encoding: where it lies, and with which dimension on the partitions.

    tensor<1x64x56x56xbf16, #graph.layout<sbuf, partition 1, halo [0, 0, 1, 1, 1, 1]>>

A tensor without an encoding lies in DRAM, row-major. A resident one stays in SBUF: logical dimension `partition` lies
on the partitions in tiles of 128, the tile number comes next, then the other dimensions in order. `halo` gives (before,
after) for each of those other dimensions: zeros around the tensor, which convolutions read as padding.

    tensor<2x64x128x256xbf16, #graph.layout<sbuf, partition 1, rows 2, halo [0, 0, 1, 1, 1, 1]>>

With `rows 2` two neighbouring rows of a feature map [images, channels, rows, columns] lie beside each other on
partitions, (row, channel), the first pair beginning with the first row of the halo.
"""

from collections.abc import Sequence

from xdsl.dialects.builtin import I64, DenseArrayBase, IntegerAttr, TensorType, i64
from xdsl.ir import Attribute, ParametrizedAttribute, SSAValue
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

ROWS_OF_PAIR = 2
"""Rows that lie beside each other on partitions, where any do."""


@irdl_attr_definition
class LayoutAttr(ParametrizedAttribute):
    """Residence of a tensor in SBUF."""

    name = "graph.layout"

    partition: IntegerAttr
    halo: DenseArrayBase[I64]
    rows: IntegerAttr

    @staticmethod
    def resident(partition: int, halo: Sequence[tuple[int, int]] = (), rows: int = 1) -> "LayoutAttr":
        """In SBUF with dimension `partition` on the partitions; `halo` pairs for the other dimensions, or none."""
        flat = [width for pair in halo for width in pair] if any(a or b for a, b in halo) else []
        return LayoutAttr(IntegerAttr(partition, i64), DenseArrayBase.from_list(i64, flat), IntegerAttr(rows, i64))

    @property
    def partition_dimension(self) -> int:
        """The logical dimension on the partitions."""
        return self.partition.value.data

    @property
    def is_paired(self) -> bool:
        """Whether two rows lie beside each other on partitions."""
        return self.rows.value.data == ROWS_OF_PAIR

    @property
    def halo_pairs(self) -> tuple[tuple[int, int], ...]:
        """(before, after) for each dimension but the partition; empty for none."""
        flat = [int(width) for width in self.halo.get_values()]
        return tuple(zip(flat[::2], flat[1::2], strict=True))

    def misfit(self, rank: int) -> str | None:
        """Why a tensor of so many dimensions cannot lie like this, None if it can."""
        if self.partition_dimension >= rank:
            return f"layout names dimension {self.partition_dimension} of a tensor of rank {rank}"
        if self.halo_pairs and len(self.halo_pairs) != rank - 1:
            return f"layout gives a halo to {len(self.halo_pairs)} dimensions, a tensor of rank {rank} has {rank - 1}"
        if self.is_paired and (rank != 4 or self.partition_dimension != 1):
            return (
                f"layout pairs rows of a tensor of rank {rank} with dimension {self.partition_dimension} on partitions"
            )
        return None

    def verify(self) -> None:
        """Non-negative numbers, halo in pairs, rows alone or in pairs."""
        widths = [int(width) for width in self.halo.get_values()]
        if self.partition.value.data < 0 or any(width < 0 for width in widths) or len(widths) % 2:
            raise VerifyException(f"layout: partition {self.partition.value.data}, halo {widths}")
        if not 1 <= self.rows.value.data <= ROWS_OF_PAIR:
            raise VerifyException(f"layout: rows {self.rows.value.data}, not 1 or {ROWS_OF_PAIR}")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """`<sbuf, partition 1, rows 2, halo [0, 0, 1, 1]>`; `rows` and `halo` are optional."""
        with parser.in_angle_brackets():
            parser.parse_keyword("sbuf")
            parser.parse_punctuation(",")
            parser.parse_keyword("partition")
            partition = parser.parse_integer()
            halo: list[int] = []
            rows = 1
            more = parser.parse_optional_punctuation(",") is not None
            if more and parser.parse_optional_keyword("rows") is not None:
                rows = parser.parse_integer()
                more = parser.parse_optional_punctuation(",") is not None
            if more:
                parser.parse_keyword("halo")
                halo = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
        return (IntegerAttr(partition, i64), DenseArrayBase.from_list(i64, halo), IntegerAttr(rows, i64))

    def print_parameters(self, printer: Printer) -> None:
        """Inverse of `parse_parameters`."""
        with printer.in_angle_brackets():
            printer.print_string(f"sbuf, partition {self.partition.value.data}")
            if self.is_paired:
                printer.print_string(f", rows {ROWS_OF_PAIR}")
            if len(self.halo):
                printer.print_string(f", halo [{', '.join(str(int(w)) for w in self.halo.get_values())}]")


def layout_of(value: SSAValue) -> LayoutAttr | None:
    """The layout that a value's type names, None for DRAM."""
    encoding = value.type.encoding if isinstance(value.type, TensorType) else None
    return encoding if isinstance(encoding, LayoutAttr) else None

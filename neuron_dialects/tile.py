"""The tile dialect: loops over tiles of tensors, in one program order, without engines or addresses.

Loops are `scf.for` from 0 with step 1 and a constant trip count; they stay loops. Buffers are memrefs with a memory
space; in sbuf and psum the first dimension is the partition. A `tile.alloc` inside a loop stands for a fresh buffer in
every iteration; `copies` says over how many physical buffers the iterations rotate. Compute ops write into their
destination and mirror what the engines can do, on tiles of any size; they share operand and field tables with the
instructions that they become (neuron_dialects/isa), less the engine and the size limits.
"""

from typing import Any, ClassVar

from xdsl.dialects.builtin import IntegerAttr, MemRefType, StringAttr, i64
from xdsl.ir import Attribute, Dialect, Operation, OpResult
from xdsl.irdl import IRDLOperation, irdl_op_definition, opt_prop_def, prop_def, result_def, traits_def
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import EffectInstance, MemoryAllocEffect, MemoryEffect, MemoryEffectKind, NoMemoryEffect
from xdsl.utils.exceptions import VerifyException

from neuron_dialects.access_ops import AccessAttr, AccessOp, FieldsAttr, access_op_class, space_of, verify_allocation
from neuron_dialects.isa import INSTRUCTIONS


class AccessEffect(MemoryEffect):
    """Reads the operands that the table says are read, writes those it says are written; never pure, never merged."""

    @classmethod
    def get_effects(cls, op: Any) -> set[EffectInstance]:
        """One effect per kind."""
        return {EffectInstance(MemoryEffectKind.READ), EffectInstance(MemoryEffectKind.WRITE)}


class TileOp(AccessOp):
    """Base of the compute and transfer ops of the tile dialect."""

    name = "tile.base"
    traits = traits_def(AccessEffect())
    INSTRUCTION: ClassVar[str] = ""


TILE_INSTRUCTIONS: dict[str, str] = {
    "matmul": "nc_matmul",
    "transpose": "nc_transpose",
    "activation": "activation",
    "tensor_tensor": "tensor_tensor",
    "tensor_scalar": "tensor_scalar",
    "tensor_scalar_reduce": "tensor_scalar_reduce",
    "scalar_tensor_tensor": "scalar_tensor_tensor",
    "scan": "tensor_tensor_scan",
    "reduce": "tensor_reduce",
    "copy": "tensor_copy",
    "select": "tensor_copy_predicated",
    "memset": "memset",
    "reciprocal": "reciprocal",
    "bn_stats": "bn_stats",
    "bn_aggregate": "bn_aggr",
    "max8": "max8",
    "find_index8": "nc_find_index8",
    "match_replace8": "nc_match_replace8",
    "iota": "iota",
    "affine_select": "affine_select",
    "local_gather": "local_gather",
    "partition_reduce": "partition_reduce",
    "load": "dma_copy",
    "store": "dma_copy",
    "gather": "dma_gather",
    "scatter": "dma_scatter",
}
"""Tile op -> the instruction whose operands, fields and meaning it has."""


def _op_class(short: str, instruction: str) -> type[TileOp]:
    definition = INSTRUCTIONS[instruction]
    doc = f"{definition.summary}. Becomes `nisa.{instruction}`."
    made = access_op_class(f"tile.{short}", definition.operands, definition.fields, doc, TileOp)
    made.INSTRUCTION = instruction
    return made


TILE_OPS: dict[str, type[TileOp]] = {short: _op_class(short, target) for short, target in TILE_INSTRUCTIONS.items()}
"""Op class by short name."""


@irdl_op_definition
class AllocOp(IRDLOperation):
    """A buffer; in a loop, a fresh (uninitialised) one in every iteration, rotating over `copies` physical buffers."""

    name = "tile.alloc"
    copies = prop_def(IntegerAttr)
    buffer: OpResult = result_def(MemRefType)
    traits = traits_def(MemoryAllocEffect())

    def __init__(self, buffer_type: Attribute, copies: int = 1, name: str | None = None):
        super().__init__(properties={"copies": IntegerAttr(copies, i64)}, result_types=[buffer_type])
        if name is not None:
            self.buffer.name_hint = name

    def verify_(self) -> None:
        """Static shape; on chip at most 128 partitions; at least one copy."""
        verify_allocation(self.buffer, self.copies.value.data)

    def print(self, printer: Printer) -> None:
        """`tile.alloc x2 : memref<...>`."""
        if self.copies.value.data != 1:
            printer.print_string(f" copies {self.copies.value.data}")
        printer.print_string(" : ")
        printer.print_attribute(self.buffer.type)

    @classmethod
    def parse(cls, parser: Parser) -> "AllocOp":
        """Inverse of `print`."""
        copies = parser.parse_integer() if parser.parse_optional_keyword("copies") is not None else 1
        parser.parse_punctuation(":")
        return cls(parser.parse_type(), copies)


@irdl_op_definition
class ParamOp(IRDLOperation):
    """A constant DRAM tensor, row-major: weight `symbol` of the weight store or of a `graph.derived_weight`."""

    name = "tile.param"
    symbol = prop_def(StringAttr)
    pinned = opt_prop_def(StringAttr)
    buffer: OpResult = result_def(MemRefType)
    traits = traits_def(NoMemoryEffect())

    def __init__(self, symbol: str, buffer_type: Attribute):
        super().__init__(properties={"symbol": StringAttr(symbol)}, result_types=[buffer_type])

    def verify_(self) -> None:
        """Parameters live in DRAM."""
        if space_of(self.buffer) != "dram":
            raise VerifyException(f"lies in {space_of(self.buffer)}, must be dram")

    def print(self, printer: Printer) -> None:
        """`tile.param "name" : memref<...>`."""
        printer.print_string(" ")
        printer.print_string_literal(self.symbol.data)
        printer.print_string(" : ")
        printer.print_attribute(self.buffer.type)

    @classmethod
    def parse(cls, parser: Parser) -> "ParamOp":
        """Inverse of `print`."""
        symbol = parser.parse_str_literal()
        parser.parse_punctuation(":")
        return cls(symbol, parser.parse_type())


_OPERATIONS: list[type[Operation]] = [AllocOp, ParamOp, *TILE_OPS.values()]

Tile = Dialect("tile", _OPERATIONS, [AccessAttr, FieldsAttr])


def add_instruction(short: str, instruction: str) -> None:
    """Give an instruction that a plug-in added to the table an op `tile.<short>`."""
    TILE_INSTRUCTIONS[short] = instruction
    TILE_OPS[short] = made = _op_class(short, instruction)
    _OPERATIONS.append(made)

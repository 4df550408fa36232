"""The nisa operation for what a stage of a pipeline takes from, or gives to, a program on another core."""

from xdsl.dialects.builtin import FlatSymbolRefAttrConstr, IntegerAttr, MemRefType, StringAttr, SymbolRefAttr, i64
from xdsl.ir import BlockArgument, SSAValue
from xdsl.irdl import IRDLOperation, irdl_op_definition, operand_def, prop_def, traits_def
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import MemoryWriteEffect
from xdsl.utils.exceptions import VerifyException

from neuron_dialects.access_ops import space_of

HAND_OVER_DIRECTIONS = ("from", "to")
"""Directions of `nisa.hand_over`: an input comes from a peer, an output goes to one."""


@irdl_op_definition
class HandOverOp(IRDLOperation):
    """An input that another core's program writes (`from`), or an output that one reads (`to`), while both run.

        nisa.hand_over %x from @stage_0 argument 1 semaphore ready0 count 4 buffers 2 : memref<...>

    `argument`: which one of the peer's it is. Both are one tensor in `buffers` copies, which runs use in turn. Each
    transfer of the peer to (from) it increments the semaphore here, `count` times in a run.
    """

    name = "nisa.hand_over"
    buffer = operand_def(MemRefType)
    direction = prop_def(StringAttr)
    peer = prop_def(FlatSymbolRefAttrConstr)
    argument = prop_def(IntegerAttr)
    semaphore = prop_def(StringAttr)
    count = prop_def(IntegerAttr)
    buffers = prop_def(IntegerAttr)
    traits = traits_def(MemoryWriteEffect())

    def __init__(
        self, buffer: SSAValue, direction: str, peer: str, argument: int, semaphore: str, count: int, buffers: int
    ):
        super().__init__(
            operands=[buffer],
            properties={
                "direction": StringAttr(direction),
                "peer": SymbolRefAttr(peer),
                "argument": IntegerAttr(argument, i64),
                "semaphore": StringAttr(semaphore),
                "count": IntegerAttr(count, i64),
                "buffers": IntegerAttr(buffers, i64),
            },
        )

    def verify_(self) -> None:
        """A DRAM argument of the function, and numbers that make sense."""
        if self.direction.data not in HAND_OVER_DIRECTIONS:
            raise VerifyException(f"a hand-over goes from or to a peer, not '{self.direction.data}'")
        if not isinstance(self.buffer, BlockArgument) or space_of(self.buffer) != "dram":
            raise VerifyException("only an argument of the function, in dram, is handed over")
        if self.argument.value.data < 0 or self.count.value.data < 1 or self.buffers.value.data < 1:
            raise VerifyException("a hand-over has an argument from 0, and at least one transfer and one buffer")

    def print(self, printer: Printer) -> None:
        """Inverse of `parse`."""
        printer.print_string(" ")
        printer.print_ssa_value(self.buffer)
        printer.print_string(f" {self.direction.data} ")
        printer.print_symbol_name(self.peer.root_reference.data)
        printer.print_string(f" argument {self.argument.value.data} semaphore {self.semaphore.data}")
        printer.print_string(f" count {self.count.value.data} buffers {self.buffers.value.data} : ")
        printer.print_attribute(self.buffer.type)

    @classmethod
    def parse(cls, parser: Parser) -> "HandOverOp":
        """`%x from @stage_0 argument 1 semaphore ready0 count 4 buffers 2 : memref<...>`."""
        unresolved = parser.parse_unresolved_operand()
        direction = parser.parse_identifier()
        peer = parser.parse_symbol_name().data
        parser.parse_keyword("argument")
        argument = parser.parse_integer()
        parser.parse_keyword("semaphore")
        semaphore = parser.parse_identifier()
        parser.parse_keyword("count")
        count = parser.parse_integer()
        parser.parse_keyword("buffers")
        buffers = parser.parse_integer()
        parser.parse_punctuation(":")
        buffer = parser.resolve_operand(unresolved, parser.parse_type())
        return cls(buffer, direction, peer, argument, semaphore, count, buffers)

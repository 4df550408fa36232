"""Where operations came from: a parser that remembers positions, and places of what is wrong with them.

xDSL's operations do not know the text that they were read from, and passes replace them. What survives is the name of
the framework node in their location, so that a pass's error about a node can be shown at the line of the input that the
node came in with.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import AttributeInvT, Operation, SSAValue
from xdsl.parser import Parser, UnresolvedOperand
from xdsl.utils.exceptions import ParseError
from xdsl.utils.lexer import Span

from tools.diagnostics import Place


class PositionedParser(Parser):
    """A parser that remembers where each operation begins.

    Args:
        text: what to parse.
        name: of the file, for diagnostics.
        line_offset: lines of the file in front of `text`.
    """

    positions: dict[Operation, int]

    def __init__(self, ctx: Context, text: str, name: str, line_offset: int) -> None:
        self.positions = {}
        self._text = text
        self._name = name
        self._line_offset = line_offset
        self._line_starts: list[int] | None = None
        self._first_uses: dict[str, Span[str] | Span[bytes]] = {}
        self._by_node: dict[str, int] | None = None
        super().__init__(ctx, text, name)

    def parse_module(self, allow_implicit_module: bool = True) -> ModuleOp:
        try:
            return super().parse_module(allow_implicit_module)
        except ParseError as error:
            # xDSL finds at the end of the text that values are missing; where they are used is what a reader looks for.
            if not self.forward_ssa_references or error.span.start < len(self._text.rstrip()):
                raise
            names = [name for name in self._first_uses if name in self.forward_ssa_references]
            message = f"values used but not defined: [{', '.join(f'%{name}' for name in names)}]"
            raise ParseError(self._first_uses[names[0]], message) from None

    def resolve_operand(self, operand: UnresolvedOperand, type: AttributeInvT) -> SSAValue[AttributeInvT]:
        if operand.operand_name not in self.ssa_values:
            self._first_uses.setdefault(operand.operand_name, operand.span)
        return super().resolve_operand(operand, type)

    def parse_operation(self) -> Operation:
        position = self.pos
        op = super().parse_operation()
        self.positions[op] = position
        return op

    def place(self, start: int, end: int | None = None) -> Place:
        """The characters from `start` on, up to `end` where it is given."""
        if self._line_starts is None:
            # Remarks can be many: finding a line must not read the whole text again.
            self._line_starts = [0, *(match.end() for match in re.finditer("\n", self._text))]
        number = bisect_right(self._line_starts, start)
        first = self._line_starts[number - 1]
        line = self._text[first : self._line_starts[number] - 1 if number < len(self._line_starts) else None]
        length = 1 if end is None else max(end - start, 1)
        return Place(self._name, number + self._line_offset, start - first + 1, line.rstrip("\r"), length)

    def place_of_operation(self, op: Operation | None) -> Place | None:
        """Where an operation of the input begins."""
        position = None if op is None else self.positions.get(op)
        return None if position is None else self.place(position)

    def remember_names(self) -> None:
        """Note which node and which function stands where, while the operations are still there."""
        from neuron_dialects.neuron import location_names

        self._by_node = {}
        # Operations are noted when they end; the first in the text is the one that a reader looks for.
        for op, position in sorted(self.positions.items(), key=lambda item: item[1]):
            for name in location_names(op.location):
                self._by_node.setdefault(name, position)
            if isinstance(symbol := op.properties.get("sym_name"), StringAttr):
                self._by_node.setdefault(f"@{symbol.data}", position)

    def place_of_node(self, node: str | None, function: str | None) -> Place | None:
        """Where a framework node was, else the function."""
        names = self._by_node or {}
        position = names.get(node or "", names.get(f"@{function}"))
        return None if position is None else self.place(position)

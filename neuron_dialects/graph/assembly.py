"""Pieces of assembly that the graph operators share: `axes [2, 3]`, `axis 1`, `epsilon 1.0e-05`, `keep_dims`.

Each is a custom directive of xDSL's declarative formats. It prints a property as the property's name followed by its
value, so an operator's format line lists its properties in order and reads like the text it prints.
"""

from __future__ import annotations

import math

import numpy as np
from xdsl.dialects.builtin import DenseArrayBase, FloatAttr, IntegerAttr
from xdsl.irdl import IRDLOperation
from xdsl.irdl.declarative_assembly_format import (
    AttributeVariable,
    CustomDirective,
    ParsingState,
    PrintingState,
    irdl_custom_directive,
)
from xdsl.parser import AttrParser, Parser
from xdsl.printer import Printer

from neuron_dialects.graph.attrs import f32_attr, flag_attr, int_attr, ints_attr


def float_text(value: float, *, single: bool = True) -> str:
    """The shortest decimal text that gives back `value` (as f32 when `single`, else as f64), always with a point.

    Infinities are `inf` and `neg_inf`, every NaN is `nan`.
    """
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "neg_inf"
    shortest = str(np.float32(value)) if single else repr(float(value))
    mantissa, exponent, power = shortest.partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}{exponent}{power}"


def parse_float_text(parser: AttrParser) -> float:
    """Read what `float_text` writes; integers are accepted too."""
    word = parser.parse_optional_keyword_in(("inf", "neg_inf", "nan"))
    if word is not None:
        return float(word.replace("neg_", "-"))
    return float(parser.parse_number())


@irdl_custom_directive
class Integers(CustomDirective):
    """A list of integers: `axes [2, 3]`."""

    values: AttributeVariable

    def parse(self, parser: Parser, state: ParsingState) -> None:
        parser.parse_keyword(self.values.name)
        numbers = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
        self.values.set(state, ints_attr(numbers))

    def print(self, printer: Printer, state: PrintingState, op: IRDLOperation) -> None:
        attr = self.values.get(op)
        assert isinstance(attr, DenseArrayBase)
        state.print_whitespace(printer)
        numbers = ", ".join(str(value) for value in attr.get_values())
        printer.print_string(f"{self.values.name} [{numbers}]")


@irdl_custom_directive
class Integer(CustomDirective):
    """One integer: `axis 1`."""

    value: AttributeVariable

    def parse(self, parser: Parser, state: ParsingState) -> None:
        parser.parse_keyword(self.value.name)
        self.value.set(state, int_attr(parser.parse_integer()))

    def print(self, printer: Printer, state: PrintingState, op: IRDLOperation) -> None:
        attr = self.value.get(op)
        assert isinstance(attr, IntegerAttr)
        state.print_whitespace(printer)
        printer.print_string(f"{self.value.name} {attr.value.data}")


@irdl_custom_directive
class Number(CustomDirective):
    """An f32 number: `epsilon 1.0e-05`. Nothing is printed for an absent optional property."""

    value: AttributeVariable

    def parse(self, parser: Parser, state: ParsingState) -> None:
        if not self.value.is_optional:
            parser.parse_keyword(self.value.name)
        elif parser.parse_optional_keyword(self.value.name) is None:
            return
        self.value.set(state, f32_attr(parse_float_text(parser)))

    def print(self, printer: Printer, state: PrintingState, op: IRDLOperation) -> None:
        attr = self.value.get(op)
        if attr is None:
            return
        assert isinstance(attr, FloatAttr)
        state.print_whitespace(printer)
        printer.print_string(f"{self.value.name} {float_text(attr.value.data)}")


@irdl_custom_directive
class Flag(CustomDirective):
    """A truth value: its name when true, nothing when false."""

    value: AttributeVariable

    def parse(self, parser: Parser, state: ParsingState) -> None:
        self.value.set(state, flag_attr(parser.parse_optional_keyword(self.value.name) is not None))

    def print(self, printer: Printer, state: PrintingState, op: IRDLOperation) -> None:
        attr = self.value.get(op)
        assert isinstance(attr, IntegerAttr)
        if attr:
            state.print_whitespace(printer)
            printer.print_string(self.value.name)


DIRECTIVES: tuple[type[CustomDirective], ...] = (Integers, Integer, Number, Flag)

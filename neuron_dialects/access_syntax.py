"""Text of the operations whose operands are views of buffers: values of fields, access patterns, affine expressions.

The parsing functions read what an access op (neuron_dialects/access_ops.py) prints; `indices` collects the loop
variables that they meet, whose positions are the variables of the patterns. The text of field values is also that of
the packed attributes. Nothing here knows the ops.
"""

import re
from typing import Any

from xdsl.dialects.builtin import IndexType
from xdsl.ir import SSAValue
from xdsl.parser import Parser

from neuron_dialects.access import AccessPattern, Affine, parse_affine
from neuron_dialects.isa.model import ENUMS, FieldDef


def value_kind(value: Any) -> str:
    """Kind of a field value: affine, bool, i32, f32 or enum."""
    if isinstance(value, Affine):
        return "affine"
    return {bool: "bool", int: "i32", float: "f32", str: "enum"}[type(value)]


def value_text(value: Any) -> str:
    """Text that `read_value` and `parse_field` read back exactly (1e-07 is written 1.0e-07, which MLIR lexes)."""
    if isinstance(value, float):
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_value(kind: str, text: str) -> Any:
    """The field value of a kind from its text; ValueError when it is malformed."""
    match kind:
        case "affine":
            return parse_affine(text)
        case "bool":
            if text not in ("true", "false"):
                raise ValueError(f"expected true or false, not '{text}'")
            return text == "true"
        case "i32":
            return int(text)
        case "f32":
            return float(text)
        case "enum":
            return text
        case _:
            raise ValueError(f"unknown kind of field '{kind}'")


def field_value(definition: FieldDef, value: Any) -> Any:
    """`value` as the kind of its definition; ValueError for an enumeration that does not have it."""
    match definition.kind:
        case "f32":
            return float(value)
        case "i32":
            return int(value)
        case "bool":
            return bool(value)
        case "affine":
            return value if isinstance(value, Affine) else Affine(int(value))
        case enumeration:
            if value not in ENUMS[enumeration]:
                raise ValueError(f"{definition.name} = {value} is none of {', '.join(ENUMS[enumeration])}")
            return str(value)


def field_problem(definition: FieldDef, value: Any, indices: int) -> str | None:
    """What is wrong with a field value of an op with so many loop variables, None for nothing."""
    kind = value_kind(value)
    if definition.kind in ENUMS:
        fits = kind == "enum" and value in ENUMS[definition.kind]
    else:
        fits = kind == definition.kind
    if not fits:
        return f"field {definition.name} cannot be {value_text(value)}"
    if isinstance(value, Affine) and indices and any(v >= indices for v, _ in value.terms):
        return f"field {definition.name} uses an unknown loop variable"
    return None


def parse_field(parser: Parser, definition: FieldDef, indices: list[SSAValue]) -> Any:
    """The value of a field behind its `=`."""
    match definition.kind:
        case "f32":
            sign = -1.0 if parser.parse_optional_punctuation("-") is not None else 1.0
            keyword = parser.parse_optional_keyword_in(("inf", "nan"))
            return sign * float(keyword if keyword is not None else parser.parse_number())
        case "i32":
            return parser.parse_integer()
        case "bool":
            return parser.parse_boolean()
        case "affine":
            return parse_affine_expression(parser, indices)
        case enumeration:
            value = parser.parse_identifier()
            if value not in ENUMS[enumeration]:
                parser.raise_error(f"{definition.name} = {value} is none of {', '.join(ENUMS[enumeration])}")
            return value


def parse_buffer(parser: Parser) -> SSAValue:
    """A buffer operand. Its type is not repeated in the text, so its definition must stand before."""
    operand = parser.parse_unresolved_operand("Expected a buffer.")
    values = parser.ssa_values.get(operand.operand_name, ())
    if operand.index >= len(values):
        parser.raise_error(f"buffer %{operand.operand_name} is not defined before its use", operand.span)
    return values[operand.index]


def _parse_variable(parser: Parser, indices: list[SSAValue]) -> int | None:
    """A loop variable `%i` (added to `indices` on first use) or a register `r3`; None when neither follows."""
    value = parser.parse_optional_operand(IndexType())
    if value is not None:
        if value not in indices:
            indices.append(value)
        return indices.index(value)
    register = parser.parse_optional_identifier()
    if register is None:
        return None
    if not re.fullmatch(r"r\d+", register):
        parser.raise_error(f"expected a loop variable or a register, not '{register}'")
    return int(register[1:])


def parse_affine_expression(parser: Parser, indices: list[SSAValue]) -> Affine:
    """`512*%i + 4`; new loop variables are appended to `indices`."""
    total = Affine()
    sign = -1 if parser.parse_optional_punctuation("-") is not None else 1
    while True:
        variable = _parse_variable(parser, indices)
        if variable is not None:
            total = total + Affine.variable(variable, sign)
        else:
            number = parser.parse_integer(allow_boolean=False)
            if parser.parse_optional_punctuation("*") is not None:
                variable = _parse_variable(parser, indices)
                if variable is None:
                    parser.raise_error("expected a loop variable after '*'")
                total = total + Affine.variable(variable, sign * number)
            else:
                total = total + sign * number
        if parser.parse_optional_punctuation("+") is not None:
            sign = 1
        elif parser.parse_optional_punctuation("-") is not None:
            sign = -1
        else:
            return total


def parse_access(parser: Parser, indices: list[SSAValue]) -> AccessPattern:
    """`[partition:count][offset : n step s, ...]`, or one bracket for DRAM."""
    partition, partitions = Affine(), 0
    parser.parse_punctuation("[")
    offset = parse_affine_expression(parser, indices)
    parser.parse_punctuation(":")
    dims = _parse_dims(parser)
    parser.parse_punctuation("]")
    if parser.parse_optional_punctuation("[") is not None:
        partition, partitions = offset, dims[0][1]
        offset = parse_affine_expression(parser, indices)
        parser.parse_punctuation(":")
        dims = _parse_dims(parser)
        parser.parse_punctuation("]")
    return AccessPattern(partition, partitions, offset, dims)


def _parse_dims(parser: Parser) -> tuple[tuple[int, int], ...]:
    dims: list[tuple[int, int]] = []
    while True:
        size = parser.parse_integer(allow_boolean=False, allow_negative=False)
        stride = parser.parse_integer() if parser.parse_optional_keyword("step") is not None else 1
        dims.append((stride, size))
        if parser.parse_optional_punctuation(",") is None:
            return tuple(dims)

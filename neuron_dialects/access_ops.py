"""Operations whose operands are views of buffers: the common base of the tile and nisa dialects.

An access op holds its buffers (memrefs) and the loop variables its views depend on as SSA operands, and one packed attribute
each for the views (`#tile.access`) and for the immediates (`#tile.fields`). Variable `$i` of a pattern is the i-th index
operand; in a program whose scalar registers are allocated there are no index operands and `$i` is scalar register i.

    tile.matmul dst %p[0:128][0 : 512] stationary %w[0:128][128*%k : 128] moving %x[0:128][512*%k : 512] {accumulate = %k}
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from xdsl.dialects.builtin import DenseArrayBase, IndexType, MemRefType, i32
from xdsl.ir import Attribute, Data, Operation, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_attr_definition,
    prop_def,
    var_operand_def,
)
from xdsl.parser import AttrParser, Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from neuron_dialects.access import AccessPattern, Affine, parse_affine, parse_pattern
from neuron_dialects.dtypes import dtype_of
from neuron_dialects.isa.model import ENUMS, FieldDef, OperandDef
from neuron_dialects.neuron import MemorySpaceAttr

Views = tuple[tuple[str, AccessPattern], ...]
Fields = tuple[tuple[str, Any], ...]

_VARIABLE = re.compile(r"\$(\d+)")


@irdl_attr_definition
class AccessAttr(Data[Views]):
    """Views of the buffer operands, in operand order: (role, pattern)."""

    name = "tile.access"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Views:
        """`<"dst [0:128][0 : 512]", ...>`."""

        def view() -> tuple[str, AccessPattern]:
            role, _, text = parser.parse_str_literal().partition(" ")
            return role, _guard(parser, parse_pattern, text)

        return tuple(parser.parse_comma_separated_list(parser.Delimiter.ANGLE, view))

    def print_parameter(self, printer: Printer) -> None:
        """Inverse of `parse_parameter`."""
        with printer.in_angle_brackets():
            printer.print_list(self.data, lambda view: printer.print_string_literal(f"{view[0]} {view[1]}"))


@irdl_attr_definition
class FieldsAttr(Data[Fields]):
    """Immediates of an op that differ from their defaults: (name, value); an `Affine` value depends on loops."""

    name = "tile.fields"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Fields:
        """`<"accumulate affine 1*$0", "func enum exp", ...>`."""

        def item() -> tuple[str, Any]:
            name, kind, text = (parser.parse_str_literal().split(" ", 2) + ["", ""])[:3]
            return name, _guard(parser, lambda t: _read_value(kind, t), text)

        return tuple(parser.parse_comma_separated_list(parser.Delimiter.ANGLE, item))

    def print_parameter(self, printer: Printer) -> None:
        """Inverse of `parse_parameter`."""
        with printer.in_angle_brackets():
            printer.print_list(
                self.data, lambda item: printer.print_string_literal(f"{item[0]} {_kind_of(item[1])} {_text_of(item[1])}")
            )


def _guard(parser: AttrParser, reader: Any, text: str) -> Any:
    try:
        return reader(text)
    except ValueError as error:
        parser.raise_error(str(error))


def _kind_of(value: Any) -> str:
    if isinstance(value, Affine):
        return "affine"
    return {bool: "bool", int: "i32", float: "f32", str: "enum"}[type(value)]


def _text_of(value: Any) -> str:
    if isinstance(value, float):
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read_value(kind: str, text: str) -> Any:
    match kind:
        case "affine":
            return parse_affine(text)
        case "bool":
            return text == "true"
        case "i32":
            return int(text)
        case "f32":
            return float(text)
        case _:
            return text


class AccessOp(IRDLOperation):
    """Base of every op with buffer views; subclasses are made by `access_op_class` from operand and field tables."""

    ROLES: ClassVar[tuple[OperandDef, ...]] = ()
    FIELDS: ClassVar[tuple[FieldDef, ...]] = ()

    buffers = var_operand_def(MemRefType)
    indices = var_operand_def(IndexType)
    access = prop_def(AccessAttr)
    fields = prop_def(FieldsAttr)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)

    @classmethod
    def make(
        cls,
        operands: Sequence[tuple[str, SSAValue, AccessPattern]],
        indices: Sequence[SSAValue] = (),
        fields: Mapping[str, Any] | None = None,
        extra: Mapping[str, Attribute] | None = None,
        location: Attribute | None = None,
    ) -> Any:
        """Build the op fast. `operands`: (role, buffer, pattern over `indices`); `fields`: values that are not defaults."""
        properties: dict[str, Attribute] = {
            "access": AccessAttr(tuple((role, pattern) for role, _, pattern in operands)),
            "fields": FieldsAttr(cls.normal_fields(fields or {})),
            "operandSegmentSizes": DenseArrayBase.from_list(i32, [len(operands), len(indices)]),
        }
        if extra:
            properties.update(extra)
        op = cls.create(operands=[*(value for _, value, _ in operands), *indices], properties=properties)
        if location is not None:
            op.location = cast(Any, location)
        return op

    @classmethod
    def normal_fields(cls, values: Mapping[str, Any]) -> Fields:
        """Field values in definition order, of the definition's kind, defaults left out; KeyError for an unknown name."""
        known = {f.name: f for f in cls.FIELDS}
        unknown = set(values) - set(known)
        if unknown:
            raise KeyError(f"{cls.name} has no field {min(unknown)}")
        normal = ((f.name, _convert(f, values[f.name])) for f in cls.FIELDS if f.name in values)
        return tuple((name, value) for name, value in normal if value != known[name].default)

    @property
    def views(self) -> dict[str, tuple[SSAValue, AccessPattern]]:
        """role -> (buffer, pattern); variables of the pattern are positions in `indices`."""
        return {role: (buffer, p) for (role, p), buffer in zip(self.access.data, self.buffers, strict=True)}

    @property
    def values(self) -> dict[str, Any]:
        """Every field with its value, defaults included."""
        return {f.name: f.default for f in self.FIELDS} | dict(self.fields.data)

    def verify_(self) -> None:
        """Roles match the table, patterns fit their buffers' memory and use existing loop variables."""
        if len(self.access.data) != len(self.buffers):
            raise VerifyException(f"{len(self.access.data)} views for {len(self.buffers)} buffers")
        roles = {role.name: role for role in self.ROLES}
        for (role, pattern), buffer in zip(self.access.data, self.buffers, strict=True):
            if role not in roles:
                raise VerifyException(f"unknown operand {role}")
            space = space_of(buffer)
            if space not in roles[role].spaces:
                raise VerifyException(
                    f"operand {role} lies in {space}; allowed: {', '.join(roles[role].spaces)}"
                )
            if pattern.is_dram != (space == "dram"):
                raise VerifyException(f"operand {role} in {space} has {pattern.partitions} partitions")
            if self.indices and pattern.variables() and max(pattern.variables()) >= len(self.indices):
                raise VerifyException(f"operand {role} uses an unknown loop variable")
        present = {role for role, _ in self.access.data}
        for role in self.ROLES:
            if not role.optional and role.name not in present:
                raise VerifyException(f"operand {role.name} is missing")

    # -- text ---------------------------------------------------------------------------------------------------------

    def print_trailing(self, printer: Printer) -> None:
        """Hook: what a subclass prints behind the fields."""

    def print_leading(self, printer: Printer) -> None:
        """Hook: what a subclass prints before the operands."""

    @classmethod
    def parse_leading(cls, parser: Parser) -> dict[str, Attribute]:
        """Hook: inverse of `print_leading`."""
        return {}

    @classmethod
    def parse_trailing(cls, parser: Parser, indices: list[SSAValue]) -> dict[str, Attribute]:
        """Hook: inverse of `print_trailing`."""
        return {}

    def print(self, printer: Printer) -> None:
        """`<op> <leading> role %buffer<pattern> ... {field = value} <trailing>`."""
        self.print_leading(printer)
        for (role, pattern), buffer in zip(self.access.data, self.buffers, strict=True):
            printer.print_string(f" {role} ")
            printer.print_ssa_value(buffer)
            self.print_affine_text(printer, pattern.text())
        if self.fields.data:
            printer.print_string(" {")
            for position, (name, value) in enumerate(self.fields.data):
                printer.print_string(f"{', ' if position else ''}{name} = ")
                self.print_affine_text(printer, _text_of(value))
            printer.print_string("}")
        self.print_trailing(printer)

    def print_affine_text(self, printer: Printer, text: str) -> None:
        """Print a pattern or expression with `$i` replaced by the name of index operand i (or of register i)."""
        pieces = _VARIABLE.split(text)
        for position, piece in enumerate(pieces):
            if position % 2 == 0:
                printer.print_string(piece)
            elif self.indices:
                printer.print_ssa_value(self.indices[int(piece)])
            else:
                printer.print_string(f"r{piece}")

    @classmethod
    def parse(cls, parser: Parser) -> Operation:
        """Inverse of `print`."""
        extra = cls.parse_leading(parser)
        roles = [role.name for role in cls.ROLES]
        indices: list[SSAValue] = []
        operands: list[tuple[str, SSAValue, AccessPattern]] = []
        while (role := parser.parse_optional_keyword_in(roles)) is not None:
            operands.append((role, _parse_buffer(parser), parse_access(parser, indices)))
        fields: dict[str, Any] = {}
        if parser.parse_optional_punctuation("{") is not None:
            while True:
                field = parser.parse_identifier()
                parser.parse_punctuation("=")
                definition = next((f for f in cls.FIELDS if f.name == field), None)
                if definition is None:
                    parser.raise_error(f"{cls.name} has no field {field}")
                fields[field] = _parse_field(parser, definition, indices)
                if parser.parse_optional_punctuation(",") is None:
                    break
            parser.parse_punctuation("}")
        extra |= cls.parse_trailing(parser, indices)
        return cls.make(operands, indices, fields, extra)


def _convert(definition: FieldDef, value: Any) -> Any:
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


def _parse_field(parser: Parser, definition: FieldDef, indices: list[SSAValue]) -> Any:
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


def _parse_buffer(parser: Parser) -> SSAValue:
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


def space_of(buffer: SSAValue) -> str:
    """Memory space of a buffer: sbuf, psum or dram (a memref without a space is dram)."""
    space = cast("MemRefType[Attribute]", buffer.type).memory_space
    return str(space.data) if isinstance(space, MemorySpaceAttr) else "dram"


def dtype_name_of(buffer: SSAValue) -> str:
    """Element type of a buffer by its name in the dtype table."""
    return dtype_of(cast("MemRefType[Attribute]", buffer.type).element_type).name


def access_op_class(
    op_name: str, roles: tuple[OperandDef, ...], fields: tuple[FieldDef, ...], doc: str, base: type[AccessOp]
) -> type[AccessOp]:
    """The op class `op_name` with the given operand and field tables."""
    from xdsl.irdl import irdl_op_definition

    class_name = "".join(part.capitalize() for part in op_name.split(".")[1].split("_")) + "Op"
    body: dict[str, Any] = {"name": op_name, "ROLES": roles, "FIELDS": fields}
    body |= {"__doc__": doc, "__module__": base.__module__, "__annotations__": {"ROLES": ClassVar, "FIELDS": ClassVar}}
    return cast("type[AccessOp]", irdl_op_definition(type(class_name, (base,), body)))

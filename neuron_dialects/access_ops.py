"""Operations whose operands are views of buffers: the common base of the tile and nisa dialects.

An access op holds its buffers (memrefs) and the loop variables its views depend on as SSA operands, and one packed
attribute each for the views (`#tile.access`) and for the immediates (`#tile.fields`). Variable `$i` of a pattern is the
i-th index operand; in a program whose scalar registers are allocated there are no index operands and `$i` is scalar
register i.

    tile.matmul dst %p[0:96][0 : 64] stationary %w[0:128][96*%k : 96] moving %x[0:128][64*%k : 64] {accumulate = %k}
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, TypeVar, cast

from xdsl.dialects.builtin import DenseArrayBase, IndexType, IntegerType, MemRefType, i32
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

from neuron_dialects.access import AccessPattern, parse_pattern
from neuron_dialects.access_syntax import (
    field_problem,
    field_value,
    parse_access,
    parse_buffer,
    parse_field,
    read_value,
    value_kind,
    value_text,
)
from neuron_dialects.dtypes import dtype_of
from neuron_dialects.isa.limits import MAX_PARTITIONS
from neuron_dialects.isa.model import FieldDef, OperandDef
from neuron_dialects.neuron import MemorySpaceAttr

Views = tuple[tuple[str, AccessPattern], ...]
Fields = tuple[tuple[str, Any], ...]

_SEGMENTS = "operandSegmentSizes"
_VARIABLE = re.compile(r"\$(\d+)")


def _guard(parser: AttrParser, reader: Any, text: str) -> Any:
    try:
        return reader(text)
    except ValueError as error:
        parser.raise_error(str(error))


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
            name, kind, text = [*parser.parse_str_literal().split(" ", 2), "", ""][:3]
            return name, _guard(parser, lambda t: read_value(kind, t), text)

        return tuple(parser.parse_comma_separated_list(parser.Delimiter.ANGLE, item))

    def print_parameter(self, printer: Printer) -> None:
        """Inverse of `parse_parameter`."""
        with printer.in_angle_brackets():
            printer.print_list(
                self.data,
                lambda item: printer.print_string_literal(f"{item[0]} {value_kind(item[1])} {value_text(item[1])}"),
            )


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
        """Build the op fast. `operands`: (role, buffer, pattern over `indices`); `fields`: all but defaults."""
        properties: dict[str, Attribute] = {
            "access": AccessAttr(tuple((role, pattern) for role, _, pattern in operands)),
            "fields": FieldsAttr(cls.normal_fields(fields or {})),
            _SEGMENTS: _segments(len(operands), len(indices)),
        }
        if extra:
            properties.update(extra)
        op = cls.create(operands=[*(value for _, value, _ in operands), *indices], properties=properties)
        if location is not None:
            op.location = cast(Any, location)
        return op

    def set_operands(self, buffers: Sequence[SSAValue], indices: Sequence[SSAValue]) -> None:
        """Replace all operands."""
        self.operands = [*buffers, *indices]
        self.properties[_SEGMENTS] = _segments(len(buffers), len(indices))

    @classmethod
    def normal_fields(cls, values: Mapping[str, Any]) -> Fields:
        """Field values in definition order and of its kinds, defaults left out; KeyError for an unknown name."""
        known = {f.name: f for f in cls.FIELDS}
        unknown = set(values) - set(known)
        if unknown:
            raise KeyError(f"{cls.name} has no field {min(unknown)}")
        normal = ((f.name, field_value(f, values[f.name])) for f in cls.FIELDS if f.name in values)
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
        """Roles and fields match their tables; patterns fit their buffers' memory and use existing loop variables."""
        if len(self.access.data) != len(self.buffers):
            raise VerifyException(f"{len(self.access.data)} views for {len(self.buffers)} buffers")
        self._verify_operands()
        self._verify_fields()

    def _verify_operands(self) -> None:
        roles = {role.name: role for role in self.ROLES}
        for (role, pattern), buffer in zip(self.access.data, self.buffers, strict=True):
            if role not in roles:
                raise VerifyException(f"unknown operand {role}")
            space = space_of(buffer)
            if space not in roles[role].spaces:
                raise VerifyException(f"operand {role} lies in {space}; allowed: {', '.join(roles[role].spaces)}")
            if pattern.is_dram != (space == "dram"):
                raise VerifyException(f"operand {role} in {space} has {pattern.partitions} partitions")
            if self.indices and pattern.variables() and max(pattern.variables()) >= len(self.indices):
                raise VerifyException(f"operand {role} uses an unknown loop variable")
        present = {role for role, _ in self.access.data}
        if len(present) < len(self.access.data):
            raise VerifyException("an operand is given twice")
        for role in self.ROLES:
            if not role.optional and role.name not in present:
                raise VerifyException(f"operand {role.name} is missing")

    def _verify_fields(self) -> None:
        known = {f.name: f for f in self.FIELDS}
        for name, value in self.fields.data:
            if name not in known:
                raise VerifyException(f"unknown field {name}")
            problem = field_problem(known[name], value, len(self.indices))
            if problem is not None:
                raise VerifyException(problem)

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
                self.print_affine_text(printer, value_text(value))
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
            operands.append((role, parse_buffer(parser), parse_access(parser, indices)))
        fields: dict[str, Any] = {}
        if parser.parse_optional_punctuation("{") is not None:
            while True:
                field = parser.parse_identifier()
                parser.parse_punctuation("=")
                definition = next((f for f in cls.FIELDS if f.name == field), None)
                if definition is None:
                    parser.raise_error(f"{cls.name} has no field {field}")
                fields[field] = parse_field(parser, definition, indices)
                if parser.parse_optional_punctuation(",") is None:
                    break
            parser.parse_punctuation("}")
        extra |= cls.parse_trailing(parser, indices)
        return cls.make(operands, indices, fields, extra)


@cache
def _segments(buffers: int, indices: int) -> DenseArrayBase[IntegerType]:
    """The numbers of operands of both kinds, as xDSL has them."""
    return DenseArrayBase.from_list(i32, [buffers, indices])


def _buffer_count(op: AccessOp) -> int:
    """The first of the numbers of operands: 32 bits, the lowest byte first."""
    segments: Any = op.properties[_SEGMENTS]
    return int.from_bytes(segments.data.data[:4], "little")


def _buffers(op: AccessOp) -> Sequence[SSAValue]:
    return op.operands[: _buffer_count(op)]


def _indices(op: AccessOp) -> Sequence[SSAValue]:
    return op.operands[_buffer_count(op) :]


def space_of(buffer: SSAValue) -> str:
    """Memory space of a buffer: sbuf, psum or dram (a memref without a space is dram)."""
    memref: Any = buffer.type
    space = memref.memory_space
    return str(space.data) if isinstance(space, MemorySpaceAttr) else "dram"


def buffer_shape(buffer: SSAValue) -> tuple[int, ...]:
    """Shape of a buffer; on chip the first dimension is the partition."""
    memref: Any = buffer.type
    return memref.get_shape()


def verify_allocation(buffer: SSAValue, copies: int) -> None:
    """Static shape; on chip at most 128 partitions; at least one copy."""
    shape = buffer_shape(buffer)
    if any(size < 0 for size in shape):
        raise VerifyException(f"{buffer.type} has a dynamic dimension")
    if space_of(buffer) != "dram" and not shape:
        raise VerifyException(f"{buffer.type} has no partition dimension")
    if space_of(buffer) != "dram" and shape[0] > MAX_PARTITIONS:
        raise VerifyException(f"{shape[0]} partitions exceed {MAX_PARTITIONS}")
    if copies < 1:
        raise VerifyException(f"{copies} copies, there must be at least 1")


def dtype_name_of(buffer: SSAValue) -> str:
    """Element type of a buffer by its name in the dtype table."""
    return dtype_of(cast("MemRefType[Attribute]", buffer.type).element_type).name


AccessOpT = TypeVar("AccessOpT", bound=AccessOp)


def access_op_class(
    op_name: str, roles: tuple[OperandDef, ...], fields: tuple[FieldDef, ...], doc: str, base: type[AccessOpT]
) -> type[AccessOpT]:
    """The op class `op_name` with the given operand and field tables."""
    from xdsl.irdl import irdl_op_definition

    class_name = "".join(part.capitalize() for part in op_name.split(".")[1].split("_")) + "Op"
    body: dict[str, Any] = {"name": op_name, "ROLES": roles, "FIELDS": fields}
    body |= {"__doc__": doc, "__module__": base.__module__, "__annotations__": {"ROLES": ClassVar, "FIELDS": ClassVar}}
    made = cast("type[AccessOpT]", irdl_op_definition(type(class_name, (base,), body)))
    # xDSL's own accessors decode the numbers of operands whenever they are asked, with much ado.
    for name, accessor in (("buffers", _buffers), ("indices", _indices)):
        setattr(made, name, property(accessor))
    return made

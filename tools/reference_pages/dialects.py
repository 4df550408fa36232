"""The pages of the dialects: each operation with its docstring, its parts and what its verifier demands."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from types import ModuleType

from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import Attribute, Dialect, Operation

import neuron_dialects.access_ops
import neuron_dialects.graph
import neuron_dialects.neuron
import neuron_dialects.nisa
import neuron_dialects.tile
from neuron_dialects.access_ops import AccessOp
from neuron_dialects.graph import ComputeOp
from neuron_dialects.isa import INSTRUCTIONS, FieldDef, OperandDef
from neuron_dialects.isa.program import CONTROL_KINDS
from neuron_dialects.nisa import NISA_OPS
from neuron_dialects.tile import TILE_INSTRUCTIONS, TILE_OPS, TileOp
from tools.reference_pages.constraints import operation_table, traits_text
from tools.reference_pages.markdown import bullets, code, codes, docstring, escaped, fenced, page, summary, table
from tools.reference_pages.source_text import field_docstrings, refusals

_PACKAGE = "neuron_dialects"
_NISA_EXAMPLE = (
    "nisa.activation on act dst %y[0:128][0 : 512] data %x[0:128][0 : 512] {func = exp} wait(pe >= %i + 1) signal(act)"
)


def graph_page() -> str:
    """The page of the graph dialect."""
    operations = list(neuron_dialects.graph.Graph.operations)
    return page(
        "The graph dialect",
        docstring(neuron_dialects.graph),
        "An operation that computes has one result, `result`, whose type its operands and properties determine: the"
        " verifier refuses any other, besides what stands under each operation. Code and … in messages are figures.",
        _contents(operations),
        *(_operation(operation) for operation in operations),
        *_attributes(neuron_dialects.graph.Graph),
    )


def neuron_page() -> str:
    """The page of the neuron dialect."""
    dialect = neuron_dialects.neuron.Neuron
    return page(
        "The neuron dialect",
        docstring(neuron_dialects.neuron),
        table(("attribute", "meaning"), _attributes_by_name(neuron_dialects.neuron)),
        *(_operation(operation) for operation in dialect.operations),
        *_attributes(dialect),
    )


def tile_page() -> str:
    """The page of the tile dialect."""
    others = [operation for operation in neuron_dialects.tile.Tile.operations if not issubclass(operation, AccessOp)]
    return page(
        "The tile dialect",
        docstring(neuron_dialects.tile),
        "## Operations on views",
        "Operands are views of buffers, written after their role; fields in braces differ from their defaults. Each"
        " operation has the operands, fields and meaning of the instruction that it becomes ([ISA](isa.md)), without"
        " its engine and its size limits.",
        docstring(neuron_dialects.access_ops),
        table(
            ("operation", "becomes", "what it does", "operands", "fields"),
            (_tile_row(TILE_OPS[short], name) for short, name in TILE_INSTRUCTIONS.items()),
        ),
        "`?` marks an operand that may be absent.",
        _verifier(AccessOp),
        *(_operation(operation) for operation in others),
        *_attributes(neuron_dialects.tile.Tile),
    )


def _tile_row(operation: type[TileOp], instruction: str) -> tuple[str, str, str, str, str]:
    link = f"[`{instruction}`](isa.md#{instruction})"
    meaning = escaped(INSTRUCTIONS[instruction].summary)
    return code(operation.name), link, meaning, roles_text(operation.ROLES), fields_text(operation.FIELDS)


def nisa_page() -> str:
    """The page of the nisa dialect."""
    others = [operation for operation in neuron_dialects.nisa.Nisa.operations if not issubclass(operation, AccessOp)]
    return page(
        "The nisa dialect",
        docstring(neuron_dialects.nisa),
        "## Instructions",
        "One operation for each instruction of [the ISA table](isa.md), which has their operands, fields, limits and"
        " cost; the verifier refuses what breaks a limit on the module's target. Behind the name stands the engine, for"
        " a DMA the engine that triggers it and its ring; behind the fields, what it waits for and the counter that it"
        " bumps:",
        fenced(_NISA_EXAMPLE),
        table(
            ("operation", "what it does"),
            ((f"[`{op.name}`](isa.md#{name})", escaped(op.DEFINITION.summary)) for name, op in NISA_OPS.items()),
        ),
        *(_operation(operation) for operation in others),
        "## Control instructions",
        "`nisa.control` is one of these; registers are written `r0`, labels `L0`.",
        table(("instruction", "operands"), ((code(name), codes(roles)) for name, roles in _control())),
        *_attributes(neuron_dialects.nisa.Nisa),
    )


def roles_text(roles: Sequence[OperandDef]) -> str:
    """Operand roles in one line: `dst` out, `bias`? in."""
    return ", ".join(f"{code(role.name)}{'?' if role.optional else ''} {role.direction}" for role in roles)


def fields_text(fields: Sequence[FieldDef]) -> str:
    """Fields in one line, with their defaults."""
    return ", ".join(f"{code(field.name)} = {default_text(field)}" for field in fields)


def default_text(field: FieldDef) -> str:
    """The default of a field, as it is written in assembly."""
    default = field.default
    return str(default).lower() if isinstance(default, bool) else str(default)


def _control() -> Iterator[tuple[str, Sequence[str]]]:
    yield from CONTROL_KINDS.items()
    yield from ((name, roles) for name, roles in neuron_dialects.nisa.CONTROL.items() if name not in CONTROL_KINDS)


def _contents(operations: Sequence[type[Operation]]) -> str:
    return ", ".join(f"[`{operation.name}`](#{_anchor(operation.name)})" for operation in operations)


def _anchor(heading: str) -> str:
    """The anchor that a heading of one code span gets."""
    return "".join(c for c in heading.lower() if c.isalnum() or c in "-_")


def _operation(operation: type[Operation]) -> str:
    """The section of one operation."""
    traits = traits_text(operation)
    parts = [
        f"## `{operation.name}`",
        docstring(operation),
        operation_table(operation),
        f"Traits: {traits}." if traits else "",
        _verifier(operation),
    ]
    return "\n\n".join(part for part in parts if part)


def _verifier(operation: type[Operation]) -> str:
    """What the verifier refuses beyond wrong types of operands and properties."""
    if issubclass(operation, ComputeOp):
        check = getattr(operation, "infer", operation.inferred)
    else:
        # xDSL wraps the method that a class defines.
        check = inspect.getclosurevars(operation.verify_).nonlocals.get("custom_verify", operation.verify_)
    messages = refusals(check, _PACKAGE)
    return f"The verifier refuses:\n\n{bullets(map(escaped, messages))}" if messages else ""


def _attributes(dialect: Dialect) -> Iterator[str]:
    """The sections of a dialect's attributes and types."""
    attributes = list(dialect.attributes)
    if attributes:
        yield "## Attributes"
        yield table(("attribute", "meaning", "values"), map(_attribute_row, attributes))


def _attributes_by_name(module: ModuleType) -> Iterator[tuple[str, str]]:
    """The names of attributes that a module defines as constants, with what they mean."""
    for name, text in field_docstrings(module).items():
        if name.endswith("_ATTRIBUTE"):
            yield code(getattr(module, name)), escaped(text)


def _attribute_row(attribute: type[Attribute]) -> tuple[str, str, str]:
    values = ""
    if issubclass(attribute, EnumAttribute):
        values = codes(member.value for member in attribute.enum_type)
    return code(attribute.name), summary(attribute), values

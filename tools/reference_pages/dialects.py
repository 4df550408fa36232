"""The pages of the dialects: each operation with its docstring, its parts and what its verifier demands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from types import FunctionType
from typing import Any, cast

from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import Attribute, Dialect, Operation

import neuron_dialects.graph
import neuron_dialects.graph.shapes
import neuron_dialects.neuron
import neuron_dialects.nisa
import neuron_dialects.tile
from neuron_dialects.access_ops import AccessOp
from neuron_dialects.graph import ComputeOp
from neuron_dialects.isa import FieldDef, OperandDef
from neuron_dialects.isa.program import CONTROL_KINDS
from neuron_dialects.nisa import NISA_OPS
from neuron_dialects.tile import TILE_INSTRUCTIONS, TILE_OPS
from tools.reference_pages.constraints import operation_table, traits_text
from tools.reference_pages.markdown import bullets, code, codes, docstring, escaped, page, summary, table


def graph_page() -> str:
    """The page of the graph dialect."""
    operations = list(neuron_dialects.graph.Graph.operations)
    return page(
        "The graph dialect",
        docstring(neuron_dialects.graph),
        "Every operation below that computes has one result, `result`, whose type its operands and properties"
        " determine; the rules under *Verifier* say how, and are those that the verifier checks.",
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
        _views_syntax(),
        table(
            ("operation", "becomes", "operands", "fields"),
            (
                (code(operation.name), f"[`{name}`](isa.md#{name})", roles_text(operation.ROLES), fields_text(operation.FIELDS))
                for operation, name in ((TILE_OPS[short], TILE_INSTRUCTIONS[short]) for short in TILE_INSTRUCTIONS)
            ),
        ),
        "`?` marks an operand that may be absent. " + _verifier_of(AccessOp),
        *(_operation(operation) for operation in others),
        *_attributes(neuron_dialects.tile.Tile),
    )


def nisa_page() -> str:
    """The page of the nisa dialect."""
    others = [operation for operation in neuron_dialects.nisa.Nisa.operations if not issubclass(operation, AccessOp)]
    return page(
        "The nisa dialect",
        docstring(neuron_dialects.nisa),
        "## Instructions",
        "One operation for each instruction of [the ISA table](isa.md), which has their operands, fields, limits and"
        f" cost. Behind the name stands the engine (`on act`), for a DMA also the ring. {summary(neuron_dialects.nisa.Sync)}"
        f" {_verifier_of(neuron_dialects.nisa.NisaOp)}",
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
    return ", ".join(f"{code(field.name)} = {field.default}" for field in fields)


def _control() -> Iterator[tuple[str, Sequence[str]]]:
    yield from CONTROL_KINDS.items()
    yield from ((name, roles) for name, roles in neuron_dialects.nisa.CONTROL.items() if name not in CONTROL_KINDS)


def _views_syntax() -> str:
    import neuron_dialects.access_ops

    return docstring(neuron_dialects.access_ops)


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
    """What the verifier demands beyond the types of operands and properties."""
    if issubclass(operation, ComputeOp):
        rules = [docstring(rule).replace("\n", " ") for rule in _shape_rules(operation)]
        return f"Verifier:\n\n{bullets(rules)}" if rules else ""
    own = _verifier_of(operation)
    return f"Verifier: {own}" if own else ""


def _verifier_of(operation: type[Operation]) -> str:
    return summary(operation.__dict__.get("verify_"))


def _shape_rules(operation: type[ComputeOp]) -> list[Callable[..., Any]]:
    """The functions that state the operator's rule: those that its `infer` calls, of the shapes and of its module."""
    rules: dict[Callable[..., Any], None] = {}
    infer = cast("Any", operation).infer if hasattr(operation, "infer") else operation.inferred
    for name in infer.__code__.co_names:
        function = infer.__globals__.get(name)
        if isinstance(function, FunctionType) and _states_a_rule(function, infer.__module__):
            rules[function] = None
    return list(rules)


def _states_a_rule(function: FunctionType, module: str) -> bool:
    is_near = function.__module__ in (module, neuron_dialects.graph.shapes.__name__)
    return is_near and bool(function.__doc__) and function is not neuron_dialects.graph.shapes.text


def _attributes(dialect: Dialect) -> Iterator[str]:
    """The sections of a dialect's attributes and types."""
    attributes = list(dialect.attributes)
    if attributes:
        yield "## Attributes"
        yield table(("attribute", "meaning", "values"), map(_attribute_row, attributes))


def _attribute_row(attribute: type[Attribute]) -> tuple[str, str, str]:
    values = ""
    if issubclass(attribute, EnumAttribute):
        values = codes(member.value for member in attribute.enum_type)
    return code(attribute.name), summary(attribute), values

"""What an operation definition says about its operands, properties and results, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    FloatAttr,
    IndexType,
    IntegerAttr,
    MemRefType,
    StringAttr,
    SymbolNameConstraint,
    SymbolRefAttr,
    TensorType,
    UnitAttr,
)
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import Attribute, Operation
from xdsl.irdl import BaseAttr, IRDLOperation, OptOperandDef, OptPropertyDef, VarOperandDef, VarResultDef

from tools.reference_pages.markdown import code, codes, table

_NAMES: dict[type[Attribute], str] = {
    ArrayAttr: "array",
    DenseArrayBase: "list of integers",
    FloatAttr: "number",
    IndexType: "loop variable",
    IntegerAttr: "integer",
    MemRefType: "buffer",
    StringAttr: "string",
    SymbolRefAttr: "symbol",
    TensorType: "tensor",
    UnitAttr: "marker",
}
_STRUCTURE = ("operandSegmentSizes", "resultSegmentSizes")
"""Properties that xDSL keeps for itself."""


def operation_table(operation: type[Operation]) -> str:
    """Operands, properties, results and regions of an operation, one row each."""
    assert issubclass(operation, IRDLOperation)
    return table(("name", "what", "type"), _rows(operation))


def _rows(operation: type[IRDLOperation]) -> Iterator[tuple[str, str, str]]:
    definition = operation.get_irdl_definition()
    for name, operand in definition.operands:
        many = "operands, any number" if isinstance(operand, VarOperandDef) else "operand"
        yield code(name), "optional operand" if isinstance(operand, OptOperandDef) else many, _text(operand.constr)
    for name, entry in definition.properties.items():
        if name not in _STRUCTURE:
            kind = "optional property" if isinstance(entry, OptPropertyDef) else "property"
            yield code(name), kind, _text(entry.constr)
    for name, result in definition.results:
        many = "results, any number" if isinstance(result, VarResultDef) else "result"
        yield code(name), many, _text(result.constr)
    for name, _ in definition.regions:
        yield code(name), "region", "one block"


def _text(constraint: Any) -> str:
    """What a constraint admits. The constraint of a range of values is unwrapped to that of one of them."""
    while not hasattr(constraint, "get_bases"):
        inner = getattr(constraint, "constraint", None) or getattr(constraint, "constr", None)
        if inner is None:
            return "any"
        constraint = inner
    if isinstance(constraint, SymbolNameConstraint):
        return "symbol name"
    bases = constraint.get_bases()
    if bases is None:
        return "any"
    names = sorted({_base_text(base, exactly=isinstance(constraint, BaseAttr)) for base in bases})
    return " or ".join(names)


def _base_text(base: type[Attribute], *, exactly: bool) -> str:
    if issubclass(base, EnumAttribute):
        return f"one of {codes(member.value for member in base.enum_type)}"
    if base is IntegerAttr and not exactly:
        return "flag"
    return _NAMES.get(base) or code(base.name)


def traits_text(operation: type[Operation]) -> str:
    """Names of the traits of an operation."""
    return codes(sorted(type(trait).__name__ for trait in operation.traits.traits))

"""The page of the instruction set."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType

import neuron_dialects.cost
import neuron_dialects.isa.definitions
import neuron_dialects.isa.limits
from neuron_dialects.isa import ENUMS, INSTRUCTIONS, FieldDef, InstructionDef, OperandDef
from neuron_dialects.isa.limits import CHECKS_COMMON
from neuron_dialects.isa.model import CheckFunction
from tools.reference_pages.dialects import default_text
from tools.reference_pages.markdown import bullets, code, codes, docstring, escaped, page, summary, table

_SHAPES = {
    "tile": "partitions x free",
    "column": "one element per partition",
    "free": "any",
}


def isa_page() -> str:
    """The page of the instruction set."""
    return page(
        "The instruction set",
        docstring(neuron_dialects.isa.definitions),
        "MIN_II is the target's `min_issue_cycles`. An instruction keeps its engine busy for its cost; its result can"
        " be used a latency later ([targets](targets.md)).",
        "## All instructions",
        table(
            ("instruction", "opcode", "engines", "what it does"),
            (
                (f"[`{name}`](#{name})", f"{d.opcode:#04x}", codes(d.engines), escaped(d.summary))
                for name, d in INSTRUCTIONS.items()
            ),
        ),
        *(_instruction(definition) for definition in INSTRUCTIONS.values()),
        "## Limits of every instruction",
        bullets(_limits(CHECKS_COMMON)),
        table(("limit", "value"), _numbers(neuron_dialects.isa.limits)),
        "## Enumerations",
        "The position of a member is its encoding.",
        table(("enumeration", "members"), ((code(name), codes(members)) for name, members in ENUMS.items())),
        "## Time",
        *_time(),
    )


def _numbers(module: ModuleType) -> Iterator[tuple[str, str]]:
    """The constants of a module that are numbers."""
    for name, value in vars(module).items():
        if name.isupper() and isinstance(value, int):
            yield name.lower().replace("_", " "), str(value)


def _instruction(definition: InstructionDef) -> str:
    """The section of one instruction."""
    runs = "a DMA ring" if definition.is_dma else codes(definition.engines)
    parts = [
        f"## {definition.name}",
        f"{escaped(definition.summary)}.",
        f"Runs on {runs}. Source: {definition.source}. Cost: {summary(definition.cost)}",
        table(("operand", "direction", "memory", "shape", ""), map(_operand_row, definition.operands)),
        table(("field", "kind", "default", "meaning"), map(_field_row, definition.fields)),
        f"Limits:\n\n{bullets(_limits(definition.checks))}" if definition.checks else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _operand_row(operand: OperandDef) -> tuple[str, str, str, str, str]:
    shape = _SHAPES[operand.shape]
    return code(operand.name), operand.direction, codes(operand.spaces), shape, "optional" if operand.optional else ""


def _field_row(field: FieldDef) -> tuple[str, str, str, str]:
    kind = f"[{field.kind}](#enumerations)" if field.kind in ENUMS else field.kind
    return code(field.name), kind, code(default_text(field)), escaped(field.doc)


def _limits(checks: Iterable[CheckFunction]) -> Iterator[str]:
    """What each check demands. A check that was made for some operands is told with them."""
    for check in checks:
        maker, is_made, _ = check.__qualname__.partition(".<locals>")
        if not is_made:
            yield summary(check)
            continue
        subject = ", ".join(_arguments(check))
        yield f"{subject}: {summary(getattr(sys.modules[check.__module__], maker))}"


def _arguments(check: CheckFunction) -> Iterator[str]:
    """What a check was made with: operand names as code, numbers with their names."""
    for name, value in inspect.getclosurevars(check).nonlocals.items():
        if isinstance(value, tuple):
            yield codes(value)
        else:
            yield code(value) if isinstance(value, str) else f"{name} {value}"


def _time() -> Iterator[str]:
    module = neuron_dialects.cost
    yield docstring(module)
    for function in (module.issue_ns, module.latency_ns, module.dma_cost, module.roofline_ns):
        yield f"**{code(function.__name__)}**: {docstring(function)}"

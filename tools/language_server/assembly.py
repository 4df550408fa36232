"""Assembly in an editor: the assembler's own problems, rows of the instruction table, names of the program."""

from __future__ import annotations

import re
from collections.abc import Sequence

from neuron_dialects.isa import INSTRUCTIONS, InstructionDef
from neuron_dialects.isa.program import CONTROL_KINDS
from runtime.assembly import AssemblyError, assemble
from runtime.assembly.assembler import DIRECTIVES
from tools.language_server.features import Mistake, Range, places


def mistakes(text: str) -> list[Mistake]:
    """Every problem that the assembler finds."""
    try:
        assemble(text)
    except AssemblyError as error:
        return [
            Mistake(
                Range(problem.line - 1, problem.column - 1, problem.length),
                f"{problem.message}\nhelp: {problem.help}" if problem.help else problem.message,
                error.code,
            )
            for problem in error.problems
        ]
    return []


def meaning(word: str) -> str | None:
    """An instruction's row of the table, or the numbers of a control instruction."""
    if word in INSTRUCTIONS:
        return instruction_text(INSTRUCTIONS[word])
    if word in CONTROL_KINDS:
        return f"**{word}** {', '.join(CONTROL_KINDS[word])}".rstrip()
    return None


def instruction_text(definition: InstructionDef) -> str:
    """An instruction as Markdown: what it does, who executes it, what it takes, what it costs."""
    executes = "a DMA ring" if definition.is_dma else ", ".join(definition.engines)
    parts = [f"**{definition.name}** on {executes}: {definition.summary}"]
    for operand in definition.operands:
        optional = ", optional" if operand.optional else ""
        parts.append(f"- `{operand.name}` {operand.direction}, {' or '.join(operand.spaces)}{optional}")
    parts += [
        f"- `{field.name}` = {field.default} ({field.kind}){': ' + field.doc if field.doc else ''}"
        for field in definition.fields
    ]
    cost = " ".join((definition.cost.__doc__ or "").split())
    return "\n".join([*parts, *(["", f"Cost: {cost}"] if cost else [])])


def definition(lines: Sequence[str], line: int, word: str) -> Range | None:
    """The label of this queue, the semaphore or the variable of this program that a word names."""
    first, last = _part(lines, line, r"\s*\.(?:queue|subgraph)\b")
    name = re.escape(word.lstrip("@"))
    for found in places(lines[first:last], rf"^\s*({name})(?:\s+0x[0-9a-fA-F]+)?:(?![0-9])"):
        return Range(found.line + first, found.column, found.length)
    first, last = _part(lines, line, r"\s*\.subgraph\b")
    declared = rf'^\s*\.(?:semaphore(?:\s+\d+)?\s+({name})(?![\w.-])|variable(?:\s+\d+)?\s+"?({name})"?\s)'
    for number in range(first, last):
        if found := re.search(declared, lines[number]):
            group = 1 if found[1] is not None else 2
            return Range(number, found.start(group), len(found[group]))
    return None


def _part(lines: Sequence[str], line: int, begins: str) -> tuple[int, int]:
    """The lines around a line up to those that begin another part of the text."""
    starts = [number for number, text in enumerate(lines) if re.match(begins, text)]
    first = max((number for number in starts if number <= line), default=0)
    return first, min((number for number in starts if number > line), default=len(lines))


def proposals(text: str, line: int) -> list[tuple[str, str]]:
    """Instructions and directives; behind a mnemonic its operands and fields."""
    words = re.findall(r"[\w.]+", text.split("\n")[line]) if line < text.count("\n") + 1 else []
    known = [INSTRUCTIONS[word] for word in words if word in INSTRUCTIONS]
    if known:
        roles = [(operand.name, f"operand, {operand.direction}") for operand in known[0].operands]
        return roles + [(field.name, f"field, {field.kind}") for field in known[0].fields]
    rows = [(name, row.summary) for name, row in INSTRUCTIONS.items()]
    rows += [(name, ", ".join(numbers)) for name, numbers in CONTROL_KINDS.items()]
    return rows + [(name, "directive") for name in DIRECTIVES]

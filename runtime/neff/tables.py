"""The tables of docs/neff.md, made from the definitions that the encoder and the header are made from.

A page marks where a table belongs with `<!-- table: NAME -->` and `<!-- end -->`; `fill_tables` puts the present tables
there. `python -m runtime.neff.tables docs/neff.md` does so to a file.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from neuron_dialects.dtypes import DTYPES
from neuron_dialects.errors import ERROR_CODES
from neuron_dialects.isa import ENUMS, INSTRUCTIONS
from neuron_dialects.isa.program import CONTROL_KINDS
from runtime.neff.header import HEADER_LAYOUT
from runtime.neff.records import (
    AFFINE,
    CONTROL_OPCODES,
    DIMENSION,
    ENGINE_CODES,
    FIELD_BYTES,
    OPERAND,
    QUEUE_HEADER,
    RECORD_HEADER,
    SHORT_CONTROL,
    SHORT_CONTROL_OPCODES,
    WAIT,
)

_MARKED = re.compile(r"(<!-- table: ([a-z_]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def header_table() -> str:
    """The header of the file."""
    return HEADER_LAYOUT.table()


def record_tables() -> str:
    """The layouts that a queue is made of."""
    layouts = {
        "Queue header": QUEUE_HEADER,
        "Record header": RECORD_HEADER,
        "Short control instruction": SHORT_CONTROL,
        "Wait": WAIT,
        "Operand": OPERAND,
        "Dimension (outermost first)": DIMENSION,
        "Affine field": AFFINE,
    }
    return "\n\n".join(f"**{name}**, {layout.size_bytes} bytes\n\n{layout.table()}" for name, layout in layouts.items())


def encoding_table() -> str:
    """Opcodes of all instructions with the bits of their operands and fields, then every code that they use."""
    instructions = [
        (
            f"{definition.opcode:#04x}",
            f"`{definition.name}`",
            " ".join(definition.engines),
            _bits([operand.name + "?" * operand.optional for operand in definition.operands]),
            _bits([f"{f.name}: {f.kind}" for f in definition.fields]),
        )
        for definition in INSTRUCTIONS.values()
    ]
    control = [
        (f"{CONTROL_OPCODES[kind]:#04x}", f"{SHORT_CONTROL_OPCODES[kind]:#04x}", f"`{kind}`", " ".join(roles))
        for kind, roles in CONTROL_KINDS.items()
    ]
    codes = [("engine", _codes(ENGINE_CODES))]
    codes += [(f"`{name}`", _codes(members)) for name, members in ENUMS.items()]
    codes += [("element type", ", ".join(f"{row.code:#04x} {row.name}" for row in DTYPES))]
    codes += [("field bytes", ", ".join(f"{kind} {size}" for kind, size in FIELD_BYTES.items()))]
    return "\n\n".join(
        (
            _table(
                ("opcode", "instruction", "engines", "operands (bit name, ? optional)", "fields (bit name: kind)"),
                instructions,
            ),
            _table(("opcode", "short form", "control instruction", "numbers"), control),
            _table(("code", "values"), codes),
        )
    )


def error_table() -> str:
    """The error codes of the format."""
    rows = [(f"`{code}`", meaning) for code, meaning in ERROR_CODES.items() if code.startswith("NX-NEFF-")]
    return _table(("code", "meaning"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "header": header_table,
    "records": record_tables,
    "encoding": encoding_table,
    "errors": error_table,
}
"""Name in a page's marks -> what makes the table."""


def fill_tables(page: str) -> str:
    """`page` with the present table between each pair of marks."""
    return _MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", page)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bits(names: Sequence[str]) -> str:
    return ", ".join(f"{bit} {name}" for bit, name in enumerate(names))


def _codes(members: Sequence[str]) -> str:
    return ", ".join(f"{code} {member}" for code, member in enumerate(members))


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(fill_tables(path.read_text(encoding="utf-8")), encoding="utf-8")

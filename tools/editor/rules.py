"""The words of our MLIR and our assembly as rules, from which Pygments lexers and editor grammars are made.

A rule is a kind of word and a regular expression; at each place of a text the first rule that matches counts. The
expressions are of the part that Python and TextMate (Oniguruma) have in common. Names of instructions, element types,
engines and the like come from their tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from neuron_dialects.dtypes import DTYPES
from neuron_dialects.isa import ENUMS, INSTRUCTIONS
from neuron_dialects.isa.model import SPACES
from neuron_dialects.isa.program import CONTROL_KINDS
from neuron_dialects.target import target_names
from neuron_dialects.universe import DIALECTS
from runtime.assembly.assembler import DIRECTIVES
from runtime.neff.program_check import VARIABLE_KINDS
from runtime.neff.records import ENGINE_CODES


@dataclass(frozen=True)
class Rule:
    """Text that matches `pattern` is of a `kind`, a key of `KINDS`."""

    kind: str
    pattern: str


KINDS: dict[str, tuple[str, str]] = {
    "comment": ("Comment.Single", "comment.line"),
    "string": ("Literal.String", "string.quoted.double"),
    "number": ("Literal.Number", "constant.numeric"),
    "constant": ("Keyword.Constant", "constant.language"),
    "keyword": ("Keyword", "keyword.control"),
    "own operation": ("Name.Builtin", "support.function"),
    "operation": ("Name.Function", "entity.name.function"),
    "type": ("Keyword.Type", "storage.type"),
    "attribute": ("Name.Decorator", "entity.other.attribute-name"),
    "value": ("Name.Variable", "variable.other"),
    "symbol": ("Name.Entity", "entity.name.tag"),
    "label": ("Name.Label", "entity.name.label"),
    "role": ("Name.Attribute", "variable.parameter"),
    "operator": ("Operator", "keyword.operator"),
    "punctuation": ("Punctuation", "punctuation"),
    "name": ("Name", "meta.identifier"),
    "space": ("Text.Whitespace", ""),
}
"""Kind -> its Pygments token, its TextMate scope (none: it is not coloured)."""


def _words(words: Iterable[str]) -> str:
    """One of these words, and no longer name."""
    longest_first = sorted(set(words), key=lambda word: (-len(word), word))
    return rf"(?<![\w.$-])(?:{'|'.join(word.replace('.', chr(92) + '.') for word in longest_first)})(?![\w.$])"


_STRING = r'"(?:\\.|[^"\\])*"'
_NUMBER = r"(?<![\w.])-?(?:0x[0-9a-fA-F]+|[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)(?![\w])"
_SPACE = r"\s+"
_ROLES = sorted({operand.name for row in INSTRUCTIONS.values() for operand in row.operands})
_FIELDS = sorted({field.name for row in INSTRUCTIONS.values() for field in row.fields})
_MEMBERS = sorted({member for members in ENUMS.values() for member in members})

ASSEMBLY: tuple[Rule, ...] = (
    Rule("space", _SPACE),
    Rule("comment", r";.*"),
    Rule("string", _STRING),
    Rule("keyword", _words(DIRECTIVES)),
    Rule("label", r"(?<![\w.])[A-Za-z_][\w.-]*(?=(?:[ \t]+0x[0-9a-fA-F]+)?:(?![0-9]))"),
    Rule("own operation", _words((*INSTRUCTIONS, *CONTROL_KINDS))),
    Rule("keyword", _words(("wait", "signal", "loc", "ring", "step"))),
    Rule("value", r"(?<![\w.])r[0-9]+(?![\w.])"),
    Rule("symbol", r"@[\w.-]+"),
    Rule("type", _words((*SPACES, *(row.name for row in DTYPES), *VARIABLE_KINDS))),
    Rule("role", _words((*_ROLES, *_FIELDS))),
    Rule("constant", _words(("true", "false", "inf", "nan", *_MEMBERS, *ENGINE_CODES, *target_names()))),
    Rule("number", _NUMBER),
    Rule("operator", r">=|[=+-]"),
    Rule("punctuation", r"[\[\]{}(),:@]"),
    Rule("name", r"\.?[A-Za-z_][\w.-]*"),
)
"""Assembly (docs/assembly.md)."""

MLIR: tuple[Rule, ...] = (
    Rule("space", _SPACE),
    Rule("comment", r"//.*"),
    Rule("string", _STRING),
    Rule("symbol", rf"@(?:[\w.$-]+|{_STRING})"),
    Rule("value", r"%[\w.$-]+(?:#[0-9]+)?"),
    Rule("label", r"\^[\w.$-]+"),
    Rule("type", r"![A-Za-z_][\w.$]*"),
    Rule("attribute", r"#[A-Za-z_][\w.$]*"),
    Rule("own operation", rf"(?<![\w.$])(?:{'|'.join(sorted(DIALECTS))})\.[\w.$]+"),
    Rule("operation", r"(?<![\w.$])[A-Za-z_]\w*(?:\.[\w$]+)+"),
    Rule("type", r"(?<![\w.$])(?:tensor|memref|vector|index|none|tuple|[us]?i[0-9]+|bf16|tf32|f[0-9]+\w*)(?![\w.$])"),
    # A shape: 1x3x224x224xf32, ?x4xbf16.
    Rule("type", r"(?<![\w.])(?:[0-9?]+x)+(?:[us]?i[0-9]+|bf16|tf32|f[0-9]+\w*|index|!?[a-z]\w*)(?![\w])"),
    Rule("keyword", _words((
        "module", "attributes", "loc", "to", "step", "iter_args", "ring", "on", "wait", "signal", "private", "public",
        "dense", "affine_map", "unit", "else", "do",
    ))),
    Rule("constant", _words(("true", "false", "inf", "nan"))),
    Rule("number", _NUMBER),
    Rule("role", _words((*_ROLES, *_FIELDS, "axis", "axes", "epsilon", "keep_dims", "kernel", "strides", "pads"))),
    Rule("operator", r"->|>=|[=+*-]"),
    Rule("punctuation", r"[\[\]{}()<>,:?|&/#!.;$^@%~]"),
    Rule("name", r"[A-Za-z_][\w.$-]*|[0-9]\w*"),
)  # fmt: skip
"""MLIR with our dialects."""

LANGUAGES: dict[str, tuple[str, tuple[Rule, ...], tuple[str, ...]]] = {
    "neuron-mlir": ("MLIR with NeuronCore dialects", MLIR, (".mlir",)),
    "neuron-asm": ("NeuronCore assembly", ASSEMBLY, (".nasm",)),
}
"""Language -> what it is called, its rules, the endings of its files."""

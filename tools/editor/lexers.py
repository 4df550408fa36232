"""Pygments lexers for our MLIR (`mlir`) and our assembly (`neuron-asm`), made from the rules.

Installing the toolkit registers them: the manual, Sphinx, `pygmentize -l neuron-asm` and Jupyter find them by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pygments.lexer import RegexLexer
from pygments.token import string_to_tokentype

from tools.editor.rules import ASSEMBLY, KINDS, LANGUAGES, MLIR, Rule


def _states(rules: tuple[Rule, ...]) -> dict[str, list[Any]]:
    return {"root": [(rule.pattern, string_to_tokentype(KINDS[rule.kind][0])) for rule in rules]}


class NeuronMlirLexer(RegexLexer):
    """MLIR with the toolkit's dialects."""

    name: ClassVar[str] = LANGUAGES["neuron-mlir"][0]
    aliases: ClassVar[Sequence[str]] = ["neuron-mlir", "mlir"]
    filenames: ClassVar[Sequence[str]] = ["*.mlir"]
    tokens: ClassVar[dict[str, list[Any]]] = _states(MLIR)


class NeuronAssemblyLexer(RegexLexer):
    """Assembly of NeuronCore programs."""

    name: ClassVar[str] = LANGUAGES["neuron-asm"][0]
    aliases: ClassVar[Sequence[str]] = ["neuron-asm"]
    filenames: ClassVar[Sequence[str]] = ["*.nasm"]
    tokens: ClassVar[dict[str, list[Any]]] = _states(ASSEMBLY)

"""Colours: every text of ours is understood by both lexers, every instruction has its colour, and the two agree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pygments.lexers import get_lexer_by_name
from pygments.token import Token

from neuron_dialects.isa import INSTRUCTIONS
from neuron_dialects.isa.program import CONTROL_KINDS
from runtime.neff.text import program_text
from tests.runtime.neff.samples import matmul_program
from tools.editor.lexers import NeuronAssemblyLexer, NeuronMlirLexer
from tools.editor.rules import KINDS
from tools.editor.vscode import extension_files

ROOT = Path(__file__).parents[2]
KERNELS = sorted((ROOT / "examples" / "kernels").glob("*.nasm"))
EXTENSION = ROOT / "editors" / "vscode"


def kinds(lexer: Any, text: str) -> list[tuple[str, str]]:
    """(token, text) of everything but space."""
    return [(str(kind).removeprefix("Token."), word) for kind, word in lexer.get_tokens(text) if word.strip()]


def errors(lexer: Any, text: str) -> list[str]:
    return [word for kind, word in lexer.get_tokens(text) if kind is Token.Error]


# Nothing in the regression tests, the examples or a listing is unknown to the lexers.
def test_no_text_is_unknown() -> None:
    files = [*(ROOT / "tests" / "filecheck").rglob("*.mlir"), *(ROOT / "examples").rglob("*.mlir")]
    assert len(files) > 30
    unknown = {path.name: found for path in files if (found := errors(NeuronMlirLexer(), path.read_text("utf-8")))}
    assert unknown == {}
    for path in KERNELS:
        assert errors(NeuronAssemblyLexer(), path.read_text(encoding="utf-8")) == []
    assert errors(NeuronAssemblyLexer(), "\n".join(program_text(matmul_program("trn1")))) == []


def test_assembly() -> None:
    line = 'L2 0x000058: wait(act >= r0) nc_matmul dst psum f32 [0:64][0 : 128] {accumulate = 0} loc("a") ; note'
    assert kinds(NeuronAssemblyLexer(), line) == [
        ("Name.Label", "L2"), ("Literal.Number", "0x000058"), ("Punctuation", ":"), ("Name.Builtin", "wait"),
        ("Punctuation", "("), ("Keyword.Constant", "act"), ("Operator", ">="), ("Name.Variable", "r0"),
        ("Punctuation", ")"), ("Name.Builtin", "nc_matmul"), ("Name.Attribute", "dst"), ("Keyword.Type", "psum"),
        ("Keyword.Type", "f32"), ("Punctuation", "["), ("Literal.Number", "0"), ("Punctuation", ":"),
        ("Literal.Number", "64"), ("Punctuation", "]"), ("Punctuation", "["), ("Literal.Number", "0"),
        ("Punctuation", ":"), ("Literal.Number", "128"), ("Punctuation", "]"), ("Punctuation", "{"),
        ("Name.Attribute", "accumulate"), ("Operator", "="), ("Literal.Number", "0"), ("Punctuation", "}"),
        ("Keyword", "loc"), ("Punctuation", "("), ("Literal.String", '"a"'), ("Punctuation", ")"),
        ("Comment.Single", "; note"),
    ]  # fmt: skip


def test_mlir() -> None:
    line = '%0 = graph.unary relu %x : (tensor<1x4xf32>) -> tensor<1x4xf32> loc("a") // note'
    assert kinds(NeuronMlirLexer(), line)[:5] == [
        ("Name.Variable", "%0"), ("Operator", "="), ("Name.Builtin", "graph.unary"), ("Name", "relu"),
        ("Name.Variable", "%x"),
    ]  # fmt: skip
    assert ("Keyword.Type", "1x4xf32") in kinds(NeuronMlirLexer(), line)
    assert kinds(NeuronMlirLexer(), "func.func @main")[0] == ("Name.Function", "func.func")


@pytest.mark.parametrize("name", [*INSTRUCTIONS, *CONTROL_KINDS])
def test_every_instruction_has_its_colour(name: str) -> None:
    assert kinds(NeuronAssemblyLexer(), f"  {name} dst")[0] == ("Name.Builtin", name)


def textmate(grammar: dict[str, Any], line: str) -> Iterator[tuple[str, str]]:
    """(scope, text) as an editor finds them: the leftmost match, of the first pattern where several start there."""
    patterns = [(entry["name"], re.compile(entry["match"])) for entry in grammar["patterns"]]
    position = 0
    while position < len(line):
        found = [(m.start(), i, m) for i, (_, pattern) in enumerate(patterns) if (m := pattern.search(line, position))]
        if not found:
            return
        start, index, match = min(found, key=lambda entry: entry[:2])
        yield patterns[index][0], match.group()
        position = max(match.end(), start + 1)


# The editors' grammar gives every word the scope that belongs to its Pygments token.
def test_the_editors_agree_with_pygments() -> None:
    grammar = json.loads((EXTENSION / "syntaxes" / "neuron-asm.tmLanguage.json").read_text(encoding="utf-8"))
    scopes = {token: scope for token, scope in KINDS.values()}
    for line in KERNELS[0].read_text(encoding="utf-8").split("\n"):
        expected = [(f"{scopes[token]}.asm", word) for token, word in kinds(NeuronAssemblyLexer(), line)]
        assert [(scope, word) for scope, word in textmate(grammar, line) if word.strip()] == expected


def test_the_extension_is_up_to_date() -> None:
    for path, text in extension_files().items():
        assert (EXTENSION / path).read_text(encoding="utf-8") == text, "run `python -m tools.generate_docs`"
    package = json.loads((EXTENSION / "package.json").read_text(encoding="utf-8"))
    for entry in (*package["contributes"]["grammars"], *package["contributes"]["languages"]):
        assert (EXTENSION / (entry.get("path") or entry["configuration"])).is_file()


# With the toolkit installed Pygments finds the lexers by name; here by the entry points that pyproject.toml declares.
def test_lexers_are_declared() -> None:
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for lexer in (NeuronAssemblyLexer, NeuronMlirLexer):
        assert f'"tools.editor.lexers:{lexer.__name__}"' in declared
    assert get_lexer_by_name("python").name == "Python"

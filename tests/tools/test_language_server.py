"""The language server: what it says of a text, and the protocol with a client where its package is installed."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from neuron_dialects.isa import INSTRUCTIONS
from tools.in_process import run_in_process
from tools.language_server.features import Range, definition, meaning, mistakes, proposals, word_at
from tools.language_server.server import main

ROOT = Path(__file__).parents[2]
KERNEL = (ROOT / "examples" / "kernels" / "matmul.nasm").read_text(encoding="utf-8")
HAS_PYGLS = importlib.util.find_spec("pygls") is not None
MODULE = """func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %y = graph.unary relu %x : (tensor<4xf32>) -> tensor<4xf32>
  func.return %y : tensor<4xf32>
}
"""


def at(text: str, needle: str, occurrence: int = 0) -> tuple[int, int]:
    """Line and column of a piece of text."""
    position = -1
    for _ in range(occurrence + 1):
        position = text.index(needle, position + 1)
    return text.count("\n", 0, position), position - (text.rfind("\n", 0, position) + 1)


# Assembly: all mistakes, with the word marked.
def test_mistakes_of_assembly() -> None:
    assert mistakes("k.nasm", KERNEL) == []
    broken = KERNEL.replace("nc_matmul dst", "nc_matmul dist").replace("signal(c)", "signal(cc)")
    found = mistakes("k.nasm", broken)
    assert [(m.place, m.code) for m in found] == [
        (Range(*at(broken, "dist"), 4), "NX-ASM-001"),
        (Range(*at(broken, "cc)"), 2), "NX-ASM-001"),
    ]
    assert found[0].message.startswith("nc_matmul has no operand 'dist'\nhelp: ")


# MLIR: what parser and verifier say, at its place.
@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (MODULE.replace("relu", "rely"), 1, "Expected `abs`"),
        (MODULE.replace("return %y", "return %z"), 2, "%z"),
        (MODULE.replace("-> tensor<4xf32>\n", "-> tensor<5xf32>\n", 1), 2, "tensor<5xf32>"),
    ],
)
def test_mistakes_of_mlir(text: str, line: int, message: str) -> None:
    assert mistakes("m.mlir", MODULE) == []
    (found,) = mistakes("m.mlir", text)
    assert (found.code, found.place.line) == ("NX-IR-001", line)
    assert message in found.message


def test_meanings() -> None:
    shown = meaning("k.nasm", KERNEL, *at(KERNEL, "nc_matmul"))
    assert shown is not None
    assert "**nc_matmul** on pe: " in shown and "- `stationary` in, sbuf" in shown and "Cost: max(" in shown
    assert meaning("k.nasm", KERNEL, *at(KERNEL, "reg_move")) == "**reg_move** dst, value"
    assert meaning("k.nasm", KERNEL, *at(KERNEL, "f32")) is None
    shown = meaning("m.mlir", MODULE, *at(MODULE, "graph.unary"))
    assert shown is not None and shown.startswith("**graph.unary**\n\n`graph.unary")
    assert meaning("m.mlir", MODULE, 99, 0) is None
    for name in INSTRUCTIONS:
        assert meaning("k.nasm", name, 0, 1) is not None


# A label belongs to its queue, semaphores and variables to the program, values to their function.
def test_definitions() -> None:
    first = at(KERNEL, "steps:")
    second = at(KERNEL, "steps:", 1)
    use = at(KERNEL, "branch_less r5, 4, steps")
    assert definition("k.nasm", KERNEL, use[0], use[1] + len("branch_less r5, 4, ")) == Range(*second, 5)
    use = at(KERNEL, "branch_less r7, 4, steps")
    assert definition("k.nasm", KERNEL, use[0], use[1] + len("branch_less r7, 4, ")) == Range(*first, 5)
    line, column = at(KERNEL, ".semaphore act")
    assert definition("k.nasm", KERNEL, *at(KERNEL, "act >= r4")) == Range(line, column + 11, 3)
    line, column = at(KERNEL, '"B" input')
    assert definition("k.nasm", KERNEL, *at(KERNEL, "@B")) == Range(line, column + 1, 1)
    assert definition("m.mlir", MODULE, *at(MODULE, "%y :")) == Range(1, 2, 2)
    assert definition("m.mlir", MODULE, *at(MODULE, "%x :")) == Range(0, 16, 2)
    call = MODULE + "func.func @two() {\n  func.call @main() : () -> ()\n}\n"
    assert definition("m.mlir", call, *at(call, "@main()")) == Range(0, 10, 5)
    assert definition("m.mlir", MODULE, *at(MODULE, "relu")) is None


def test_proposals() -> None:
    assert ("nc_matmul", INSTRUCTIONS["nc_matmul"].summary) in proposals("k.nasm", "\n", 1)
    assert [word for word, _ in proposals("k.nasm", "  memset dst", 0)] == ["dst", "value"]
    assert "graph.matmul" in [word for word, _ in proposals("m.mlir", "", 0)]


def test_words() -> None:
    assert word_at("  %x = a.b", 0, 3) == ("%x", Range(0, 2, 2))
    assert word_at("  %x", 0, 0) is None


@pytest.mark.skipif(HAS_PYGLS, reason="the package is installed")
def test_without_the_package() -> None:
    done = run_in_process(main, [])
    assert done.exit_code == 1
    assert "error[NX-LSP-001]" in done.stderr and "neuron-toolkit[lsp]" in done.stderr


# A client opens a file, is told of its mistake, corrects it, and asks what a word means.
@pytest.mark.skipif(not HAS_PYGLS, reason="pygls is not installed (the extra lsp)")
def test_protocol() -> None:
    lsp: Any = import_module("lsprotocol.types")

    async def talk() -> list[Any]:
        client: Any = import_module("pygls.lsp.client").LanguageClient("test", "1")
        told: asyncio.Queue[Any] = asyncio.Queue()

        def published(params: Any) -> None:
            told.put_nowait(params)

        client.feature(lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)(published)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        await client.start_io(sys.executable, "-m", "tools.language_server.server", cwd=ROOT, env=environment)
        await client.initialize_async(lsp.InitializeParams(capabilities=lsp.ClientCapabilities()))
        uri, bad = "file:///k.nasm", ".target trn1\n.queue pe\n  hult\n"
        client.text_document_did_open(lsp.DidOpenTextDocumentParams(lsp.TextDocumentItem(uri, "neuron-asm", 1, bad)))
        first = await asyncio.wait_for(told.get(), 60)
        whole = lsp.TextDocumentContentChangeWholeDocument(bad.replace("hult", "halt"))
        document = lsp.VersionedTextDocumentIdentifier(uri=uri, version=2)
        client.text_document_did_change(lsp.DidChangeTextDocumentParams(document, [whole]))
        second = await asyncio.wait_for(told.get(), 60)
        place = lsp.HoverParams(lsp.TextDocumentIdentifier(uri), lsp.Position(2, 4))
        hover = await client.text_document_hover_async(place)
        await client.shutdown_async(None)
        client.exit(None)
        await client.stop()
        return [first.diagnostics, second.diagnostics, hover]

    first, second, hover = asyncio.run(talk())
    assert [(d.message.split("\n")[0], d.code) for d in first] == [("unknown instruction 'hult'", "NX-ASM-001")]
    assert list(second) == []
    assert hover is not None and hover.contents.value == "**halt**"

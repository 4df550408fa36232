"""`neuron-lsp`: a language server for our MLIR and our assembly, over standard input and output.

An editor starts it by itself once it is told of the command (docs/editors.md). It needs the package of the extra
`lsp`. While a text is written it shows mistakes with their codes, the meaning of the word under the cursor, where a
name is defined, and the words that can stand in a line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from neuron_dialects.errors import NeuronError
from neuron_dialects.version import VERSION
from tools.diagnostics import add_common_arguments
from tools.errors import EXIT_OK, run_main
from tools.language_server import features
from tools.plugins import add_plugin_argument, load_plugins


def main(argv: Sequence[str] | None = None) -> int:
    """The console script: runs until the editor ends it; exit code 0, or as tools/errors.py says."""
    return run_main(_run, argv, "neuron-lsp")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("neuron-lsp", description=(__doc__ or "").partition("\n")[0])
    add_plugin_argument(parser)
    add_common_arguments(parser)
    parser.add_argument("--version", action="version", version=f"neuron-lsp {VERSION}")
    return parser


def _run(arguments: Sequence[str]) -> int:
    load_plugins(arguments)
    _parser().parse_args(arguments)
    make_server().start_io()
    return EXIT_OK


def make_server() -> Any:
    """The server, not started. NeuronError NX-LSP-001 without the package that speaks the protocol."""
    try:
        lsp: Any = import_module("lsprotocol.types")
        server: Any = import_module("pygls.lsp.server").LanguageServer("neuron-lsp", VERSION)
    except ImportError:
        help_ = "pip install 'neuron-toolkit[lsp]'"
        raise NeuronError("NX-LSP-001", "the package pygls is not installed", help=help_) from None
    answers = _Answers(server, lsp)
    for feature, answer in (
        (lsp.TEXT_DOCUMENT_DID_OPEN, answers.check),
        (lsp.TEXT_DOCUMENT_DID_CHANGE, answers.check),
        (lsp.TEXT_DOCUMENT_HOVER, answers.hover),
        (lsp.TEXT_DOCUMENT_DEFINITION, answers.definition),
        (lsp.TEXT_DOCUMENT_COMPLETION, answers.proposals),
    ):
        server.feature(feature)(_function(answer))
    return server


def _function(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A method as a function: the server marks what it registers, and methods cannot be marked."""

    def answer(params: Any) -> Any:
        return method(params)

    return answer


class _Answers:
    """What the server answers, in the protocol's types (`lsp`)."""

    def __init__(self, server: Any, lsp: Any) -> None:
        self.server = server
        self.lsp = lsp

    def check(self, params: Any) -> None:
        """A text was opened or changed: tell what is wrong with it now."""
        document = self.server.workspace.get_text_document(params.text_document.uri)
        error = self.lsp.DiagnosticSeverity.Error
        found = [
            self.lsp.Diagnostic(self._range(m.place), m.message, severity=error, code=m.code, source="neuron")
            for m in features.mistakes(document.filename or document.uri, document.source)
        ]
        told = self.lsp.PublishDiagnosticsParams(document.uri, found, document.version)
        self.server.text_document_publish_diagnostics(told)

    def hover(self, params: Any) -> Any:
        """The meaning of the word under the cursor."""
        text = features.meaning(*self._where(params))
        return None if text is None else self.lsp.Hover(self.lsp.MarkupContent(self.lsp.MarkupKind.Markdown, text))

    def definition(self, params: Any) -> Any:
        """Where the name under the cursor is defined."""
        place = features.definition(*self._where(params))
        return None if place is None else self.lsp.Location(params.text_document.uri, self._range(place))

    def proposals(self, params: Any) -> Any:
        """Words that can stand in the line."""
        name, text, line, _ = self._where(params)
        return [self.lsp.CompletionItem(word, detail=about) for word, about in features.proposals(name, text, line)]

    def _where(self, params: Any) -> tuple[str, str, int, int]:
        document = self.server.workspace.get_text_document(params.text_document.uri)
        return document.filename or document.uri, document.source, params.position.line, params.position.character

    def _range(self, place: features.Range) -> Any:
        first, last = (self.lsp.Position(place.line, column) for column in (place.column, place.column + place.length))
        return self.lsp.Range(first, last)


if __name__ == "__main__":
    sys.exit(main())

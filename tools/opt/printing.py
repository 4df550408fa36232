"""Printing programs: with the values of large constants left out where asked for, and between passes.

`IrDumps` prints a program before or after passes, under the headers that MLIR's tools print, so that what reads those
(Compiler Explorer's pipeline view, scripts) reads ours. With a folder, each program goes to a file of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import IO, Any

from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, ModuleOp
from xdsl.ir import Attribute
from xdsl.passes import ModulePass
from xdsl.printer import Printer
from xdsl.syntax_printer import SyntaxPrinter

ELIDED = "__elided__"
"""What stands for values that were left out, as in MLIR."""
ELIDED_BYTES_PER_ELEMENT = 8
"""A text with more characters than this for each element that a constant may have is left out: it is data."""


@dataclass(frozen=True)
class PrintOptions:
    """How a program is printed. Constants of more than `elide_above` elements are printed without their values."""

    generic: bool = False
    properties_as_attributes: bool = False
    debuginfo: bool = False
    highlight: bool = False
    elide_above: int | None = None

    def print_module(self, module: ModuleOp, output: IO[str]) -> None:
        """Print the module, without a newline at its end."""
        kind: type[Printer] = SyntaxPrinter if self.highlight else Printer
        if self.elide_above is not None:
            kind = _eliding(kind, self.elide_above)
        printer = kind(
            stream=output,
            print_generic_format=self.generic,
            print_properties_as_attributes=self.properties_as_attributes,
            print_debuginfo=self.debuginfo,
        )
        printer.print_op(module)

    def text(self, module: ModuleOp) -> str:
        """The printed module."""
        output = StringIO()
        self.print_module(module, output)
        return output.getvalue()


def _eliding(kind: type[Printer], most: int) -> type[Printer]:
    """A printer class like `kind` that leaves out large values."""

    class ElidingPrinter(kind):
        def print_attribute(self, attribute: Attribute) -> None:
            if isinstance(attribute, DenseIntOrFPElementsAttr):
                dense: DenseIntOrFPElementsAttr[Any] = attribute
                if not dense.is_splat() and len(dense) > most:
                    self.print_string(f"dense_resource<{ELIDED}> : ")
                    self.print_attribute(dense.type)
                    return
            super().print_attribute(attribute)

        def print_string_literal(self, string: str) -> None:
            super().print_string_literal(ELIDED if len(string) > most * ELIDED_BYTES_PER_ELEMENT else string)

        def print_string(self, text: str, *, indent: int | None = None) -> None:
            # A dense graph.constant writes its numbers in one piece.
            if text.startswith("dense [") and text.count(",") >= most:
                text = f"dense [{ELIDED}]"
            super().print_string(text, indent=indent)

    return ElidingPrinter


@dataclass(frozen=True)
class DumpChoice:
    """At which passes the program is printed."""

    before: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()
    before_all: bool = False
    after_all: bool = False
    after_change: bool = False
    after_failure: bool = False

    @property
    def any(self) -> bool:
        """Whether anything is printed."""
        return bool(
            self.before or self.after or self.before_all or self.after_all or self.after_change or self.after_failure
        )


def pass_names(texts: Iterable[str]) -> frozenset[str]:
    """The names in lists with commas."""
    return frozenset(name.strip() for text in texts for name in text.split(",") if name.strip())


class IrDumps:
    """Prints the program around passes.

    Args:
        choice: at which passes.
        options: how.
        folder: where files go; None for standard error.
    """

    def __init__(self, choice: DumpChoice, options: PrintOptions, folder: Path | None = None) -> None:
        self._choice = choice
        self._options = options
        self._folder = folder
        self._number = 0
        self._text_before: str | None = None

    def before(self, module_pass: ModulePass, module: ModuleOp) -> None:
        """Called before a pass runs."""
        choice = self._choice
        self._text_before = self._options.text(module) if choice.after_change else None
        if choice.before_all or module_pass.name in choice.before:
            self._dump(module, module_pass, "Before")

    def after(self, module_pass: ModulePass, module: ModuleOp) -> None:
        """Called after a pass has run and its result was verified."""
        choice = self._choice
        if choice.after_all or module_pass.name in choice.after or self._changed(module):
            self._dump(module, module_pass, "After")
        self._number += 1

    def failed(self, module_pass: ModulePass, module: ModuleOp) -> None:
        """Called when a pass has failed, or left a program that does not verify."""
        choice = self._choice
        if choice.after_failure or choice.after_all or module_pass.name in choice.after or self._changed(module):
            self._dump(module, module_pass, "After", " Failed")

    def _changed(self, module: ModuleOp) -> bool:
        return self._text_before is not None and self._options.text(module) != self._text_before

    def _dump(self, module: ModuleOp, module_pass: ModulePass, when: str, outcome: str = "") -> None:
        header = f"// -----// IR Dump {when} {type(module_pass).__name__}{outcome} ({module_pass.name}) //----- //"
        text = f"{header}\n{self._options.text(module)}\n\n"
        if self._folder is None:
            sys.stderr.write(text)
            return
        suffix = "_before" if when == "Before" else "_failed" if outcome else ""
        symbol = module.sym_name.data if module.sym_name is not None else "no-symbol-name"
        folder = self._folder / f"builtin_module_{symbol}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self._number}_{module_pass.name}{suffix}.mlir").write_text(text, encoding="utf-8")

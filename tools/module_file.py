"""Reading an MLIR file into a module, with every dialect that the toolkit and xDSL know."""

from pathlib import Path

from xdsl.context import Context
from xdsl.dialects.builtin import FileLineColLoc, IntAttr, ModuleOp, StringAttr
from xdsl.parser import Parser
from xdsl.universe import XDSL_UNIVERSE

from neuron_dialects.errors import NeuronError
from neuron_dialects.universe import NEURON_UNIVERSE

MAX_TEXT_BYTES = 256 << 20
"""Largest file that is read as text; programs of this size are better kept as NEFF."""


def make_context() -> Context:
    """A context in which every dialect is loaded on first use."""
    ctx = Context()
    for universe in (XDSL_UNIVERSE, NEURON_UNIVERSE):
        for name, factory in universe.all_dialects.items():
            ctx.register_dialect(name, factory)
    return ctx


def read_module(path: Path) -> ModuleOp:
    """The verified module of an MLIR file, located at its file so that its weights are found beside it.

    Raises NeuronError NX-FILE-001/002 for a file that cannot be read, xDSL's ParseError and VerifyException for bad IR.
    """
    if not path.is_file():
        raise NeuronError("NX-FILE-001", f"{path}: no such file")
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise NeuronError("NX-FILE-002", f"{path}: {path.stat().st_size} bytes exceed {MAX_TEXT_BYTES}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise NeuronError("NX-FILE-002", f"{path}: not UTF-8 text") from error
    module = Parser(make_context(), text, str(path)).parse_module()
    module.location = FileLineColLoc(StringAttr(str(path)), IntAttr(1), IntAttr(1))
    module.verify()
    return module

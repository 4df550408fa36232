"""`neuron-opt`: read textual IR, run passes over it, print it again.

Given a file (or standard input) and `-p 'pass-a,pass-b{option=1}'`, it prints the program after the last pass. All
passes and conversions of ours and all of xDSL's are there, and our pipelines by name. The program is verified after
parsing and after every pass: by xDSL's verifier, then by the rules that xDSL does not know (values are defined before
they are used, launches fit their functions). Diagnostics name file, line and column; tools/errors.py says how they are
printed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import IO

from xdsl.context import Context
from xdsl.dialects.builtin import UNKNOWN_LOC, FileLineColLoc, IntAttr, ModuleOp, StringAttr
from xdsl.ir import Attribute, Operation
from xdsl.parser import Parser
from xdsl.passes import ModulePass, PassPipeline
from xdsl.printer import Printer
from xdsl.universe import XDSL_UNIVERSE
from xdsl.utils.diagnostic import Diagnostic
from xdsl.utils.exceptions import (
    DiagnosticException,
    ParseError,
    ShrinkException,
    VerifyException,
)
from xdsl.utils.lexer import Input, Span
from xdsl.xdsl_opt_main import xDSLOptMain

from neuron_dialects.errors import NeuronError
from neuron_dialects.ssa_order import ssa_order_problems
from neuron_dialects.universe import NEURON_UNIVERSE
from neuron_dialects.version import VERSION
from tools.errors import EXIT_OK, InternalError, SourceError, one_line, run_main, user_message
from tools.in_process import Completed
from tools.in_process import run_in_process as run_main_in_process
from tools.pass_pipeline import describe_passes, parse_passes


class NeuronOpt(xDSLOptMain):
    """xDSL's optimizer driver with our dialects, passes, pipelines, checks and diagnostics."""

    version_format = f"neuron-opt {VERSION} on xdsl {{xdsl_version}}"

    def __init__(self, argv: Sequence[str]) -> None:
        self._source: _PositionedParser | None = None
        self._seconds: dict[str, float] = {}
        super().__init__(description=(__doc__ or "").partition("\n")[0], args=argv)

    def register_all_dialects(self) -> None:
        # Not through the entry points: these two are always wanted, and scanning the environment takes time.
        for universe in (XDSL_UNIVERSE, NEURON_UNIVERSE):
            for name, factory in universe.all_dialects.items():
                self.ctx.register_dialect(name, factory)

    def register_all_passes(self) -> None:
        self.available_passes.update(XDSL_UNIVERSE.all_passes)
        self.available_passes.update(NEURON_UNIVERSE.all_passes)

    def register_all_targets(self) -> None:
        self.available_targets.update(XDSL_UNIVERSE.all_targets)

    def register_all_frontends(self) -> None:
        self.available_frontends["mlir"] = self._parse_mlir

    def register_all_arguments(self, arg_parser: argparse.ArgumentParser) -> None:
        super().register_all_arguments(arg_parser)
        arg_parser.prog = "neuron-opt"
        flags = {
            "--print-ir-before-all": "print the program to stderr before each pass",
            "--print-ir-after-all": "print the program to stderr after each pass",
            "--timing": "print to stderr how long parsing, each pass, verifying and printing took",
            "--list-passes": "print the pipelines and passes with their options, and exit",
            "--debug": "print a traceback for an error",
        }
        for flag, text in flags.items():
            arg_parser.add_argument(flag, action="store_true", help=text)

    def setup_pipeline(self) -> None:
        self.pipeline = PassPipeline(parse_passes(self.args.passes, self.available_passes))

    def run(self) -> None:
        """Process the input chunk by chunk; exceptions of the first faulty chunk end the run."""
        if self.args.list_passes:
            sys.stdout.write(describe_passes(NEURON_UNIVERSE.all_passes, XDSL_UNIVERSE.all_passes))
            return
        # Written to a file only when all went well: a failed run must not leave half a file.
        path: str | None = self.args.output_file
        output = sys.stdout if path is None else StringIO()
        try:
            for index, (chunk, line_offset) in enumerate(self._chunks()):
                if index > 0:
                    output.write("// -----\n")
                with chunk:
                    self._process_chunk(chunk, line_offset, output)
                output.flush()
        except ShrinkException:
            print("Success, can shrink")
            sys.exit(0)
        if self.args.shrink:
            print("Failure, can't shrink")
            sys.exit(1)
        if path is not None and isinstance(output, StringIO):
            with open(path, "w", encoding="utf-8") as file:
                file.write(output.getvalue())
        if self.args.timing or self.args.time_passes:
            self._print_timing()

    def apply_passes(self, prog: ModuleOp) -> None:
        """Verify `prog`, then run each pass and verify again."""
        self._verify(prog, None)
        for module_pass in self.pipeline.passes:
            name = module_pass.name
            if self.args.print_ir_before_all:
                _dump(prog, f"Before {name}")
            try:
                with self._timed(name):
                    _apply(module_pass, self.ctx, prog)
                self._verify(prog, name)
            except Exception:
                if self._prints_after:
                    _dump(prog, f"After {name} Failed")
                raise
            if self._prints_after:
                _dump(prog, f"After {name}")

    @property
    def _prints_after(self) -> bool:
        return self.args.print_ir_after_all or self.args.print_between_passes

    def _chunks(self) -> list[tuple[IO[bytes], int]]:
        """The input, split where asked for, each part with the number of lines before it."""
        try:
            chunks, _ = self.prepare_input()
        except ValueError as error:
            raise NeuronError("NX-FILE-001", one_line(str(error)), help="-f mlir reads it as textual IR") from None
        return chunks

    def _process_chunk(self, chunk: IO[bytes], line_offset: int, output: IO[str]) -> None:
        try:
            with self._timed("(parse)"):
                module = self._parse_mlir(chunk, line_offset)
            self.apply_passes(module)
            with self._timed("(print)"):
                # xDSL ends a module with an empty line, which would grow each time the output is read again.
                output.write(self.output_resulting_program(module).rstrip("\n") + "\n")
        except (SourceError, NeuronError) as error:
            if not (self.args.verify_diagnostics or self.args.parsing_diagnostics):
                raise
            output.write(f"{user_message(error)}\n")

    def _parse_mlir(self, chunk: IO[bytes], line_offset: int = 0) -> ModuleOp:
        self._source = None
        name = self.get_input_name()
        try:
            text = chunk.read().decode("utf-8")
        except UnicodeDecodeError as error:
            problem = f"the file is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x})"
            raise SourceError(NeuronError("NX-IR-001", problem), name) from None
        parser = _PositionedParser(self.ctx, text, name, line_offset)
        try:
            module = parser.parse_module(not self.args.no_implicit_module)
        except ParseError as error:
            raise SourceError(NeuronError("NX-IR-001", one_line(error.msg)), parser.place(error.span.start)) from error
        except VerifyException as error:
            # An attribute that breaks its own rules; the parser stands right behind it.
            raise SourceError(NeuronError("NX-IR-001", one_line(str(error))), parser.place(parser.pos)) from error
        if self.args.input_file is not None and module.location == UNKNOWN_LOC:
            # As in MLIR, the module is located at its file: that is where a relative weights file is looked for.
            module.location = FileLineColLoc(StringAttr(name), IntAttr(line_offset + 1), IntAttr(1))
        self._source = parser
        return module

    def _verify(self, module: ModuleOp, after: str | None) -> None:
        """Raise for a broken rule: SourceError if the input breaks it, InternalError if the pass `after` broke it."""
        if self.args.disable_verify:
            return
        with self._timed("(verify)"):
            fault = _find_fault(module)
        if fault is None:
            return
        op, message = fault
        if after is not None:
            raise InternalError(f"after pass '{after}': {_described(op, message)}")
        position = None if self._source is None or op is None else self._source.positions.get(op)
        place = self.get_input_name() if position is None or self._source is None else self._source.place(position)
        raise SourceError(NeuronError("NX-IR-001", _described(op, message)), place)

    @contextmanager
    def _timed(self, row: str) -> Generator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[row] = self._seconds.get(row, 0.0) + time.perf_counter() - started

    def _print_timing(self) -> None:
        total = sum(self._seconds.values())
        for row, seconds in [*self._seconds.items(), ("(total)", total)]:
            share = seconds / total if total else 0.0
            print(f"{seconds:10.4f} s  {share:6.1%}  {row}", file=sys.stderr)


class _PositionedParser(Parser):
    """A parser that remembers where each operation begins: xDSL's operations do not know the text they came from."""

    positions: dict[Operation, int]

    def __init__(self, ctx: Context, text: str, name: str, line_offset: int) -> None:
        self.positions = {}
        self._input = Input(text, name)
        self._line_offset = line_offset
        super().__init__(ctx, text, name)

    def parse_operation(self) -> Operation:
        position = self.pos
        op = super().parse_operation()
        self.positions[op] = position
        return op

    def place(self, position: int) -> str:
        """`position`, counted in characters of the text, as file:line:column."""
        return str(Span(position, position, self._input, self._line_offset).get_location())


def _apply(module_pass: ModulePass, ctx: Context, module: ModuleOp) -> None:
    """Apply a pass; what it refuses is the user's to hear, any other exception is a bug of the pass."""
    name = module_pass.name
    try:
        module_pass.apply(ctx, module)
    except (NeuronError, ShrinkException):
        raise
    except Exception as error:
        # A pass that builds something which does not verify is wrong, whatever the program.
        if isinstance(error, DiagnosticException) and not isinstance(error, VerifyException):
            raise NeuronError("NX-PASS-002", f"pass '{name}': {one_line(str(error))}") from error
        raise InternalError(f"pass '{name}': {type(error).__name__}: {error}") from error


def _find_fault(module: ModuleOp) -> tuple[Operation | None, str] | None:
    """The first broken rule and the operation that breaks it (None where xDSL does not tell)."""
    try:
        module.verify()
    except (DiagnosticException, ValueError) as error:
        return _faulty_operation(module), str(error)
    problems: list[tuple[Operation, str]] = [*ssa_order_problems(module)]
    # A program without launches must not pay for importing what they need.
    if not problems and "neuron_dialects.neuron" in sys.modules:
        from neuron_dialects.neuron import launch_problems

        problems.extend(launch_problems(module))
    if not problems:
        return None
    op, message = problems[0]
    return op, message if len(problems) == 1 else f"{message} (and {len(problems) - 1} more like it)"


def _faulty_operation(module: ModuleOp) -> Operation | None:
    """The outermost operation that does not verify on its own; xDSL's exception does not say which it was."""
    for op in module.walk():
        try:
            op.verify(verify_nested_ops=False)
        except (DiagnosticException, ValueError):
            return op
    return None


def _described(op: Operation | None, message: str) -> str:
    if op is None:
        return one_line(message)
    from neuron_dialects.neuron import location_name

    node = location_name(op.location)
    place = f" (node '{node}')" if node else ""
    return f"'{op.name}'{place} {one_line(message)}"


def _dump(module: ModuleOp, header: str) -> None:
    print(f"// -----// IR Dump {header} //----- //", file=sys.stderr)
    Printer(stream=sys.stderr).print_op(module)
    print(file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """The console script: exit code 0, or as tools/errors.py says."""
    return run_main(_run, argv)


def run_in_process(argv: Sequence[str], stdin: str = "") -> Completed:
    """Run `neuron-opt` inside this process: (exit code, stdout, stderr)."""
    return run_main_in_process(main, argv, stdin)


def _run(arguments: Sequence[str]) -> int:
    # --disable-verify and --syntax-highlight change xDSL's classes, for every later run in this process too.
    verify_attribute, colored = Attribute.__post_init__, Diagnostic.colored
    try:
        NeuronOpt(arguments).run()
    finally:
        Attribute.__post_init__ = verify_attribute
        Diagnostic.colored = colored
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())

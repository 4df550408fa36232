"""`neuron-opt`: read textual IR, run passes over it, print it again.

Given a file (or standard input) and `-p 'pass-a,pass-b{option=1}'`, it prints the program after the last pass. All
passes and conversions of ours and all of xDSL's are there, and our pipelines by name. The program is verified after
parsing and after every pass: by xDSL's verifier, then by the rules that xDSL does not know (values are defined before
they are used, launches fit their functions). Diagnostics name file, line and column; tools/diagnostics.py says how they
are printed. docs/neuron-opt.md is the manual; the parts of the tool are in tools/opt.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from typing import IO, Protocol

from xdsl.context import Context
from xdsl.dialects.builtin import UNKNOWN_LOC, FileLineColLoc, IntAttr, ModuleOp, StringAttr
from xdsl.ir import Attribute
from xdsl.passes import ModulePass, PassPipeline
from xdsl.universe import XDSL_UNIVERSE
from xdsl.utils.diagnostic import Diagnostic as XdslDiagnostic
from xdsl.utils.exceptions import DiagnosticException, ParseError, ShrinkException, VerifyException
from xdsl.xdsl_opt_main import VersionAction, xDSLOptMain

from neuron_dialects.atomic_file import write_text
from neuron_dialects.errors import NeuronError
from neuron_dialects.remarks import collect, in_pass
from neuron_dialects.universe import NEURON_UNIVERSE
from neuron_dialects.version import VERSION
from tools.diagnostics import Diagnostic, Place, report
from tools.errors import (
    EXIT_OK,
    EXIT_USER_ERROR,
    InternalError,
    SourceError,
    one_line,
    place_of,
    run_main,
    user_diagnostic,
)
from tools.in_process import Completed
from tools.in_process import run_in_process as run_main_in_process
from tools.opt.arguments import add_arguments
from tools.opt.checks import described, find_fault
from tools.opt.expected import compare, read_expectations
from tools.opt.instruments import Clock, Statistics, print_report, statistics_report
from tools.opt.numerics import NumericsCheck
from tools.opt.printing import DumpChoice, IrDumps, PrintOptions, pass_names
from tools.opt.reproducer import CrashReproducer, Reproducer, pipeline_text, required, split_section, without_module
from tools.opt.source import PositionedParser
from tools.pass_pipeline import describe_passes, parse_passes
from tools.plugins import load_plugins
from tools.remarks import RemarkPrinter, wants_remarks


class Instrument(Protocol):
    """Watches passes run."""

    def before(self, module_pass: ModulePass, module: ModuleOp) -> None:
        """A pass is about to run."""

    def after(self, module_pass: ModulePass, module: ModuleOp) -> None:
        """A pass has run, and left a program that verifies."""

    def failed(self, module_pass: ModulePass, module: ModuleOp) -> None:
        """A pass has raised an error, or left a program that does not verify."""


class NeuronOpt(xDSLOptMain):
    """xDSL's optimizer driver with our dialects, passes, pipelines, checks and diagnostics."""

    version_format = f"neuron-opt {VERSION} on xdsl {{xdsl_version}}"

    def __init__(self, argv: Sequence[str]) -> None:
        self.clock = Clock()
        self.statistics = Statistics()
        self.exit_code = EXIT_OK
        self._source: PositionedParser | None = None
        self._reproducer: Reproducer | None = None
        self._told: list[Diagnostic] = []
        self._numerics: NumericsCheck | None = None
        super().__init__(description=(__doc__ or "").partition("\n")[0], args=argv)
        self._remarks = self._remark_printer()

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
        # Not xDSL's own list: half of it would need other words, and its help names every pass.
        add_arguments(arg_parser, list(self.available_frontends), list(self.available_targets))
        arg_parser.add_argument("-v", "--version", action=VersionAction, version_format=self.version_format)

    def setup_pipeline(self) -> None:
        self.pipeline = PassPipeline(parse_passes(without_module(self.args.passes), self.available_passes))

    def run(self) -> None:
        """Process the input chunk by chunk; exceptions of the first faulty chunk end the run."""
        if self._print_information():
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
        finally:
            self._print_reports()
        if self.args.shrink:
            print("Failure, can't shrink")
            sys.exit(1)
        if path is not None and isinstance(output, StringIO):
            write_text(path, output.getvalue())

    def apply_passes(self, prog: ModuleOp) -> None:
        """Verify `prog`, then run each pass and verify again."""
        self._verify(prog, None)
        passes = self._passes()
        if self.args.dump_pass_pipeline:
            print_report(f"Pass Manager with {len(passes)} passes:\nbuiltin.module({pipeline_text(passes)})\n")
        if not passes:
            return
        if self._source is not None:
            self._source.remember_names()
        instruments = self._instruments(passes)
        if self.args.verify_numerics:
            with self.clock.timed("Numerics"):
                self._numerics = NumericsCheck(prog, self.args.numerics_tolerance, self.args.numerics_seed)
        verify_each = self.args.verify_each if self._reproducer is None else self._reproducer.verify_each
        for module_pass in passes:
            for instrument in instruments:
                instrument.before(module_pass, prog)
            try:
                with self.clock.timed(f"{type(module_pass).__name__} ({module_pass.name})"):
                    _apply(module_pass, self.ctx, prog)
                if verify_each or module_pass is passes[-1]:
                    self._verify(prog, module_pass.name)
                if self._numerics is not None:
                    with self.clock.timed("Numerics"):
                        self._numerics.check(module_pass, prog)
            except Exception:
                for instrument in instruments:
                    instrument.failed(module_pass, prog)
                raise
            for instrument in instruments:
                instrument.after(module_pass, prog)

    def output_resulting_program(self, prog: ModuleOp) -> str:
        """The program as it is printed; for another target than `mlir` as that writes it."""
        if self.args.target != "mlir":
            return super().output_resulting_program(prog)
        return self._print_options().text(prog)

    # -- what is asked for --------------------------------------------------------------------------------------------

    def _print_information(self) -> bool:
        if self.args.list_passes:
            sys.stdout.write(describe_passes(NEURON_UNIVERSE.all_passes, XDSL_UNIVERSE.all_passes))
        elif self.args.explain is not None:
            from tools.error_pages import explain

            sys.stdout.write(explain(self.args.explain))
        elif self.args.show_dialects:
            print(*sorted(self.ctx.registered_dialect_names), sep="\n")
        else:
            return False
        return True

    def _print_reports(self) -> None:
        if self._remarks is not None:
            self._remarks.write(self.args.remarks_output)
        if self._numerics is not None:
            print_report(self._numerics.report())
        if self.args.pass_statistics:
            print_report(statistics_report(self.statistics.changes, self.args.pass_statistics_display))
        if self.args.timing:
            print_report(self.clock.report())

    def _passes(self) -> Sequence[ModulePass]:
        if not self.args.run_reproducer:
            return self.pipeline.passes
        return parse_passes(required(self._reproducer).pipeline, self.available_passes)

    def _print_options(self) -> PrintOptions:
        args = self.args
        return PrintOptions(
            args.print_op_generic,
            args.print_no_properties,
            args.print_debuginfo,
            args.syntax_highlight,
            args.elide_above,
        )

    def _instruments(self, passes: Sequence[ModulePass]) -> list[Instrument]:
        args = self.args
        folder = None if args.print_ir_tree_dir is None else Path(args.print_ir_tree_dir)
        choice = DumpChoice(
            pass_names(args.print_ir_before),
            pass_names(args.print_ir_after),
            args.print_ir_before_all,
            args.print_ir_after_all or args.print_between_passes,
            args.print_ir_after_change,
            args.print_ir_after_failure,
        )
        if folder is not None and not choice.any:
            choice = DumpChoice(after_all=True)
        instruments: list[Instrument] = []
        if choice.any:
            instruments.append(IrDumps(choice, self._print_options(), folder))
        if args.pass_statistics:
            instruments.append(self.statistics)
        if args.crash_reproducer is not None:
            path = Path(args.crash_reproducer)
            instruments.append(CrashReproducer(path, passes, verify_each=args.verify_each, local=args.local_reproducer))
        return instruments

    def _remark_printer(self) -> RemarkPrinter | None:
        args = self.args
        if not wants_remarks(args):
            return None

        def place(node: str | None, function: str | None) -> Place | None:
            return None if self._source is None else self._source.place_of_node(node, function)

        return RemarkPrinter.of(args, self._tell, place)

    # -- a part of the input ------------------------------------------------------------------------------------------

    def _chunks(self) -> list[tuple[IO[bytes], int]]:
        """The input, split where asked for, each part with the number of lines before it."""
        try:
            chunks, _ = self.prepare_input()
        except ValueError as error:
            raise NeuronError("NX-FILE-001", one_line(str(error)), help="-f mlir reads it as textual IR") from None
        return chunks

    def _process_chunk(self, chunk: IO[bytes], line_offset: int, output: IO[str]) -> None:
        text = self._decoded(chunk)
        self._told = []
        try:
            with nullcontext() if self._remarks is None else collect(self._remarks):
                module = self._parse_text(text, line_offset)
                self.apply_passes(module)
            with self.clock.timed("Output"):
                # xDSL ends a module with an empty line, which would grow each time the output is read again.
                output.write(self.output_resulting_program(module).rstrip("\n") + "\n")
        except (SourceError, NeuronError) as error:
            diagnostic = user_diagnostic(self._placed(error))
            assert diagnostic is not None
            if self.args.parsing_diagnostics:
                output.write(f"{diagnostic.text()}\n")
            elif self.args.verify_diagnostics:
                self._told.append(diagnostic)
            else:
                raise self._placed(error) from error
        if self.args.verify_diagnostics:
            self._compare_with_expectations(text, line_offset)

    def _compare_with_expectations(self, text: str, line_offset: int) -> None:
        """Tell where the file's comments and what was told about it differ."""
        lines = text.split("\n")
        only_expected = self.args.verify_diagnostics == "only-expected"
        expected = read_expectations(text, line_offset)
        for mismatch in compare(expected, self._told, only_expected=only_expected):
            self.exit_code = EXIT_USER_ERROR
            number = mismatch.line - line_offset
            line = lines[number - 1] if 0 < number <= len(lines) else None
            place = Place(self.get_input_name(), mismatch.line, mismatch.column, line)
            report(Diagnostic("error", mismatch.message, place=place))

    def _tell(self, diagnostic: Diagnostic) -> None:
        if self.args.verify_diagnostics:
            self._told.append(diagnostic)
        else:
            report(diagnostic)

    def _placed(self, error: SourceError | NeuronError) -> SourceError | NeuronError:
        """An error of a pass, at the line of the node or function that it names, if that is in the input."""
        if isinstance(error, SourceError) or self._source is None:
            return error
        place = self._source.place_of_node(error.node, error.segment)
        return error if place is None else SourceError(error, place)

    def _decoded(self, chunk: IO[bytes]) -> str:
        try:
            return chunk.read().decode("utf-8")
        except UnicodeDecodeError as error:
            problem = f"the file is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x})"
            raise SourceError(NeuronError("NX-IR-001", problem), Place(self.get_input_name())) from None

    def _parse_mlir(self, chunk: IO[bytes]) -> ModuleOp:
        return self._parse_text(self._decoded(chunk), 0)

    def _parse_text(self, text: str, line_offset: int) -> ModuleOp:
        self._source = None
        name = self.get_input_name()
        text, self._reproducer = split_section(text)
        with self.clock.timed("Parser"):
            parser = PositionedParser(self.ctx, text, name, line_offset)
            try:
                module = parser.parse_module(not self.args.no_implicit_module)
            except ParseError as error:
                place = place_of(error.span, line_offset)
                raise SourceError(NeuronError("NX-IR-001", one_line(error.msg)), place) from error
            except VerifyException as error:
                # An attribute that breaks its own rules; the parser stands right behind it.
                raise SourceError(NeuronError("NX-IR-001", one_line(str(error))), parser.place(parser.pos)) from error
            except (LookupError, ValueError, ArithmeticError, NotImplementedError) as error:
                # xDSL's parser has no words for some texts, but it is the text that is wrong.
                problem = f"the parser cannot read this: {type(error).__name__}: {one_line(str(error))}"
                raise SourceError(NeuronError("NX-IR-001", problem), parser.place(parser.pos)) from error
        if self.args.input_file is not None and module.location == UNKNOWN_LOC:
            # As in MLIR, the module is located at its file: that is where a relative weights file is looked for.
            module.location = FileLineColLoc(StringAttr(name), IntAttr(line_offset + 1), IntAttr(1))
        self._source = parser
        return module

    def _verify(self, module: ModuleOp, after: str | None) -> None:
        """Raise for a broken rule: SourceError if the input breaks it, InternalError if the pass `after` broke it."""
        if self.args.disable_verify:
            return
        with self.clock.timed("Verifier"):
            fault = find_fault(module)
        if fault is None:
            return
        op, message = fault
        if after is not None:
            raise InternalError(f"after pass '{after}': {described(op, message)}")
        place = None if self._source is None else self._source.place_of_operation(op)
        raise SourceError(NeuronError("NX-IR-001", described(op, message)), place or Place(self.get_input_name()))


def _apply(module_pass: ModulePass, ctx: Context, module: ModuleOp) -> None:
    """Apply a pass; what it refuses is the user's to hear, any other exception is a bug of the pass."""
    name = module_pass.name
    try:
        with in_pass(name):
            module_pass.apply(ctx, module)
    except (NeuronError, ShrinkException):
        raise
    except Exception as error:
        # A pass that builds something which does not verify is wrong, whatever the program.
        if isinstance(error, DiagnosticException) and not isinstance(error, VerifyException):
            raise NeuronError("NX-PASS-002", f"pass '{name}': {one_line(str(error))}") from error
        raise InternalError(f"pass '{name}': {type(error).__name__}: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """The console script: exit code 0, or as tools/errors.py says."""
    return run_main(_run, argv, "neuron-opt")


def run_in_process(argv: Sequence[str], stdin: str = "") -> Completed:
    """Run `neuron-opt` inside this process: (exit code, stdout, stderr)."""
    return run_main_in_process(main, argv, stdin)


def _run(arguments: Sequence[str]) -> int:
    # --disable-verify and --syntax-highlight change xDSL's classes, for every later run in this process too.
    verify_attribute, colored = Attribute.__post_init__, XdslDiagnostic.colored
    try:
        load_plugins(arguments)
        tool = NeuronOpt(arguments)
        tool.run()
        return tool.exit_code
    finally:
        Attribute.__post_init__ = verify_attribute
        XdslDiagnostic.colored = colored


if __name__ == "__main__":
    sys.exit(main())

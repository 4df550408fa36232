"""`neuron-cc`: compile an ONNX model.

    neuron-cc compile model.onnx -o model.neff --target trn1
    neuron-cc compile model.onnx -o model.mlir --emit tile

`--emit graph|tile|nisa` stops at that level, `--emit import` before the first pass, and writes MLIR with its weights
beside it (model.safetensors), which `neuron-run` executes and `neuron-opt` continues from. With `--print-debuginfo` the
MLIR names the framework node of every operation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_dialects.errors import NeuronError
from tools.errors import run_main

if TYPE_CHECKING:
    from lowering.compiler import CompileResult


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="neuron-cc", description="Compile ONNX models for NeuronCores.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    compile_ = verbs.add_parser("compile", help="compile a model to a NEFF", description="Compile a model to a NEFF.")
    compile_.add_argument("model", type=Path, help="the ONNX file")
    compile_.add_argument(
        "-o", "--output", type=Path, help="file to write (default: the model's name with .neff or .mlir)"
    )
    compile_.add_argument("--target", default="inf1", help="inf1 (default), inf2, trn1 or trn2")
    compile_.add_argument(
        "--auto-cast", default="matmult", help="what is computed in the 16-bit type: none, matmult (default) or all"
    )
    compile_.add_argument("--auto-cast-type", default="bf16", help="bf16 (default), fp16 or tf32")
    compile_.add_argument(
        "--input-shape", action="append", default=[], metavar="NAME=1,3,224,224", help="shape of an input; repeatable"
    )
    compile_.add_argument("--emit", default="neff", help="where to stop: import, graph, tile, nisa or neff (default)")
    compile_.add_argument("--print-debuginfo", action="store_true", help="write locations into the MLIR")
    compile_.add_argument("--report", type=Path, metavar="FILE.json", help="write the compile report")
    compile_.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def parse_input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`NAME=1,3,224,224`; NeuronError NX-ARG-002 when it is not of that form."""
    name, separator, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.replace("x", ",").split(",")) if sizes else ()
    except ValueError:
        separator = ""
        shape = ()
    if not separator or any(size < 0 for size in shape):
        raise NeuronError("NX-ARG-002", f"--input-shape {text}: expected NAME=1,3,224,224")
    return name, shape


def _run(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    from lowering.compiler import CompileOptions, compile_model

    settings = CompileOptions(
        target=options.target,
        auto_cast=options.auto_cast,
        auto_cast_type=options.auto_cast_type,
        input_shapes=dict(parse_input_shape(text) for text in options.input_shape),
        emit=options.emit,
    )
    output = options.output or options.model.with_suffix(".neff" if options.emit == "neff" else ".mlir").name
    result = compile_model(options.model, settings)
    write_result(result, Path(output), options.print_debuginfo)
    if options.report is not None:
        write_text(options.report, json.dumps(result.report, indent=2) + "\n")
    print(summary_line(result.report, Path(output)))
    return 0


def write_result(result: CompileResult, output: Path, print_debuginfo: bool = False) -> None:
    """Write the NEFF, or the MLIR (with locations if `print_debuginfo`) with its weights file beside it."""
    if result.neff is not None:
        from runtime.neff import write_neff

        write_neff(result.neff, output)
        return
    from xdsl.dialects.builtin import StringAttr
    from xdsl.printer import Printer

    from neuron_dialects.neuron import WEIGHTS_ATTRIBUTE

    weights = output.with_suffix(".safetensors")
    result.weights.save_safetensors(weights)
    result.module.attributes[WEIGHTS_ATTRIBUTE] = StringAttr(weights.name)
    text = StringIO()
    Printer(text, print_debuginfo=print_debuginfo).print_op(result.module)
    write_text(output, text.getvalue() + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file all at once: a reader sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def summary_line(report: dict[str, Any], output: Path) -> str:
    """One line that says what was made and what to know about it."""
    rows = report["partition"]
    parts: list[str] = []
    if rows:
        parts.append(f"{sum(row['where'] == 'core' for row in rows)} of {len(rows)} ops on the core")
    if report["peak_sbuf_bytes"]:
        parts.append(f"peak SBUF {report['peak_sbuf_bytes']} B/partition")
    if report["spills"]:
        parts.append(f"{len(report['spills'])} spills")
    parts.append(f"{report['compile_seconds']['total']:.1f} s")
    return f"{output}: {', '.join(parts)}"


if __name__ == "__main__":
    sys.exit(main())

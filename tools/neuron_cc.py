"""`neuron-cc`: compile a model.

    neuron-cc compile model.onnx -o model.neff --target trn1
    neuron-cc compile model.onnx --bucket ids=1,64 --bucket ids=1,128 --pad ids=1
    neuron-cc compile model.onnx -o model.mlir --emit tile
    neuron-cc analyze model.onnx --target trn1 --json analysis.json
    neuron-cc convert model.pt2 -o model.onnx
    neuron-cc list-operators

Models are ONNX files, or files of the frameworks that docs/frontends.md tells of; `convert` writes the ONNX model that
such a file becomes, which `neuron-run --check` takes.

`--emit graph|tile|nisa` stops at that level, `--emit import` before the first pass, and writes MLIR with its weights
beside it (model.safetensors), which `neuron-run` executes and `neuron-opt` continues from. With `--print-debuginfo` the
MLIR names the framework node of every operation.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuron_dialects.atomic_file import write_bytes, write_text
from neuron_dialects.errors import NeuronError
from tools.diagnostics import Diagnostic, Place, add_common_arguments
from tools.diagnostics import report as tell_user
from tools.errors import of_model, run_main
from tools.fast_math import auto_cast_of
from tools.plugins import add_plugin_argument, load_plugins
from tools.progress import progress
from tools.remarks import add_remark_arguments, told_remarks, wants_remarks

if TYPE_CHECKING:
    from lowering.compiler import CompileOptions, CompileResult


_MODEL_HELP = "model.onnx, model.pt2, model.keras, a SavedModel folder or model-symbol.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    # What is left when the process ends goes with it: nobody needs it searched for cycles.
    atexit.register(gc.freeze)
    return run_main(_run, argv, "neuron-cc")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="neuron-cc", description="Compile models for NeuronCores.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    compile_ = verbs.add_parser("compile", help="compile a model to a NEFF", description="Compile a model to a NEFF.")
    _add_model_arguments(compile_)
    compile_.add_argument(
        "-o", "--output", type=Path, help="file to write (default: the model's name with .neff or .mlir)"
    )
    compile_.add_argument("--emit", default="neff", help="where to stop: import, graph, tile, nisa or neff (default)")
    _add_shape_arguments(compile_)
    compile_.add_argument(
        "--neuroncore-pipeline-cores",
        "--num-neuroncores",
        default="1",
        metavar="N",
        help="cores over which the model is spread as a pipeline, its weights on chip; auto: as few as hold it "
        "(default: 1, no pipeline)",
    )
    compile_.add_argument("--print-debuginfo", action="store_true", help="write locations into the MLIR")
    compile_.add_argument(
        "--no-cache",
        action="store_true",
        help="compile anew: neither look for an earlier result nor keep this one (see NEURON_TOOLKIT_CACHE)",
    )
    compile_.add_argument("--report", type=Path, metavar="FILE.json", help="write the compile report")
    add_remark_arguments(compile_.add_argument_group("remarks"))
    compile_.set_defaults(run=_compile)
    about = "Tell what of a model runs on the core and on the host, and why."
    analyze = verbs.add_parser("analyze", help="tell what of a model runs where and why", description=about)
    _add_model_arguments(analyze)
    analyze.add_argument("--json", type=Path, metavar="FILE", help="write the analysis as JSON too")
    analyze.add_argument("--graph-only", action="store_true", help="do not ask the back end, which may refuse: quicker")
    analyze.set_defaults(run=_analyze)
    about = "Write the ONNX model that a file of another framework becomes."
    convert = verbs.add_parser("convert", help="turn another framework's model into ONNX", description=about)
    convert.add_argument("model", type=Path, help=_MODEL_HELP)
    convert.add_argument("-o", "--output", type=Path, help="file to write (default: the model's name with .onnx)")
    convert.set_defaults(run=_convert)
    about = "List the ONNX operators that can run on a core."
    operators = verbs.add_parser("list-operators", help="list the ONNX operators of the core", description=about)
    operators.add_argument("--framework", default="ONNX", choices=("ONNX",), help="ONNX (default)")
    operators.add_argument("--verbose", action="store_true", help="tell versions and how they are converted")
    operators.set_defaults(run=_list_operators)
    for verb in (compile_, analyze, convert, operators):
        add_plugin_argument(verb)
        add_common_arguments(verb)
    return parser


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and what to compile it for."""
    parser.add_argument("model", type=Path, help=_MODEL_HELP)
    parser.add_argument("--target", default="inf1", help="inf1 (default), inf2, trn1 or trn2")
    parser.add_argument("--auto-cast", help="what is computed in the 16-bit type: none, matmult (default) or all")
    parser.add_argument("--auto-cast-type", help="bf16 (default), fp16 or tf32")
    parser.add_argument("--fast-math", metavar="OPTIONS", help="neuron-cc's spelling of --auto-cast, such as all, none")
    parser.add_argument("--fp32-cast", metavar="CAST", help="neuron-cc's older spelling; wins over --fast-math")
    parser.add_argument(
        "--enable-saturate-infinity",
        action="store_true",
        help="what a narrower float type cannot hold, infinities too, becomes its largest finite number",
    )
    parser.add_argument(
        "--input-shape", action="append", default=[], metavar="NAME=1,3,224,224", help="shape of an input; repeatable"
    )
    _add_optimization_arguments(parser)
    _add_partition_arguments(parser)


def _add_optimization_arguments(parser: argparse.ArgumentParser) -> None:
    """How hard the compiler tries."""
    group = parser.add_argument_group("optimisation")
    group.add_argument(
        "-O",
        "--optlevel",
        type=int,
        default=2,
        metavar="LEVEL",
        help="1: quick to compile; 2 (default); 3: also search for faster settings, timing each program",
    )
    group.add_argument(
        "--search-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="what -O3 may take for its search (default: 60); Ctrl-C ends it with the best so far",
    )
    group.add_argument(
        "--pass-option",
        action="append",
        default=[],
        metavar="PASS.OPTION=VALUE",
        help="an option of a pass of the default pipeline, or PASS=off; repeatable",
    )


def _add_partition_arguments(parser: argparse.ArgumentParser) -> None:
    """What runs on the core and what on the host. Second spellings are those of the framework integrations."""
    group = parser.add_argument_group("host and core")
    group.add_argument(
        "--minimum-segment-size",
        type=int,
        default=1,
        metavar="N",
        help="core segments of fewer operators run on the host (default: 1)",
    )
    names = "operators or node names, separated by commas; repeatable"
    for option, other, side in (
        ("--force-host", "--no-fuse-ops", "run on the host"),
        ("--force-core", "--force-fuse-ops", "run on the core, or it is an error"),
    ):
        group.add_argument(option, other, action="append", default=[], metavar="NAME,..", help=f"{side}: {names}")
    group.add_argument("--must-compile", action="store_true", help="it is an error if anything runs on the host")


def _names(texts: Sequence[str]) -> tuple[str, ...]:
    """The names of comma-separated lists."""
    return tuple(name for text in texts for name in text.split(",") if name)


def _add_shape_arguments(parser: argparse.ArgumentParser) -> None:
    """Shapes that are chosen when the model runs."""
    parser.add_argument(
        "--bucket",
        action="append",
        default=[],
        metavar="NAME=1,128[;NAME=...]",
        help="one of several sets of input shapes in the NEFF; a run takes the smallest that fits; repeatable",
    )
    parser.add_argument(
        "--pad",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what an input is padded with up to a bucket (default 0); repeatable",
    )
    parser.add_argument(
        "--dynamic-batch-size",
        nargs="?",
        const="require",
        default="auto",
        metavar="MODE",
        help="run any number of rows in pieces: auto (if rows are proven independent), require (refuse otherwise; the "
        "meaning without a MODE), assume (as if proven) or off",
    )


def parse_bucket(text: str) -> dict[str, tuple[int, ...]]:
    """`NAME=1,128;OTHER=1,128`; NeuronError NX-ARG-002 when it is not of that form."""
    return dict(parse_input_shape(part.strip(), "--bucket") for part in text.split(";") if part.strip())


def parse_cores(text: str) -> int | str:
    """A number of cores, or `auto`; NeuronError NX-ARG-002 for anything else."""
    if text != "auto" and not text.isdecimal():
        raise NeuronError("NX-ARG-002", f"--neuroncore-pipeline-cores {text[:80]}: expected a number of cores, or auto")
    return text if text == "auto" else int(text)


def parse_padding(text: str) -> tuple[str, int | float]:
    """`NAME=0` or `NAME=-1.5`; NeuronError NX-ARG-002 when it is not of that form."""
    name, separator, number = text.rpartition("=")
    try:
        value = int(number) if number.strip().lstrip("+-").isdecimal() else float(number)
    except ValueError:
        value = math.nan
    if not separator or not math.isfinite(value):
        raise NeuronError("NX-ARG-002", f"--pad {text}: expected NAME=VALUE with a finite number")
    return name, value


def parse_input_shape(text: str, option: str = "--input-shape") -> tuple[str, tuple[int, ...]]:
    """`NAME=1,3,224,224`; NeuronError NX-ARG-002 when it is not of that form."""
    name, separator, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.replace("x", ",").split(",")) if sizes else ()
    except ValueError:
        separator = ""
        shape = ()
    if not separator or any(size < 0 for size in shape):
        raise NeuronError("NX-ARG-002", f"{option} {text}: expected NAME=1,3,224,224")
    return name, shape


def _run(arguments: Sequence[str]) -> int:
    load_plugins(arguments)
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def _settings(options: argparse.Namespace, emit: str) -> CompileOptions:
    """What to compile for; NeuronError NX-ARG-002 when number formats are asked for in two spellings."""
    from lowering.compiler import CompileOptions
    from lowering.optimization import parse_settings

    cast = auto_cast_of(options.fast_math, options.fp32_cast)
    if cast is not None and (options.auto_cast is not None or options.auto_cast_type is not None):
        raise NeuronError("NX-ARG-002", "--auto-cast cannot be given together with --fast-math or --fp32-cast")
    mode, cast_type = cast or (options.auto_cast or "matmult", options.auto_cast_type or "bf16")
    shapes = dict(parse_input_shape(text) for text in options.input_shape)
    return CompileOptions(
        options.target,
        mode,
        cast_type,
        shapes,
        emit,
        minimum_segment_size=options.minimum_segment_size,
        force_host=_names(options.force_host),
        force_core=_names(options.force_core),
        must_compile=options.must_compile,
        saturate_infinity=options.enable_saturate_infinity,
        optimization_level=options.optlevel,
        search_seconds=options.search_seconds,
        settings=parse_settings(options.pass_option),
    )


def _shape_settings(options: argparse.Namespace, settings: CompileOptions) -> CompileOptions:
    """The same with the shapes that a run may choose."""
    return replace(
        settings,
        buckets=[parse_bucket(text) for text in options.bucket],
        padding=dict(parse_padding(text) for text in options.pad),
        dynamic_batch=options.dynamic_batch_size,
    )


def _compile(options: argparse.Namespace) -> int:
    from lowering.frontends import model_name
    from lowering.pipeline import no_collection
    from lowering.pipeline_report import pipeline_text

    settings = _shape_settings(options, _settings(options, options.emit))
    settings = replace(settings, neuroncore_pipeline_cores=parse_cores(options.neuroncore_pipeline_cores))
    suffix = ".neff" if options.emit == "neff" else ".mlir"
    output = Path(options.output or f"{model_name(options.model)}{suffix}")
    with of_model(options.model), told_remarks(options), no_collection():
        with progress(f"compiling {options.model.name}", _expected_steps(settings)) as tell:
            report = _compile_to(output, options, settings, tell)
    if options.report is not None:
        write_text(options.report, json.dumps(report, indent=2) + "\n")
    print(summary_line(report, output))
    if report.get("pipeline"):
        print("\n".join(pipeline_text(report["pipeline"])))
    for line in shape_warnings(report):
        tell_user(Diagnostic("warning", line, place=Place(str(options.model))))
    return 0


def _compile_to(
    output: Path, options: argparse.Namespace, settings: CompileOptions, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Write what was asked for, from the compile cache where that has it; the compile report."""
    from lowering.compiler import compile_model
    from neuron_toolkit.model import compile as compile_cached

    if settings.emit != "neff":
        result = compile_model(options.model, settings, tell)
        write_module(result, output, options.print_debuginfo)
        return result.report
    # An earlier result comes without remarks.
    cache = not options.no_cache and not wants_remarks(options)
    model = compile_cached(options.model, settings, cache=cache, progress=tell)
    model.save(output)
    return {**model.report, "compile_seconds": dict(model.compile_seconds), "from_cache": model.from_cache}


def _expected_steps(settings: CompileOptions) -> int | None:
    """Steps that compiling will take; unknown for a search, which goes on as long as it may."""
    from lowering.compiler import OPTIMIZATION_LEVELS
    from lowering.pipeline import LEVELS, pass_specs

    if settings.optimization_level == OPTIMIZATION_LEVELS[-1]:
        return None
    until = settings.emit if settings.emit in LEVELS else LEVELS[-1]
    return len(settings.shape_sets()) * (2 + len(pass_specs(until=until)))


def _analyze(options: argparse.Namespace) -> int:
    from tools.analyze import analyze, rendered

    with of_model(options.model):
        with progress(f"analysing {options.model.name}"):
            analysis = analyze(options.model, _settings(options, "graph"), lower=not options.graph_only)
    if options.json is not None:
        write_text(options.json, json.dumps(analysis.data(), indent=2) + "\n")
    print(rendered(analysis))
    return 0


def _convert(options: argparse.Namespace) -> int:
    from lowering.frontends import frontend_of, model_name, to_onnx

    if frontend_of(options.model) == "onnx":
        raise NeuronError("NX-ARG-002", f"{options.model} is taken for an ONNX file: there is nothing to convert")
    model = to_onnx(options.model)
    assert not isinstance(model, str | os.PathLike)
    output = options.output or Path(f"{model_name(options.model)}.onnx")
    write_bytes(output, model.SerializeToString())
    print(f"{output}: {len(model.graph.node)} nodes, {output.stat().st_size} bytes")
    return 0


def _list_operators(options: argparse.Namespace) -> int:
    from tools.list_operators import listed

    print(listed(options.verbose))
    return 0


def write_module(result: CompileResult, output: Path, print_debuginfo: bool = False) -> None:
    """Write the MLIR (with locations if `print_debuginfo`) with its weights file beside it."""
    from xdsl.dialects.builtin import StringAttr
    from xdsl.printer import Printer

    from neuron_dialects.neuron import WEIGHTS_ATTRIBUTE

    weights = output.with_suffix(".safetensors")
    result.weights.save_safetensors(weights)
    result.module.attributes[WEIGHTS_ATTRIBUTE] = StringAttr(weights.name)
    text = StringIO()
    Printer(text, print_debuginfo=print_debuginfo).print_op(result.module)
    write_text(output, text.getvalue() + "\n")


def shape_warnings(report: dict[str, Any]) -> list[str]:
    """One line for each way in which a run on padded inputs could differ from one on the inputs themselves."""
    lines: list[str] = []
    for row in report.get("dimensions", ()):
        if row["sizes"] == "padded" and row["padding_leaks"]:
            at = f" at node '{row['padding_leaks_at']}'" if row["padding_leaks_at"] else ""
            lines.append(
                f"padding of '{row['name']}' reaches results unless the model masks it: {row['padding_leaks']}{at}"
            )
        if row["sizes"] == "any" and not row["independent"]:
            lines.append(f"'{row['name']}' is taken as independent without proof: {row['why']}")
        if row["sizes"] != "fixed" and row["padded_outputs"]:
            names = ", ".join(row["padded_outputs"])
            lines.append(f"outputs keep the padding of '{row['name']}': {names}")
    return lines


def summary_line(report: dict[str, Any], output: Path) -> str:
    """One line that says what was made and what to know about it."""
    from passes.graph.executors import REFUSED

    rows = report["partition"]
    parts: list[str] = []
    if "buckets" in report:
        parts.append(f"{len(report['buckets'])} buckets")
    if rows:
        parts.append(f"{sum(row['where'] == 'core' for row in rows)} of {len(rows)} ops on the core")
    if refused := sum(row["why"].startswith(REFUSED) for row in rows):
        parts.append(f"{refused} refused by the back end")
    if report["peak_sbuf_bytes"]:
        parts.append(f"peak SBUF {report['peak_sbuf_bytes']} B/partition")
    if report["spills"]:
        parts.append(f"{len(report['spills'])} spills")
    if search := report.get("search"):
        gain = 100 * (1 - search["seconds"] / search["default_seconds"]) if search["default_seconds"] else 0.0
        parts.append(f"{gain:.1f} % faster than -O2 after {len(search['tried'])} trials")
    cached = " from the cache" if report.get("from_cache") else ""
    parts.append(f"{report['compile_seconds']['total']:.1f} s{cached}")
    return f"{output}: {', '.join(parts)}"


if __name__ == "__main__":
    sys.exit(main())

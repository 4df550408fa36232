"""Model file in, NEFF out: the compiler as a function.

`compile_model` imports a model (files of other frameworks than ONNX through `lowering.frontends`), runs the default
pipeline and emits. Every decision that a user should know of (where each op runs and why, casts, spills, peak memory,
assumed machine figures) is collected in the report.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, ModuleOp, StringAttr

from lowering.pipeline import LEVELS, pass_name, pass_specs, run_passes
from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import TARGET_ATTRIBUTE, TargetAttr
from neuron_dialects.target import load_target
from neuron_dialects.weights import WeightStore
from passes.graph.auto_cast import casts_of, products_of
from passes.graph.partition import partition_report
from runtime.neff import Neff

if TYPE_CHECKING:
    from onnx import ModelProto

    from lowering.onnx_to_graph.result import ImportInfo

AUTO_CAST = ("none", "matmult", "all")
AUTO_CAST_TYPES = ("bf16", "fp16", "tf32")
EMITS = ("import", *LEVELS, "neff")
"""Where compiling can stop: right after the import, at the end of a level, or with the NEFF."""
_TYPE_NAMES = {"bf16": "bf16", "fp16": "f16", "tf32": "tf32"}

Progress = Callable[[str], None]


@dataclass(frozen=True)
class CompileOptions:
    """What to compile for. `auto_cast_type` is spelled as on the command line (bf16, fp16, tf32).

    `without` names passes of the default pipeline to leave out, to see what each is worth.
    """

    target: str = "inf1"
    auto_cast: str = "matmult"
    auto_cast_type: str = "bf16"
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    emit: str = "neff"
    without: tuple[str, ...] = ()

    def check(self) -> None:
        """NeuronError NX-ARG-001 for a value that is none of the allowed ones."""
        load_target(self.target)
        for name, value, allowed in (
            ("--auto-cast", self.auto_cast, AUTO_CAST),
            ("--auto-cast-type", self.auto_cast_type, AUTO_CAST_TYPES),
            ("--emit", self.emit, EMITS),
        ):
            if value not in allowed:
                raise NeuronError("NX-ARG-001", f"{name} {value}: choose one of {', '.join(allowed)}")
        unknown = set(self.without) - {pass_name(spec) for spec in pass_specs()}
        if unknown:
            raise NeuronError("NX-ARG-001", f"no pass {min(unknown)} in the default pipeline")


@dataclass
class CompileResult:
    """The module at the level where compiling stopped, its weights, the NEFF (None before that level), the report."""

    module: ModuleOp
    weights: WeightStore
    neff: Neff | None
    report: dict[str, Any]


def compile_model(
    source: "str | Path | ModelProto", options: CompileOptions | None = None, progress: Progress | None = None
) -> CompileResult:
    """Compile a model file, or an ONNX model in memory. Raises NeuronError for whatever a user can cause."""
    from lowering.frontends import model_name, to_onnx
    from lowering.onnx_to_graph import import_onnx

    options = options or CompileOptions()
    options.check()
    tell = progress or (lambda _: None)
    started = time.perf_counter()
    tell("import")
    model = to_onnx(source)
    imported = import_onnx(model, input_shapes=dict(options.input_shapes), target=options.target)
    module = imported.module
    module.attributes[TARGET_ATTRIBUTE] = TargetAttr(options.target)
    seconds: dict[str, float] = {"import": time.perf_counter() - started}

    def done(name: str, elapsed: float, _: ModuleOp) -> None:
        seconds[name] = seconds.get(name, 0.0) + elapsed
        tell(name)

    until = options.emit if options.emit in LEVELS else LEVELS[-1]
    cast_type = _TYPE_NAMES[options.auto_cast_type]
    specs = [] if options.emit == "import" else pass_specs(options.auto_cast, cast_type, until)
    specs = [spec for spec in specs if pass_name(spec) not in options.without]
    run_passes(Context(), module, specs, done)
    report = _report(module, options, imported.info)
    neff = None
    if options.emit == "neff":
        from lowering.nisa_to_neff import emit_neff
        from runtime.neff import encode_queue

        begun = time.perf_counter()
        name = model_name(Path(source)) if isinstance(source, str | Path) else source.graph.name
        neff = emit_neff(module, imported.weights, name, report)
        report["instruction_bytes"] = sum(
            len(encode_queue(entries)) for image in neff.subgraphs for entries in image.program.queues.values()
        )
        neff.report = dict(report)
        seconds["emit"] = time.perf_counter() - begun
        tell("emit")
    seconds["total"] = time.perf_counter() - started
    report["compile_seconds"] = seconds
    return CompileResult(module, imported.weights, neff, report)


def _report(module: ModuleOp, options: CompileOptions, info: "ImportInfo") -> dict[str, Any]:
    """The report before emission, whose figures are still missing from it."""
    target = load_target(options.target)
    return {
        "target": options.target,
        "auto_cast": options.auto_cast,
        "auto_cast_type": options.auto_cast_type,
        **decisions(module),
        "instruction_bytes": 0,
        "assumptions": [f"{name} = {target.figures[name].value}" for name in target.assumptions],
        "import": {
            "producer": info.producer,
            "opset": info.opset,
            "bound_dimensions": info.bound_dimensions,
            "notes": info.notes,
        },
    }


def decisions(module: ModuleOp) -> dict[str, Any]:
    """What passes left in attributes, as plain data: `partition`, `casts`, `products`, `spills`, `peak_sbuf_bytes`."""
    functions = [op for op in module.body.block.ops if isinstance(op, func.FuncOp)]
    return {
        "partition": [
            {"node": entry.node, "op": entry.op, "where": entry.executor.value, "why": entry.reason}
            for entry in partition_report(module)
        ],
        "casts": ["|".join(cast) for f in functions for cast in casts_of(f)],
        "products": [
            {"node": entry.node, "type": entry.dtype, "arithmetic": entry.arithmetic, "largest_sum": entry.largest_sum}
            for f in functions
            for entry in products_of(f)
        ],
        "spills": [row for f in functions for row in _rows(f, "neuron.spills")],
        "peak_sbuf_bytes": max((_number(f, "neuron.peak_sbuf_bytes") for f in functions), default=0),
    }


def _rows(op: func.FuncOp, name: str) -> list[str]:
    value = op.attributes.get(name)
    return [row.data for row in value.data if isinstance(row, StringAttr)] if isinstance(value, ArrayAttr) else []


def _number(op: func.FuncOp, name: str) -> int:
    value = op.attributes.get(name)
    return value.value.data if isinstance(value, IntegerAttr) else 0

"""Model file in, NEFF out: the compiler as a function.

`compile_model` imports a model (files of other frameworks than ONNX through `lowering.frontends`), runs the default
pipeline and emits. Every decision that a user should know of (where each op runs and why, casts, spills, peak memory,
assumed machine figures) is collected in the report. A model that is compiled for several sets of input shapes runs
through the pipeline once for each; one NEFF holds them all.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.passes import ModulePass

from lowering.bounded_scores import with_weights
from lowering.optimization import (
    DEFAULT_SEARCH_SECONDS,
    OPTIMIZATION_LEVELS,
    after_graph,
    check_settings,
    found_report,
    leave_out,
    search,
    with_settings,
)
from lowering.pipeline import LEVELS, no_collection, pass_name, pass_specs
from lowering.pipeline_report import AUTO
from lowering.pipeline_tuning import TunedPipelinePass
from lowering.refusals import run_with_refusals
from lowering.segment_report import segment_report
from lowering.weights_ahead import WeightsAhead
from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import TARGET_ATTRIBUTE, TargetAttr, number_attribute
from neuron_dialects.target import load_target
from neuron_dialects.weights import WeightStore
from passes.graph.auto_cast import casts_of, products_of
from passes.graph.partition import GraphPartitionPass, partition_report
from passes.graph.roll_layers import GraphRollLayersPass
from runtime.neff import OPAQUE, Neff
from runtime.neff.header import MAX_CORES
from runtime.neff.manifest import MAX_BUCKETS

if TYPE_CHECKING:
    from onnx import ModelProto

    from lowering.onnx_to_graph.result import ImportInfo
    from runtime.neff import DynamicDimension

AUTO_CAST = ("none", "matmult", "all")
AUTO_CAST_TYPES = ("bf16", "fp16", "tf32")
EMITS = ("import", *LEVELS, "neff")
"""Where compiling can stop: right after the import, at the end of a level, or with the NEFF."""
DYNAMIC_BATCH = ("auto", "require", "assume", "off")
"""What `require` refuses when rows are not proven independent, `assume` takes as proven, `off` never does."""
_TYPE_NAMES = {"bf16": "bf16", "fp16": "f16", "tf32": "tf32"}

PARTITION = GraphPartitionPass.name

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
    buckets: Sequence[Mapping[str, tuple[int, ...]]] = ()
    """Sets of input shapes, each bound together with `input_shapes`; one NEFF holds the model at all of them."""
    padding: Mapping[str, int | float] = field(default_factory=dict)
    """Input -> value of the elements that it is padded with up to a bucket's shape; 0 where absent."""
    dynamic_batch: str = "auto"
    """Whether a run may have any number of rows: `auto` if they are proven independent, else see DYNAMIC_BATCH."""
    saturate_infinity: bool = False
    """Whether what a narrower float type cannot hold, infinities too, becomes its largest finite number."""
    minimum_segment_size: int = 1
    """Core segments of fewer operators run on the host."""
    force_host: tuple[str, ...] = ()
    """Operators that run on the host: ONNX operators, or names of nodes."""
    force_core: tuple[str, ...] = ()
    """Operators that run on the core, or are an error."""
    must_compile: bool = False
    """Whether anything on the host is an error."""
    optimization_level: int = 2
    """1: quick to compile; 2: every pass with its defaults; 3: also search, for at most `search_seconds`."""
    search_seconds: float = DEFAULT_SEARCH_SECONDS
    settings: Mapping[str, str] = field(default_factory=dict)
    """`PASS.OPTION` -> value, or `PASS` -> "off", as in `lowering.optimization`; a search leaves these alone."""
    neuroncore_pipeline_cores: int | str = 1
    """Cores that the model is spread over as a pipeline, its weights on chip; "auto": as few as hold it; 1: none."""

    def check(self) -> None:
        """NeuronError NX-ARG-001 for a value that is none of the allowed ones."""
        load_target(self.target)
        for name, value, allowed in (
            ("--auto-cast", self.auto_cast, AUTO_CAST),
            ("--auto-cast-type", self.auto_cast_type, AUTO_CAST_TYPES),
            ("--emit", self.emit, EMITS),
            ("--dynamic-batch-size", self.dynamic_batch, DYNAMIC_BATCH),
        ):
            if value not in allowed:
                raise NeuronError("NX-ARG-001", f"{name} {value}: choose one of {', '.join(allowed)}")
        unknown = set(self.without) - {pass_name(spec) for spec in pass_specs()}
        if unknown:
            raise NeuronError("NX-ARG-001", f"no pass {min(unknown)} in the default pipeline")
        if self.optimization_level not in OPTIMIZATION_LEVELS:
            levels = ", ".join(map(str, OPTIMIZATION_LEVELS))
            raise NeuronError("NX-ARG-001", f"-O{self.optimization_level}: choose one of {levels}")
        if not self.search_seconds > 0:
            raise NeuronError("NX-ARG-001", f"--search-seconds {self.search_seconds}: more than 0")
        check_settings(self.settings)
        if self.minimum_segment_size < 1:
            raise NeuronError("NX-ARG-001", f"--minimum-segment-size {self.minimum_segment_size}: at least 1")
        if len(self.buckets) > 1 and self.emit != "neff":
            raise NeuronError("NX-SHAPE-002", f"--emit {self.emit} writes the model at one shape, not at several")
        self._check_pipeline()
        if len(self.buckets) > MAX_BUCKETS:
            raise NeuronError("NX-SHAPE-002", f"{len(self.buckets)} buckets, limit {MAX_BUCKETS}")

    def _check_pipeline(self) -> None:
        """NX-ARG-001 for a number of cores that there cannot be, NX-PIPE-003 for a pipeline of several buckets."""
        cores = self.neuroncore_pipeline_cores
        if cores != "auto" and not (isinstance(cores, int) and 1 <= cores <= MAX_CORES):
            raise NeuronError("NX-ARG-001", f"--neuroncore-pipeline-cores {cores}: 1 to {MAX_CORES}, or auto")
        if cores != 1 and len(self.buckets) > 1:
            raise NeuronError(
                "NX-PIPE-003",
                f"a pipeline of a model at {len(self.buckets)} sets of shapes",
                help="compile each set of shapes into a file of its own",
            )

    def shape_sets(self) -> list[dict[str, tuple[int, ...]]]:
        """The shapes to bind, once for each compilation."""
        return [{**self.input_shapes, **bucket} for bucket in self.buckets or ({},)]


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
    """Compile a model file, or an ONNX model in memory. Raises NeuronError for whatever a user can cause.

    With several buckets the result's module, weights and the report's figures are those of the first.
    """
    options = options or CompileOptions()
    options.check()
    with no_collection():
        return _compile(source, options, progress)


def _compile(source: "str | Path | ModelProto", options: CompileOptions, progress: Progress | None) -> CompileResult:
    """`compile_model` with options that were checked."""
    from lowering.frontends import model_name, to_onnx

    clock = _Clock(progress or (lambda _: None))
    model = to_onnx(source)
    clock.seconds["import"] = clock.elapsed()
    emission = _Emission(clock) if options.emit == "neff" else None
    compiled: list[_Compiled] = []
    for shapes in options.shape_sets():
        one = _compile_best(model, options, shapes, clock)
        _refuse_equal_buckets([*(c.info for c in compiled), one.info])
        if emission is not None:
            emission.add(one)
        compiled.append(one if not compiled else replace(one, module=None, weights=None, ahead=None))
    first = compiled[0]
    assert first.module is not None
    assert first.weights is not None
    report = first.report
    if len(compiled) > 1:
        report["buckets"] = [_bucket_row(one) for one in compiled]
    neff = None
    if emission is not None:
        dimensions = _dimensions(model, options, [one.info for one in compiled], report)
        name = model_name(Path(source)) if isinstance(source, str | Path) else source.graph.name
        neff = emission.neff(name, report, dimensions, options.padding)
    report["compile_seconds"] = clock.finished()
    return CompileResult(first.module, first.weights, neff, report)


@dataclass(frozen=True)
class _Compiled:
    """The model compiled at one set of shapes; module and weights are let go of where nobody needs them any more."""

    module: ModuleOp | None
    weights: WeightStore | None
    info: "ImportInfo"
    report: dict[str, Any]
    ahead: WeightsAhead | None = None
    """What is being computed of the weights, where the NEFF is wanted."""


class _Clock:
    """Seconds of every step, summed over the sets of shapes, and the caller's progress."""

    def __init__(self, tell: Progress) -> None:
        self.tell = tell
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    def done(self, name: str, elapsed: float, _: object = None) -> None:
        """Note that a step has taken so long."""
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
        self.tell(name)

    def finished(self) -> dict[str, float]:
        """All seconds, with their total."""
        return {**self.seconds, "total": self.elapsed()}

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started


def _compile_best(
    source: "str | os.PathLike[str] | ModelProto",
    options: CompileOptions,
    shapes: Mapping[str, tuple[int, ...]],
    clock: _Clock,
) -> _Compiled:
    """Compile at these shapes, with the settings that the optimisation level gives or finds."""
    settings = leave_out(options.optimization_level, options.settings)
    default = _compile_at(source, options, shapes, settings, clock)
    if options.optimization_level < OPTIMIZATION_LEVELS[-1] or options.emit not in ("neff", LEVELS[-1]):
        return default

    def compile_with(tried: Mapping[str, str], until: str = LEVELS[-1]) -> _Compiled:
        return _compile_at(source, replace(options, emit=until), shapes, tried, _Clock(lambda _: None))

    def fingerprint(tried: Mapping[str, str]) -> str:
        """The graph level's text, which takes a small part of the time, and the settings of what comes after."""
        text = f"{compile_with(tried, LEVELS[0]).module}\n{after_graph(tried)}"
        return hashlib.sha256(text.encode()).hexdigest()

    begun = time.perf_counter()
    found, best = search(fingerprint, compile_with, default, settings, options.search_seconds, clock.tell)
    clock.done("search", time.perf_counter() - begun)
    best.report["search"] = found_report(found)
    return best


def _compile_at(
    source: "str | os.PathLike[str] | ModelProto",
    options: CompileOptions,
    shapes: Mapping[str, tuple[int, ...]],
    settings: Mapping[str, str],
    clock: _Clock,
) -> _Compiled:
    """Import the model with these shapes and run the pipeline with these settings."""
    from lowering.graph_to_tile.convert import ConvertGraphToTilePass
    from lowering.onnx_to_graph import import_onnx

    clock.tell("import")
    begun = time.perf_counter()
    imported = import_onnx(source, input_shapes=dict(shapes), target=options.target)
    module = imported.module
    module.attributes[TARGET_ATTRIBUTE] = TargetAttr(options.target)
    clock.seconds["import"] = clock.seconds.get("import", 0.0) + time.perf_counter() - begun
    placed: dict[str, Any] = {"segments": [], "transfers": []}
    ahead: WeightsAhead | None = None

    def done(name: str, elapsed: float, module: ModuleOp) -> None:
        nonlocal ahead
        clock.done(name, elapsed)
        if name == ConvertGraphToTilePass.name and options.emit == "neff":
            if ahead is not None:
                ahead.stop()
            ahead = WeightsAhead(module, imported.weights)
        if name == PARTITION:
            # The numbers of what the last partition left, before operators become loops.
            placed.update(segment_report(module))

    passes = with_weights(passes_for(options, imported.info, settings), imported.weights)
    try:
        module = run_with_refusals(Context(), module, passes, done)
    except BaseException:
        if ahead is not None:
            ahead.stop()
        raise
    report = _report(module, options, imported.info) | placed
    for given in passes:
        if isinstance(given, TunedPipelinePass):
            report["pipeline"] = dict(given.report)
    return _Compiled(module, imported.weights, imported.info, report, ahead)


def passes_for(
    options: CompileOptions, info: "ImportInfo", settings: Mapping[str, str] | None = None
) -> list[str | ModulePass]:
    """The passes, or their specs, that take an imported model to where the options want it, in order.

    `settings` as in `lowering.optimization`; those of the options by default. NeuronError NX-PART-003 for a name that
    an operator is to be forced by and that the model does not have.
    """
    if options.emit == "import":
        return []
    until = options.emit if options.emit in LEVELS else LEVELS[-1]
    cast_type = _TYPE_NAMES[options.auto_cast_type]
    specs = pass_specs(options.auto_cast, cast_type, until, saturate=options.saturate_infinity)
    left_out = {*options.without, *(() if options.neuroncore_pipeline_cores == 1 else (GraphRollLayersPass.name,))}
    specs = [spec for spec in specs if pass_name(spec) not in left_out]
    chosen = leave_out(options.optimization_level, options.settings) if settings is None else settings
    partition = _partition(options, info)
    passes: list[str | ModulePass] = list(with_settings(specs, chosen))
    for own in (partition, _tuned_pipeline(options, chosen)):
        if own is not None:
            passes = [own if given == own.name else given for given in passes]
    return passes


def _tuned_pipeline(options: CompileOptions, settings: Mapping[str, str]) -> TunedPipelinePass | None:
    """The pass that shards the model, where that was asked for."""
    cores = options.neuroncore_pipeline_cores
    if cores == 1:
        return None
    specs = pass_specs(options.auto_cast, _TYPE_NAMES[options.auto_cast_type])
    behind = specs[specs.index(TunedPipelinePass.name) + 1 :]
    kept = with_settings([spec for spec in behind if pass_name(spec) not in options.without], settings)
    return TunedPipelinePass(AUTO if isinstance(cores, str) else cores, tuple(kept))


class _Emission:
    """The NEFF in the making, with the size of each bucket's instructions in its report."""

    def __init__(self, clock: _Clock) -> None:
        from lowering.nisa_to_neff import NeffEmitter

        self.clock = clock
        self.emitter = NeffEmitter()

    def add(self, compiled: _Compiled) -> None:
        """Emit one compiled module."""
        from runtime.neff import encode_queue

        assert compiled.module is not None
        assert compiled.weights is not None
        begun, known = time.perf_counter(), len(self.emitter.cores)
        computed = compiled.ahead.arrays() if compiled.ahead is not None else None
        self.emitter.add(compiled.module, compiled.weights, computed)
        compiled.report["instruction_bytes"] = sum(
            len(encode_queue(entries))
            for image in self.emitter.cores[known:]
            for entries in image.program.queues.values()
        )
        self.clock.done("emit", time.perf_counter() - begun)

    def neff(
        self,
        name: str,
        report: dict[str, Any],
        dimensions: "Sequence[DynamicDimension]",
        padding: Mapping[str, int | float],
    ) -> Neff:
        """The whole model. NX-ONNX-005 or NX-ARG-002 for a padding that no input takes."""
        from runtime.neff.bucket_check import is_padding

        inputs = {spec.name: spec for spec in self.emitter.buckets[0].inputs if spec.dtype != OPAQUE}
        for tensor, value in padding.items():
            if tensor not in inputs:
                raise NeuronError("NX-ONNX-005", f"the model has no input '{tensor}' that could be padded")
            if not is_padding(value, inputs[tensor].dtype):
                raise NeuronError("NX-ARG-002", f"--pad {tensor}={value}: input '{tensor}' is {inputs[tensor].dtype}")
        return self.emitter.neff(name, report, dimensions, padding)


def _dimensions(
    source: "str | os.PathLike[str] | ModelProto",
    options: CompileOptions,
    buckets: "list[ImportInfo]",
    report: dict[str, Any],
) -> "list[DynamicDimension]":
    """The dimensions that a run may choose; notes in the report what is known of each."""
    from lowering.dynamic_shapes import chosen_dimensions, find_dimensions

    if not buckets[0].symbols or (options.dynamic_batch == "off" and not options.buckets):
        return []
    findings = find_dimensions(source, buckets, only_batch=not options.buckets)
    dimensions, report["dimensions"] = chosen_dimensions(findings, options.dynamic_batch, bool(options.buckets))
    return dimensions


def _refuse_equal_buckets(infos: "Sequence[ImportInfo]") -> None:
    """NX-SHAPE-002 when the last bucket binds the inputs to the shapes of an earlier one."""
    *earlier, last = infos
    if any(info.input_shapes == last.input_shapes for info in earlier):
        shapes = "; ".join(f"{name}={','.join(map(str, shape))}" for name, shape in last.input_shapes.items())
        raise NeuronError("NX-SHAPE-002", f"two buckets have the shapes {shapes}")


def _bucket_row(compiled: _Compiled) -> dict[str, Any]:
    """What differs between buckets in the report."""
    partition = compiled.report["partition"]
    return {
        "input_shapes": {name: list(shape) for name, shape in compiled.info.input_shapes.items()},
        "ops": len(partition),
        "ops_on_core": sum(row["where"] == "core" for row in partition),
        **{key: compiled.report[key] for key in ("spills", "peak_sbuf_bytes", "instruction_bytes")},
    }


def _partition(options: CompileOptions, info: "ImportInfo") -> GraphPartitionPass:
    """The partition that was asked for. NeuronError NX-PART-003 for a name that the model does not have."""
    return GraphPartitionPass(
        options.minimum_segment_size,
        _nodes_called(options.force_host, "--force-host", info),
        _nodes_called(options.force_core, "--force-core", info),
        options.must_compile,
    )


def _nodes_called(names: Iterable[str], option: str, info: "ImportInfo") -> tuple[str, ...]:
    """The nodes of a model that are called so, or whose operator is."""
    nodes = {node for called in info.operators.values() for node in called}
    found: dict[str, None] = {}
    for name in names:
        if name not in info.operators and name not in nodes:
            raise NeuronError(
                "NX-PART-003",
                f"{option} {name}: the model has no such operator, and no node of that name",
                help=f"its operators are {', '.join(sorted(info.operators)) or 'none'}",
            )
        found |= dict.fromkeys(info.operators.get(name, ()))
        if name in nodes:
            found[name] = None
    return tuple(found)


def _report(module: ModuleOp, options: CompileOptions, info: "ImportInfo") -> dict[str, Any]:
    """The report before emission, whose figures are still missing from it."""
    target = load_target(options.target)
    return {
        "target": options.target,
        "auto_cast": options.auto_cast,
        "auto_cast_type": options.auto_cast_type,
        "saturate_infinity": options.saturate_infinity,
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
            {"node": row.node, "op": row.op, "where": row.executor.value, "segment": row.segment, "why": row.reason}
            for row in partition_report(module)
        ],
        "casts": ["|".join(cast) for f in functions for cast in casts_of(f)],
        "products": [
            {"node": entry.node, "type": entry.dtype, "arithmetic": entry.arithmetic, "largest_sum": entry.largest_sum}
            for f in functions
            for entry in products_of(f)
        ],
        "spills": [row for f in functions for row in _rows(f, "neuron.spills")],
        "peak_sbuf_bytes": max((number_attribute(f, "neuron.peak_sbuf_bytes") for f in functions), default=0),
    }


def _rows(op: func.FuncOp, name: str) -> list[str]:
    value = op.attributes.get(name)
    return [row.data for row in value.data if isinstance(row, StringAttr)] if isinstance(value, ArrayAttr) else []

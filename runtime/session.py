"""Runs a compiled model: core segments on the machine, host segments on onnxruntime.

A `Session` is given a `Neff`. `run` takes the model's inputs by name, checks and converts them at the boundary (int64
values become int32 only when they fit), chooses a bucket and pads or cuts the inputs where the model allows it,
executes the segments in order and gives the outputs by name, and the machine's timing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import Target, load_target
from runtime.boundary import bind_inputs, converted, known_inputs
from runtime.buckets import Assembly, Piece, cut, plan_run
from runtime.machine import Machine, Mode, Timing
from runtime.machine.decode import DecodedProgram, decode_program
from runtime.machine.timing import EngineTiming
from runtime.neff import CORE, OPAQUE, Bucket, CoreImage, GraphNode, Neff, TensorSpec
from runtime.views import Region

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class RunResult:
    """What one inference gave.

    `outputs`: arrays by name (none in timing mode); `timings`: one for each core segment that ran, in order (none in
    functional mode); `bucket`: index of the shapes that ran; `pieces`: how many times they ran.
    """

    outputs: dict[str, Array]
    timings: list[Timing]
    bucket: int = 0
    pieces: int = 1


def to_device(value: Array, spec: TensorSpec) -> Array:
    """A tensor in the element type that cores compute with; NeuronError NX-RUN-010 if a value does not fit."""
    return converted(value, spec.name, dtype_by_name(spec.device_dtype))


def from_device(value: Array, spec: TensorSpec) -> Array:
    """What a core computed for a tensor, in the tensor's shape and the element type that the caller sees."""
    return value.reshape(spec.shape).astype(dtype_by_name(spec.dtype).numpy, copy=False)


def device_inputs(
    program: CoreProgram, node: GraphNode, specs: Mapping[str, TensorSpec], values: Mapping[str, Array]
) -> dict[str, Array]:
    """The inputs of a core program, by variable, of those tensors that `values` holds. Raises as `to_device`."""
    sources = [variable for variable in program.variables if variable.kind == "input"]
    return {
        variable.name: to_device(values[name], specs[name]).reshape(variable.shape)
        for variable, name in zip(sources, node.inputs, strict=True)
        if name in values
    }


def parameters_of(image: CoreImage) -> dict[str, Array]:
    """Parameters as arrays of their variables' shapes and types (raw bytes are viewed, not copied)."""
    variables = {v.name: v for v in image.program.variables if v.kind == "file"}
    arrays: dict[str, Array] = {}
    for name, value in image.parameters.items():
        variable = variables[name]
        if isinstance(value, np.ndarray):
            arrays[name] = np.ascontiguousarray(value).reshape(variable.shape)
        else:
            arrays[name] = np.frombuffer(value, dtype_by_name(variable.dtype).numpy).reshape(variable.shape)
    return arrays


def combined(timings: Sequence[Timing], target: Target) -> Timing:
    """The timing of core segments that run one after the other."""
    names = dict.fromkeys(name for timing in timings for name in timing.engines)
    engines = {
        name: EngineTiming(
            sum(t.engines[name].active_time for t in timings if name in t.engines),
            sum(t.engines[name].instruction_count for t in timings if name in t.engines),
            sum(t.engines[name].control_count for t in timings if name in t.engines),
        )
        for name in names
    }
    macs = sum(t.macs for t in timings)
    passes = sum(t.macs * t.matmul_passes for t in timings) / macs if macs else 1.0
    return Timing(
        target=target,
        total_time=sum(t.total_time for t in timings),
        engines=engines,
        dma_active_time=sum(t.dma_active_time for t in timings),
        dma_count=sum(t.dma_count for t in timings),
        dma_bytes=sum(t.dma_bytes for t in timings),
        hbm_read_bytes=sum(t.hbm_read_bytes for t in timings),
        hbm_write_bytes=sum(t.hbm_write_bytes for t in timings),
        macs=macs,
        matmul_passes=passes,
        model_macs=sum(t.model_macs for t in timings),
        compulsory_bytes=sum(t.compulsory_bytes for t in timings),
    )


def timing_figures(timings: Sequence[Timing], target: Target) -> dict[str, float | int | bool]:
    """The figures of core segments that ran one after the other, under the profiler's names."""
    return {**combined(timings, target).summary(), "is_simulation": True}


class _LoadedBucket:
    """The model at one set of shapes, with its tensors by name."""

    def __init__(self, bucket: Bucket):
        self.graph = bucket.graph
        self.outputs = bucket.outputs
        self.specs = {spec.name: spec for spec in (*bucket.inputs, *bucket.intermediates, *bucket.outputs)}
        self.input_shapes = {spec.name: spec.shape for spec in bucket.inputs if spec.dtype != OPAQUE}


class _SharedParts:
    """What all sessions of a model have in common: decoded programs, parameters, host models; each is made once."""

    def __init__(self, neff: Neff, target: Target):
        self._neff, self._target = neff, target
        self._lock = threading.Lock()
        self._decoded: dict[int, DecodedProgram] = {}
        self._parameters: dict[int, dict[str, Array]] = {}
        self._hosts: dict[int, _HostModel] = {}

    def decoded(self, callee: int) -> DecodedProgram:
        """A core program, decoded."""
        with self._lock:
            if callee not in self._decoded:
                self._decoded[callee] = decode_program(self._neff.subgraphs[callee].program, self._target)
            return self._decoded[callee]

    def parameters(self, callee: int) -> dict[str, Array]:
        """The parameters of a core program."""
        with self._lock:
            if callee not in self._parameters:
                self._parameters[callee] = parameters_of(self._neff.subgraphs[callee])
            return self._parameters[callee]

    def host(self, callee: int) -> _HostModel:
        """A host model, ready to run."""
        with self._lock:
            if callee not in self._hosts:
                self._hosts[callee] = _HostModel(self._neff.host_models[callee])
            return self._hosts[callee]


CoreGuard = Callable[[int], AbstractContextManager[Any]]
"""Index of a core program -> what to hold while it runs."""


@dataclass
class _Core:
    """A core of a session: the memories that its programs share, and what the one that runs holds."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    on_chip: dict[str, Region] = field(default_factory=dict[str, Region])


class Session:
    """A loaded model: one set of cores. Thread-safe: a core runs one program at a time, host segments beside it.

    Args:
        neff: the model.
        core_guard: what a run holds besides while a core program runs.
    """

    def __init__(self, neff: Neff, core_guard: CoreGuard | None = None):
        self.neff = neff
        self.target = load_target(neff.target)
        self._machines: dict[int, Machine] = {}
        shared: dict[int, _Core] = {}
        numbers = [image.program.core for image in neff.subgraphs]
        self._cores = [_Core() if core is None else shared.setdefault(core, _Core()) for core in numbers]
        self._core_guard = core_guard or (lambda callee: nullcontext())
        self._shared = _SharedParts(neff, self.target)
        self._buckets = [_LoadedBucket(bucket) for bucket in neff.buckets]

    def sibling(self, core_guard: CoreGuard | None = None) -> Session:
        """The same model on another set of cores; what does not change (programs, parameters) is shared."""
        other = Session(self.neff, core_guard)
        other._shared = self._shared
        return other

    def prepare(self) -> None:
        """Decode every program and make every host model, which `run` else does when it first needs them."""
        for callee in range(len(self.neff.subgraphs)):
            self._shared.decoded(callee)
            self._shared.parameters(callee)
        for callee in range(len(self.neff.host_models)):
            self._shared.host(callee)

    def core_time(self, callee: int) -> float:
        """Simulated seconds of a core program, on a machine that is used for nothing else."""
        program = self.neff.subgraphs[callee].program
        timing = Machine(program, self.target, self._shared.decoded(callee)).run({}, {}, "timing").timing
        assert timing is not None
        return timing.total_time

    def split(
        self, inputs: Mapping[str, Array], mode: Mode = "functional"
    ) -> tuple[list[tuple[Piece, dict[str, Any]]], Assembly]:
        """The runs that inputs of any size take: the inputs of each piece, in the shapes of the chosen bucket, and what
        puts their outputs together. Raises as `run`.
        """
        # How long core programs take does not depend on values.
        opaque, numbers = self._bound(inputs, convert=mode != "timing" or bool(self.neff.host_models))
        dimensions = self.neff.dimensions
        shapes = {name: value.shape for name, value in numbers.items()}
        plan = plan_run([bucket.input_shapes for bucket in self._buckets], dimensions, shapes)
        bucket = self._buckets[plan.bucket]
        runs: list[tuple[Piece, dict[str, Any]]] = []
        for piece in plan.pieces:
            values: dict[str, Any] = dict(opaque)
            for name, value in numbers.items():
                shape, padding = bucket.input_shapes[name], self.neff.padding.get(name, 0)
                values[name] = cut(name, value, shape, dimensions, piece, padding)
            runs.append((piece, values))
        return runs, Assembly(dimensions, plan)

    def run(self, inputs: Mapping[str, Array], mode: Mode = "functional") -> RunResult:
        """One inference. Raises NeuronError for missing, unknown or misshapen inputs and for faults of the program.

        Along the model's dynamic dimensions inputs may have sizes that it was not compiled for: the smallest bucket
        that fits runs, on padded inputs, as often as needed where the dimension can be cut in pieces.
        """
        runs, assembly = self.split(inputs, mode)
        bucket = self._buckets[assembly.plan.bucket]
        timings: list[Timing] = []
        for piece, values in runs:
            timings += self._run_bucket(bucket, values, mode)
            if mode != "timing":
                assembly.add(piece, {spec.name: values[spec.name] for spec in bucket.outputs})
            values.clear()
        return RunResult(assembly.outputs, timings, assembly.plan.bucket, len(runs))

    def bind(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The inputs that are arrays of numbers, in the model's element types, checked as `run` checks them."""
        numbers = self._bound(inputs)[1]
        shapes = {name: value.shape for name, value in numbers.items()}
        plan_run([bucket.input_shapes for bucket in self._buckets], self.neff.dimensions, shapes)
        return numbers

    def _bound(self, inputs: Mapping[str, Array], convert: bool = True) -> tuple[dict[str, Any], dict[str, Array]]:
        """The inputs that only the host understands, and the others, if `convert` in the model's element types."""
        # Strings, sequences and the like are only for the host, which checks them itself.
        opaque = {spec.name for spec in self.neff.inputs if spec.dtype == OPAQUE}
        given = {name: value for name, value in inputs.items() if name not in opaque}
        specs = {spec.name: (spec.shape, spec.dtype) for spec in self.neff.inputs if spec.name not in opaque}
        if self.neff.dimensions or self.neff.further_buckets:
            known_inputs(specs, given)
            specs = {name: (np.shape(given[name]), dtype) for name, (_, dtype) in specs.items()}
        return {name: inputs[name] for name in opaque if name in inputs}, bind_inputs(specs, given, convert)

    def _run_bucket(self, bucket: _LoadedBucket, values: dict[str, Any], mode: Mode) -> list[Timing]:
        """Run the nodes on `values`, which holds the inputs and gets every tensor; the timings of core segments."""
        timings: list[Timing] = []
        for node in bucket.graph:
            if node.executor == CORE:
                timing = self._run_core(node, bucket.specs, values, mode)
                if timing is not None:
                    timings.append(timing)
            else:
                self.run_host(node, bucket.specs, values)
        return timings

    def summary(self, result: RunResult) -> dict[str, float | int | bool]:
        """Timing figures over all core segments, under the profiler's names (seconds; `_percent` from 0 to 1)."""
        return timing_figures(result.timings, self.target)

    def _run_core(
        self, node: GraphNode, specs: Mapping[str, TensorSpec], values: dict[str, Array], mode: Mode
    ) -> Timing | None:
        image = self.neff.subgraphs[node.callee]
        program = image.program
        sinks = [v for v in program.variables if v.kind == "output"]
        given = {} if mode == "timing" else device_inputs(program, node, specs, values)
        core = self._cores[node.callee]
        with self._core_guard(node.callee), core.lock:
            if node.callee not in self._machines:
                decoded = self._shared.decoded(node.callee)
                self._machines[node.callee] = Machine(program, self.target, decoded, core.on_chip)
            result = self._machines[node.callee].run(given, self._shared.parameters(node.callee), mode)
        for variable, name in zip(sinks, node.outputs, strict=True):
            spec = specs[name]
            if mode != "timing":
                values[name] = from_device(result.outputs[variable.name], spec)
            elif self.neff.host_models:
                values[name] = np.zeros(spec.shape, dtype_by_name(spec.dtype).numpy)
        return result.timing

    def run_host(self, node: GraphNode, specs: Mapping[str, TensorSpec], values: dict[str, Any]) -> None:
        """Run a host segment on `values`, which gets what it makes."""
        results = self._shared.host(node.callee).run([values[name] for name in node.inputs])
        if len(results) != len(node.outputs):
            raise NeuronError("NX-RUN-005", f"a host segment gives {len(results)} tensors, not {len(node.outputs)}")
        for name, value in zip(node.outputs, results, strict=True):
            values[name] = _from_host(specs[name], value)


def _from_host(spec: TensorSpec, value: Any) -> Any:
    """What a host segment gave for a tensor, in its element type; NeuronError NX-RUN-005 if it is not such a tensor."""
    if spec.dtype == OPAQUE:
        return value
    dtype = dtype_by_name(spec.dtype).numpy
    array = np.asarray(value)
    if dtype.isbuiltin != 1 and array.dtype.kind in "fV":
        array = array.astype(dtype)
    fits = len(array.shape) == len(spec.shape) and all(
        w in (-1, n) for w, n in zip(spec.shape, array.shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        given = f"{array.dtype}{list(array.shape)}"
        raise NeuronError(
            "NX-RUN-005", f"a host segment gives '{spec.name}' as {given}, not {spec.dtype}{list(spec.shape)}"
        )
    return array


class _HostModel:
    """An ONNX model run by onnxruntime, or by ONNX's reference evaluator where that is better or the only one able.

    The evaluator takes over for element types that onnxruntime's arrays lack, for operators whose kernels there are
    less exact than single precision, and when onnxruntime refuses the model or fails on it. Thread-safe: the evaluator
    runs once at a time.
    """

    def __init__(self, model: bytes):
        import onnx

        try:
            self._model = onnx.load_from_string(model)
        except Exception as error:  # protobuf's exception classes differ between its implementations
            raise NeuronError("NX-OP-001", "the host cannot run a segment: it is not an ONNX model") from error
        graph = self._model.graph
        self._names = [value.name for value in graph.input]
        self._types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        boundary = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
        bodies = (graph.node, *(function.node for function in self._model.functions))
        operators = {node.op_type for nodes in bodies for node in nodes}
        self._refusal: Exception | None = None
        self._evaluator: Any = None
        self._guard: AbstractContextManager[Any] = nullcontext()
        if not boundary & _evaluator_types() and not operators & _EVALUATOR_OPERATORS:
            self._evaluator = self._onnxruntime(model)
        if self._evaluator is None:
            self._evaluator, self._guard = self._reference(), threading.Lock()

    def _onnxruntime(self, model: bytes) -> Any:
        """A session of onnxruntime, None if it refuses the model."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as refused:  # its exception classes are private to its extension module
            self._refusal = refused
            return None

    def _reference(self) -> Any:
        """The reference evaluator; NeuronError NX-OP-001 when it cannot run the model either."""
        from onnx.reference import ReferenceEvaluator

        try:
            return ReferenceEvaluator(self._model)
        except Exception as error:
            reason = str(self._refusal or error).splitlines()[0]
            raise NeuronError("NX-OP-001", f"the host cannot run a segment: {reason}") from error

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs in order. bf16 and the like enter as float32 where that is what the model declares."""
        from onnx import TensorProto

        if len(inputs) != len(self._names):
            raise NeuronError(
                "NX-RUN-005", f"a host segment is given {len(inputs)} tensors, it takes {len(self._names)}"
            )
        feeds = {
            name: value.astype(np.float32)
            if isinstance(value, np.ndarray) and value.dtype.isbuiltin != 1 and self._types[name] == TensorProto.FLOAT
            else value
            for name, value in zip(self._names, inputs, strict=True)
        }
        try:
            with self._guard:
                return list(self._evaluator.run(None, feeds))
        except Exception as error:
            failure = error
        try:
            results = list(self._reference().run(None, feeds))
        except Exception:
            reason = next(iter(str(failure).splitlines()), type(failure).__name__)
            raise NeuronError("NX-OP-002", f"a host segment failed: {reason}") from failure
        return results


_EVALUATOR_OPERATORS = frozenset(("DFT", "STFT", "MaxUnpool", "Dropout"))
"""Operators that the evaluator runs: onnxruntime's DFT and STFT lose more than single precision's last bits near zero,
its MaxUnpool misplaces values when an output shape is given, and ONNX defines the mask of a training Dropout by the
evaluator's generator."""


def _evaluator_types() -> set[int]:
    """ONNX element types that onnxruntime's Python arrays do not carry: four bits and less, and floats of eight."""
    from onnx import TensorProto

    prefixes = ("FLOAT8", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2")
    return {number for name, number in TensorProto.DataType.items() if name.startswith(prefixes)}

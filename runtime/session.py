"""Runs a compiled model: core segments on the machine, host segments on onnxruntime.

A `Session` is given a `Neff`. `run` takes the model's inputs by name, checks and converts them at the boundary (int64
values become int32 only when they fit), executes the segments in order and gives the outputs by name, and the machine's
timing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.target import Target, load_target
from runtime.boundary import bind_inputs, converted
from runtime.machine import Machine, Mode, Timing
from runtime.machine.timing import EngineTiming
from runtime.neff import CORE, OPAQUE, CoreImage, GraphNode, Neff, TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class RunResult:
    """What one inference gave.

    `outputs`: arrays by name (none in timing mode); `timings`: one for each core segment that ran, in order (none in
    functional mode).
    """

    outputs: dict[str, Array]
    timings: list[Timing]


def to_device(value: Array, spec: TensorSpec) -> Array:
    """A tensor in the element type that cores compute with; NeuronError NX-RUN-010 if a value does not fit."""
    return converted(value, spec.name, dtype_by_name(spec.device_dtype))


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


class Session:
    """A loaded model. Not thread-safe; load the model once per thread."""

    def __init__(self, neff: Neff):
        self.neff = neff
        self.target = load_target(neff.target)
        self._machines: dict[int, Machine] = {}
        self._parameters: dict[int, dict[str, Array]] = {}
        self._hosts: dict[int, Any] = {}
        self._specs = {spec.name: spec for spec in (*neff.inputs, *neff.intermediates, *neff.outputs)}

    def run(self, inputs: Mapping[str, Array], mode: Mode = "functional") -> RunResult:
        """One inference. Raises NeuronError for missing, unknown or misshapen inputs and for faults of the program."""
        values = bind_inputs({spec.name: (spec.shape, spec.dtype) for spec in self.neff.inputs}, inputs)
        timings: list[Timing] = []
        for node in self.neff.graph:
            if node.executor == CORE:
                timing = self._run_core(node, values, mode)
                if timing is not None:
                    timings.append(timing)
            else:
                self._run_host(node, values)
        outputs = {} if mode == "timing" else {spec.name: values[spec.name] for spec in self.neff.outputs}
        return RunResult(outputs, timings)

    def summary(self, result: RunResult) -> dict[str, float | int | bool]:
        """Timing figures over all core segments, under the profiler's names (seconds; `_percent` from 0 to 1)."""
        return timing_figures(result.timings, self.target)

    def _run_core(self, node: GraphNode, values: dict[str, Array], mode: Mode) -> Timing | None:
        image = self.neff.subgraphs[node.callee]
        if node.callee not in self._machines:
            self._machines[node.callee] = Machine(image.program, self.target)
            self._parameters[node.callee] = parameters_of(image)
        program = image.program
        sources = [v.name for v in program.variables if v.kind == "input"]
        sinks = [v for v in program.variables if v.kind == "output"]
        shapes = {v.name: v.shape for v in program.variables}
        given = {
            variable: to_device(values[name], self._specs[name]).reshape(shapes[variable])
            for variable, name in zip(sources, node.inputs, strict=True)
        }
        result = self._machines[node.callee].run(given, self._parameters[node.callee], mode)
        for variable, name in zip(sinks, node.outputs, strict=True):
            spec = self._specs[name]
            if mode == "timing":
                values[name] = np.zeros(spec.shape, dtype_by_name(spec.dtype).numpy)
            else:
                computed = result.outputs[variable.name].reshape(spec.shape)
                values[name] = computed.astype(dtype_by_name(spec.dtype).numpy, copy=False)
        return result.timing

    def _run_host(self, node: GraphNode, values: dict[str, Any]) -> None:
        if node.callee not in self._hosts:
            self._hosts[node.callee] = _HostModel(self.neff.host_models[node.callee])
        results = self._hosts[node.callee].run([values[name] for name in node.inputs])
        for name, value in zip(node.outputs, results, strict=True):
            spec = self._specs[name]
            narrow = spec.dtype != OPAQUE and dtype_by_name(spec.dtype).numpy.isbuiltin != 1
            values[name] = value.astype(dtype_by_name(spec.dtype).numpy) if narrow else value


class _HostModel:
    """An ONNX model run by onnxruntime, or by ONNX's reference evaluator where onnxruntime has no kernel."""

    def __init__(self, model: bytes):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        self._evaluator: Any
        try:
            self._evaluator = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            self._names = [value.name for value in self._evaluator.get_inputs()]
        except Exception as refused:
            import onnx
            from onnx.reference import ReferenceEvaluator

            try:
                self._evaluator = ReferenceEvaluator(onnx.load_from_string(model))
            except Exception:
                reason = str(refused).splitlines()[0]
                raise NeuronError("NX-OP-001", f"the host cannot run a segment: {reason}") from refused
            self._names = list(self._evaluator.input_names)

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs in order; types that numpy lacks (bf16, 8-bit floats) enter as float32, as the model expects."""
        feeds = {
            name: value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype.isbuiltin != 1 else value
            for name, value in zip(self._names, inputs, strict=True)
        }
        try:
            return list(self._evaluator.run(None, feeds))
        except Exception as error:
            raise NeuronError("NX-OP-002", f"a host segment failed: {str(error).splitlines()[0]}") from error

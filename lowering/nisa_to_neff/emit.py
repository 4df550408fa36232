"""The last step: a partitioned module whose core functions are finished becomes a `Neff`.

Weights are computed here, once: raw ones come from the store as they are (memory-mapped), derived ones by running their
recipe. Host functions become ONNX models.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from xdsl.dialects import func
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr, TensorType
from xdsl.ir import Block, Region, SSAValue

from lowering.nisa_to_neff.host_model import host_model_bytes
from lowering.nisa_to_neff.program import core_program
from neuron_dialects.dtypes import dtype_of_or_none
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram, DramVariable
from neuron_dialects.neuron import Executor, LaunchOp, target_of
from neuron_dialects.target import Target
from neuron_dialects.weights import WeightStore
from runtime.graph_interpreter import WeightResolver
from runtime.neff import (
    CORE,
    HOST,
    OPAQUE,
    Bucket,
    CoreImage,
    DynamicDimension,
    GraphNode,
    Neff,
    TensorSpec,
    shared_file_name,
)
from runtime.neff.manifest import subgraph_name

Array = np.ndarray[Any, np.dtype[Any]]

DEVICE_DTYPES = {"i64": "i32", "ui64": "ui32", "f64": "f32"}
"""Element types that cores do not have -> what they compute with instead."""


def emit_neff(module: ModuleOp, store: WeightStore, name: str, report: Mapping[str, Any] | None = None) -> Neff:
    """The compiled model of `module`, whose core functions are in nisa form 5.

    NeuronError NX-IR-002 without a main function, NX-NEFF-022 when that does more than launch segments, and those of
    `core_program` and `host_model_bytes`.
    """
    emitter = NeffEmitter()
    emitter.add(module, store)
    return emitter.neff(name, report or {})


class NeffEmitter:
    """Puts the compiled modules of one model at several shapes into one `Neff`.

    Programs and host models of all buckets stand in one list each; equal parameters and host models are kept once.
    """

    def __init__(self) -> None:
        self.target = ""
        self.buckets: list[Bucket] = []
        self.cores: list[CoreImage] = []
        self.hosts: dict[bytes, int] = {}
        self._parameters = _SharedParameters()

    def add(self, module: ModuleOp, store: WeightStore, known: Mapping[str, Array] | None = None) -> None:
        """Emit the model at one more set of shapes. Raises as `emit_neff`. `known`: weights computed before."""
        functions = {f.sym_name.data: f for f in module.body.block.ops if isinstance(f, func.FuncOp)}
        if "main" not in functions:
            raise NeuronError("NX-IR-002", "the module has no function @main")
        main = functions["main"]
        names = _Names(main)
        launches = [op for op in main.body.block.ops if isinstance(op, LaunchOp) and op.executor.data == Executor.CORE]
        launched = dict.fromkeys(launch.callee.root_reference.data for launch in launches)
        numbers = {callee: len(self.cores) + position for position, callee in enumerate(launched)}
        segments = _Segments(functions, target_of(module), WeightResolver(module, store, known), self, numbers)
        nodes: list[GraphNode] = []
        for op in main.body.block.ops:
            if isinstance(op, LaunchOp):
                if op.times is not None:
                    raise NeuronError("NX-NEFF-022", "a launch is repeated", help="run nisa-link-parts before emission")
                arguments, results = (tuple(names.of(v) for v in values) for values in (op.arguments, op.results))
                callee = op.callee.root_reference.data
                executor = CORE if op.executor.data == Executor.CORE else HOST
                nodes.append(GraphNode(executor, segments.index(callee, executor), arguments, results, callee))
            elif not isinstance(op, func.ReturnOp):
                raise NeuronError(
                    "NX-NEFF-022", f"{op.name} in the main function", help="run graph-partition before emission"
                )
        if names.copies:
            labels, values = zip(*names.copies, strict=True)
            position = segments.add_copies(values)
            nodes.append(GraphNode(HOST, position, tuple(names.of(v) for v in values), labels, "copied_outputs"))
        inputs = [_spec(value, names.of(value)) for value in main.body.block.args]
        outputs = [_spec(value, label) for value, label in zip(_returned(main), names.outputs, strict=True)]
        inside = (v for op in main.body.block.ops for v in op.results)
        inner = [_spec(v, names.of(v)) for v in inside if v not in names.boundary]
        self.target = segments.target.name
        self.buckets.append(Bucket(nodes, inputs, outputs, inner))

    def neff(
        self,
        name: str,
        report: Mapping[str, Any],
        dimensions: Sequence[DynamicDimension] = (),
        padding: Mapping[str, int | float] | None = None,
    ) -> Neff:
        """The model of all modules added, of which there is at least one."""
        first, *further = self.buckets
        return Neff(
            name,
            self.target,
            self.cores,
            list(self.hosts),
            first.graph,
            first.inputs,
            first.outputs,
            first.intermediates,
            dict(report),
            further,
            list(dimensions),
            dict(padding or {}),
        )

    def add_core(self, program: CoreProgram, parameters: Mapping[str, Array]) -> int:
        """Position of a new core program."""
        image = self._parameters.shared(subgraph_name(len(self.cores)), program, parameters)
        self.cores.append(image)
        return len(self.cores) - 1

    def add_host(self, model: bytes) -> int:
        """Position of a host model, which may be there already."""
        return self.hosts.setdefault(model, len(self.hosts))


class _SharedParameters:
    """The parameters of all programs: values that an earlier program has are taken from its file.

    The values of a lone program are not looked at.
    """

    def __init__(self) -> None:
        self._first: tuple[str, CoreProgram, Mapping[str, Array]] | None = None
        self._known: dict[tuple[str, tuple[int, ...], bytes], tuple[str, str, Array]] = {}

    def shared(self, subgraph: str, program: CoreProgram, parameters: Mapping[str, Array]) -> CoreImage:
        """The program as a subgraph of this name, with file names of earlier subgraphs where values are equal."""
        if self._first is None:
            self._first = subgraph, program, parameters
            return CoreImage(program, dict(parameters))
        if not self._known:
            self._shared(*self._first)
        return self._shared(subgraph, program, parameters)

    def _shared(self, subgraph: str, program: CoreProgram, parameters: Mapping[str, Array]) -> CoreImage:
        """`shared`, with the program's own files known from now on."""
        values: dict[str, Array] = {}
        variables: list[DramVariable] = []
        for variable in program.variables:
            if variable.kind == "file":
                value = parameters[variable.name]
                digest = hashlib.sha256(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data).digest()
                key = (variable.dtype, variable.shape, digest)
                owner, file_name, kept = self._known.setdefault(key, (subgraph, variable.file_name, value))
                values[variable.name] = kept
                if owner != subgraph:
                    variable = replace(variable, file_name=shared_file_name(owner, file_name))
                elif file_name != variable.file_name:
                    values[variable.name] = value
            variables.append(variable)
        return CoreImage(replace(program, variables=variables), values)


@dataclass
class _Segments:
    """Segments of a module, each emitted when it is first launched; `numbers`: positions of the core programs."""

    functions: Mapping[str, func.FuncOp]
    target: Target
    weights: WeightResolver
    emitter: NeffEmitter
    numbers: Mapping[str, int]
    _emitted: dict[str, int] = field(default_factory=dict[str, int])

    def index(self, callee: str, executor: str) -> int:
        """Position of a segment among those of its executor."""
        if callee not in self._emitted:
            function = self.functions[callee]
            if executor == CORE:
                program = core_program(function, self.target, self.numbers)
                files = [variable for variable in program.variables if variable.kind == "file"]
                # A scalar is a variable of one element.
                parameters = {v.name: np.reshape(self.weights(v.name), v.shape) for v in files}
                self._emitted[callee] = self.emitter.add_core(program, parameters)
            else:
                self._emitted[callee] = self.emitter.add_host(host_model_bytes(function, self.weights))
        return self._emitted[callee]

    def add_copies(self, values: Sequence[SSAValue]) -> int:
        """Position of a host segment that returns values like these as they are."""
        types = [value.type for value in values]
        block = Block(arg_types=types)
        block.add_op(func.ReturnOp(*block.args))
        function = func.FuncOp("copied_outputs", (types, types), Region(block))
        return self.emitter.add_host(host_model_bytes(function, self.weights))


class _Names:
    """Tensor names of the main function: the model's own at its boundary, `t0`, `t1`, ... inside.

    `outputs` are the names of the model's outputs; `copies` those (name, value) whose value has a name already, because
    it is an input or another output too; `boundary` the values at the model's boundary.
    """

    def __init__(self, main: func.FuncOp):
        block, returned = main.body.block, _returned(main)
        arguments = _strings(main, "neuron.input_names", len(block.args), "input")
        self.outputs = _strings(main, "neuron.output_names", len(returned), "output")
        self.copies: list[tuple[str, SSAValue]] = []
        self._names: dict[SSAValue, str] = dict(zip(block.args, arguments, strict=True))
        for value, label in zip(returned, self.outputs, strict=True):
            if value in self._names:
                if self._names[value] != label:
                    self.copies.append((label, value))
            else:
                self._names[value] = label
        self.boundary = set(self._names)
        self._taken = {*arguments, *self.outputs}

    def of(self, value: SSAValue) -> str:
        """Name of a value; made up on first use."""
        if value not in self._names:
            number = len(self._names)
            while f"t{number}" in self._taken:
                number += 1
            self._names[value] = f"t{number}"
            self._taken.add(f"t{number}")
        return self._names[value]


def _returned(main: func.FuncOp) -> tuple[SSAValue, ...]:
    last = main.body.block.last_op
    assert isinstance(last, func.ReturnOp)
    return tuple(last.arguments)


def _strings(main: func.FuncOp, attribute: str, count: int, prefix: str) -> list[str]:
    given = main.attributes.get(attribute)
    if isinstance(given, ArrayAttr) and len(given.data) == count:
        return [item.data if isinstance(item, StringAttr) else str(item) for item in given.data]
    return [f"{prefix}{i}" for i in range(count)]


def _spec(value: SSAValue, name: str) -> TensorSpec:
    """Description of a tensor; what only the host understands is opaque, unknown dimensions are -1."""
    type_ = value.type
    if not isinstance(type_, TensorType):
        return TensorSpec(name, (), OPAQUE, OPAQUE)
    shape = tuple(-1 if size < 0 else size for size in type_.get_shape())
    dtype = dtype_of_or_none(type_.element_type)
    if dtype is None:
        return TensorSpec(name, shape, OPAQUE, OPAQUE)
    return TensorSpec(name, shape, dtype.name, DEVICE_DTYPES.get(dtype.name, dtype.name))

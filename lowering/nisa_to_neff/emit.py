"""The last step: a partitioned module whose core functions are finished becomes a `Neff`.

Weights are computed here, once: raw ones come from the store as they are (memory-mapped), derived ones by running their
recipe. Host functions become ONNX models.
"""

from collections.abc import Mapping
from typing import Any

from xdsl.dialects import func
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr, TensorType
from xdsl.ir import SSAValue

from lowering.nisa_to_neff.host_model import host_model_bytes
from lowering.nisa_to_neff.program import core_program
from neuron_dialects.dtypes import dtype_of_or_none
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import ConstantOp, WeightOp
from neuron_dialects.neuron import Executor, LaunchOp, target_of
from neuron_dialects.weights import WeightStore
from runtime.graph_interpreter import WeightResolver
from runtime.neff import CORE, HOST, OPAQUE, CoreImage, GraphNode, Neff, TensorSpec

DEVICE_DTYPES = {"i64": "i32", "ui64": "ui32", "f64": "f32"}
"""Element types that cores do not have -> what they compute with instead."""


def emit_neff(module: ModuleOp, store: WeightStore, name: str, report: Mapping[str, Any] | None = None) -> Neff:
    """The compiled model of `module`, whose core functions are in nisa form 5."""
    target = target_of(module)
    functions = {f.sym_name.data: f for f in module.body.block.ops if isinstance(f, func.FuncOp)}
    main = functions["main"]
    weights = WeightResolver(module, store)
    names = _Names(main)
    subgraphs: list[CoreImage] = []
    hosts: list[bytes] = []
    nodes: list[GraphNode] = []
    images: dict[str, int] = {}
    for op in main.body.block.ops:
        if isinstance(op, func.ReturnOp):
            continue
        if not isinstance(op, LaunchOp):
            raise NeuronError(
                "NX-NEFF-022", f"{op.name} in the main function", help="run graph-partition before emission"
            )
        callee = op.callee.root_reference.data
        core = op.executor.data == Executor.CORE
        if callee not in images:
            if core:
                program = core_program(functions[callee], target)
                parameters = {v.name: weights(v.name) for v in program.variables if v.kind == "file"}
                images[callee] = len(subgraphs)
                subgraphs.append(CoreImage(program, parameters))
            else:
                images[callee] = len(hosts)
                hosts.append(host_model_bytes(functions[callee], weights))
        nodes.append(
            GraphNode(
                CORE if core else HOST,
                images[callee],
                tuple(names.of(v) for v in op.arguments),
                tuple(names.of(v) for v in op.results),
                callee,
            )
        )
    returned = main.body.block.last_op
    assert returned is not None
    inputs = [_spec(value, names.of(value)) for value in main.body.block.args]
    outputs = [_spec(value, label) for value, label in zip(returned.operands, names.outputs, strict=True)]
    inner = [_spec(v, names.of(v)) for op in main.body.block.ops for v in op.results if v not in returned.operands]
    return Neff(name, target.name, subgraphs, hosts, nodes, inputs, outputs, inner, dict(report or {}))


class _Names:
    """Tensor names of the main function: the model's own at its boundary, `t0`, `t1`, ... inside."""

    def __init__(self, main: func.FuncOp):
        block = main.body.block
        returned = block.last_op
        assert returned is not None
        arguments = _strings(main, "neuron.input_names", len(block.args), "input")
        self.outputs = _strings(main, "neuron.output_names", len(returned.operands), "output")
        self._names: dict[SSAValue, str] = dict(zip(block.args, arguments, strict=True))
        for value, label in zip(returned.operands, self.outputs, strict=True):
            if value in self._names or isinstance(value.owner, ConstantOp | WeightOp):
                raise NeuronError("NX-NEFF-023", f"output '{label}' is not computed by any segment")
            self._names[value] = label

    def of(self, value: SSAValue) -> str:
        """Name of a value; made up on first use."""
        if value not in self._names:
            self._names[value] = f"t{len(self._names)}"
        return self._names[value]


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

"""ONNX to the graph dialect: the walk over a model's nodes.

Given a model file and the shapes of its inputs, the import leaves a module with one function `main`, a weight store and
a report. Each node is tried in turn as a constant to fold, as an operator of the converter table, as a composition of
such operators, and is left to the host as `graph.onnx_node` otherwise: no operator makes an import fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx.shape_inference
from onnx import GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr, TensorType, UnrankedTensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Region, SSAValue
from xdsl.transforms.dead_code_elimination import is_trivially_dead

from lowering.onnx_to_graph.binding import (
    MAX_TENSOR_ELEMENTS,
    BoundShapes,
    DeclaredInput,
    Dimension,
    bind_inputs,
    symbol_uses,
)
from lowering.onnx_to_graph.folding import fold
from lowering.onnx_to_graph.functions import function_body
from lowering.onnx_to_graph.host import (
    HostTypes,
    captured_names,
    emit_host_constant,
    emit_host_node,
    infer_types,
)
from lowering.onnx_to_graph.initializers import initializers
from lowering.onnx_to_graph.model_file import DEFAULT_DOMAINS, LoadedModel, load_model, opset_versions
from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.registry import Table, converters, operator_key
from lowering.onnx_to_graph.result import HostNode, ImportInfo, ImportResult
from lowering.onnx_to_graph.trip_count import with_trip_count
from lowering.onnx_to_graph.type_check import check_operands, check_output
from lowering.onnx_to_graph.types import to_xdsl
from lowering.onnx_to_graph.values import (
    MAX_FOLDED_ELEMENTS,
    MAX_FOLDED_TOTAL,
    SHORT_ELEMENTS,
    Constant,
    Emitter,
    HostConstant,
    Scope,
    Value,
)
from neuron_dialects.dtypes import I64, dtype_of_or_none
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import MAX_CONSTANT_BYTES, ConstantOp, OnnxNodeOp, WeightOp
from neuron_dialects.graph.shapes import ShapeError, element_count
from neuron_dialects.neuron import TARGET_ATTRIBUTE, TargetAttr
from neuron_dialects.weights import WeightStore

INPUT_NAMES = "neuron.input_names"
"""Function attribute: the ONNX names of the arguments, in order."""
OUTPUT_NAMES = "neuron.output_names"
"""Function attribute: the ONNX names of the results, in order."""
_MAX_EXPANSION_DEPTH = 8
"""Function bodies within function bodies; ONNX's own nest two deep."""


def import_onnx(
    source: str | os.PathLike[str] | ModelProto,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    target: str = "inf1",
) -> ImportResult:
    """Import an ONNX model.

    Args:
        source: the model file, or a model in memory (without external data).
        input_shapes: input name -> shape, for inputs with symbolic dimensions. The same symbol elsewhere is bound with
            them; a batch dimension that nobody gives is 1, with a note in the report.
        target: name of the target that the module is for.

    Raises NeuronError when the file is malformed, when external data are missing, or when a dimension stays unknown.
    """
    loaded = load_model(source)
    return _Importer(loaded, input_shapes).run(target)


@dataclass(slots=True)
class _Frame:
    """A sequence of nodes being imported: the main graph, the branch of an If, or a function body."""

    scope: Scope
    opsets: Mapping[str, int]
    read: frozenset[str]
    """Names that anything reads."""
    names: str | None = None
    """Name for every node, in the body of a composite node; None when nodes have their own."""
    strict: bool = False
    """Nothing may be left to the host: Unsupported is raised instead."""
    depth: int = 0


@dataclass(slots=True)
class _Importer:
    """The state of one import."""

    loaded: LoadedModel
    input_shapes: Mapping[str, Sequence[int]] | None
    info: ImportInfo = field(init=False)
    store: WeightStore = field(default_factory=WeightStore)
    emitter: Emitter = field(init=False)
    types: HostTypes = field(init=False)
    table: Table = field(default_factory=converters)
    folded_elements: int = 0
    """Elements that folding has made so far."""
    host_nodes: list[tuple[OnnxNodeOp, HostNode]] = field(default_factory=list[tuple[OnnxNodeOp, HostNode]])

    def run(self, target: str) -> ImportResult:
        """Import the loaded model."""
        model = self.loaded.model
        graph = model.graph
        opsets = opset_versions(model)
        self.emitter = Emitter(self.store)
        constants = initializers(graph, self.loaded.folder)
        inputs = [value for value in graph.input if value.name not in constants]
        declared = [_declared(value) for value in inputs if _is_tensor(value)]
        bound = bind_inputs(declared, self.input_shapes)
        self.info = self._report(model, constants, bound, opsets)
        self.info.symbols = symbol_uses(declared)
        self.types = HostTypes(
            symbols=bound.dimensions,
            declared=_declared_types(graph, trust_sizes=not bound.dimensions),
            opsets=opsets,
            ir_version=model.ir_version,
        )
        block = Block(arg_types=[self._input_type(value, bound) for value in inputs])
        scope = Scope(values=dict(constants))
        for value, argument in zip(inputs, block.args, strict=True):
            argument.name_hint = _name_hint(value.name)
            scope.values[value.name] = argument
            if not isinstance(argument.type, TensorType) or dtype_of_or_none(argument.type) is None:
                self.types.known[argument] = value.type
        self._walk(graph.node, _Frame(scope, opsets, _read_names(graph.node, _names(graph.output))))
        outputs = [self._output(value, scope) for value in graph.output]
        self.emitter.fill(block)
        block.add_op(ReturnOp(*outputs))
        return self._result(target, block, _names(inputs), _names(graph.output))

    # Around the walk

    def _report(
        self, model: ModelProto, constants: Mapping[str, Value], bound: BoundShapes, opsets: Mapping[str, int]
    ) -> ImportInfo:
        info = ImportInfo(
            producer=f"{model.producer_name} {model.producer_version}".strip(),
            original_opset=self.loaded.original_opset,
            opset=opsets.get("", 0),
            bound_dimensions=bound.dimensions,
            input_shapes=bound.shapes,
            notes=bound.notes,
            node_count=len(model.graph.node),
        )
        overridable = [value.name for value in model.graph.input if value.name in constants]
        if overridable and model.ir_version >= 4:
            info.notes.append(f"inputs with a default value are constants: {', '.join(overridable)}")
        return info

    def _input_type(self, value: ValueInfoProto, bound: BoundShapes) -> Attribute:
        if value.type.WhichOneof("value") not in ("tensor_type", "sequence_type", "optional_type"):
            raise NeuronError(
                "NX-ONNX-006", f"input '{value.name}' is neither a tensor nor a sequence or an optional of tensors"
            )
        type_ = to_xdsl(value.type, bound.dimensions)
        if isinstance(type_, TensorType | UnrankedTensorType):
            return TensorType(type_.element_type, bound.shapes[value.name])
        return type_

    def _output(self, declared: ValueInfoProto, scope: Scope) -> SSAValue:
        name = declared.name
        value = scope.find(name)
        if value is None:
            raise NeuronError("NX-ONNX-002", f"output '{name}' is computed by no node")
        check_output(name, declared.type, self.types.of(value))
        if isinstance(value, Constant):
            if value.dtype is I64 and value.size * I64.size_bytes <= MAX_CONSTANT_BYTES:
                # As a constant of the program it is known to fit 32 bits, where it does.
                return self.emitter.emit(ConstantOp(value.read(), I64, value.shape), name)[0]
            return self.emitter.hold(value, name)
        if isinstance(value, HostConstant):
            return emit_host_constant(self.emitter, value, name, self.types)
        return value

    def _result(self, target: str, block: Block, inputs: Iterable[str], outputs: Iterable[str]) -> ImportResult:
        """The module around the body, without dead operators and unused weights."""
        for op in reversed(list(block.ops)):
            if is_trivially_dead(op):
                op.detach()
                op.erase()
        self.store.retain({op.weight_name for op in block.ops if isinstance(op, WeightOp)})
        self.info.onnx_nodes = [host_node for op, host_node in self.host_nodes if op.parent is not None]
        terminator = block.last_op
        assert terminator is not None
        types = ([arg.type for arg in block.args], [value.type for value in terminator.operands])
        main = FuncOp("main", types, Region(block))
        main.attributes[INPUT_NAMES] = ArrayAttr([StringAttr(name) for name in inputs])
        main.attributes[OUTPUT_NAMES] = ArrayAttr([StringAttr(name) for name in outputs])
        module = ModuleOp([main], attributes={TARGET_ATTRIBUTE: TargetAttr(target)})
        return ImportResult(module, self.store, self.info)

    # The walk

    def _walk(self, nodes: Iterable[NodeProto], frame: _Frame) -> None:
        """Import nodes in order; their outputs become values of the frame's scope."""
        for index, proto in enumerate(nodes):
            node = Node(
                proto=proto,
                name=frame.names or proto.name or f"{proto.op_type}_{index}",
                opset=frame.opsets.get("" if proto.domain in DEFAULT_DOMAINS else proto.domain, 0),
                scope=frame.scope,
                emitter=self.emitter,
                used_outputs=tuple(name in frame.read for name in proto.output),
                notes=self.info.notes,
            )
            if not frame.names:
                self.info.operators.setdefault(proto.op_type, []).append(node.name)
            outputs = self._import_node(node, frame)
            for name, value in outputs.items():
                _check_count(node, value)
                frame.scope.values[name] = value

    def _import_node(self, node: Node, frame: _Frame) -> Mapping[str, Value]:
        """Values of the node's outputs, by name."""
        folded = self._folded(node)
        if folded is not None:
            return folded
        mark = self.emitter.mark()
        reason, contradictory = "", False
        for attempt in (self._converted, self._branch, self._expanded):
            try:
                outputs = attempt(node, frame)
            except (Unsupported, ShapeError) as error:
                self.emitter.roll_back(mark)
                contradictory = contradictory or isinstance(error, ShapeError)
                reason = reason or str(error)
                continue
            if outputs is not None:
                return outputs
        reason = reason or f"there is no graph operator for {_operator(node)}"
        if frame.strict:
            raise Unsupported(f"{_operator(node)}: {reason}")
        return self._left_to_host(node, reason, contradictory)

    def _folded(self, node: Node) -> Mapping[str, Value] | None:
        """The outputs when all inputs are constants and the operator is one to fold."""
        if node.proto.domain not in DEFAULT_DOMAINS:
            return None
        inputs = [node.scope.find(name) if name else None for name in node.proto.input]
        if not inputs or not all(value is None or isinstance(value, Constant) for value in inputs):
            return None
        constants = [value if isinstance(value, Constant) else None for value in inputs]
        most = MAX_FOLDED_ELEMENTS if self.folded_elements < MAX_FOLDED_TOTAL else SHORT_ELEMENTS
        folded = fold(node.proto, constants, node.opset, node.scope.prefix, most)
        self.folded_elements += sum(constant.size for constant in folded.values()) if folded else 0
        return folded

    def _converted(self, node: Node, frame: _Frame) -> Mapping[str, Value] | None:
        """The outputs when the operator is in the table."""
        row = self.table.get(operator_key(node.proto.domain, node.proto.op_type))
        if row is None:
            return None
        if not row.covers(node.opset):
            raise Unsupported(f"the form that {_operator(node)} has in opset {node.opset}")
        return {name: value for name, value in zip(node.proto.output, row.convert(node), strict=False) if name}

    def _branch(self, node: Node, frame: _Frame) -> Mapping[str, Value] | None:
        """The outputs of the branch that an If with a known condition takes."""
        if node.proto.op_type != "If" or node.proto.domain not in DEFAULT_DOMAINS:
            return None
        graph = node.graph_attr("then_branch" if node.constant(0).any() else "else_branch")
        prefix = f"{node.scope.prefix}{node.name}/"
        scope = Scope(node.scope, prefix, dict(initializers(graph, self.loaded.folder, prefix)))
        read = _read_names(graph.node, _names(graph.output))
        self._walk(graph.node, _Frame(scope, frame.opsets, read, frame.names, frame.strict, frame.depth))
        self.info.shape_branches.append(node.name)
        return _bound_outputs(node, scope, _names(graph.output))

    def _expanded(self, node: Node, frame: _Frame) -> Mapping[str, Value] | None:
        """The outputs of the operator's own function body, when nothing in it is left to the host."""
        if node.proto.domain not in DEFAULT_DOMAINS or frame.depth >= _MAX_EXPANSION_DEPTH:
            return None
        input_types = [
            self.types.of(node.value(i)) if node.has(i) else TypeProto() for i in range(len(node.proto.input))
        ]
        body = function_body(node.proto, node.opset, input_types)
        if body is None:
            return None
        scope = Scope(prefix=f"{node.scope.prefix}{node.name}/")
        for index, name in enumerate(body.inputs):
            if node.has(index):
                scope.values[name] = node.value(index)
        read = _read_names(body.nodes, [name for index, name in enumerate(body.outputs) if node.uses(index)])
        inner = _Frame(scope, {"": body.opset}, read, node.name, strict=True, depth=frame.depth + 1)
        self._walk(body.nodes, inner)
        return _bound_outputs(node, scope, body.outputs)

    def _left_to_host(self, node: Node, reason: str, contradictory: bool) -> Mapping[str, Value]:
        """The outputs of a `graph.onnx_node`."""
        names = _nonempty([*node.proto.input, *captured_names(node.proto)])
        inputs = {name: value for name in names if (value := node.scope.find(name)) is not None}
        check_operands(
            node.proto, node.opset, {name: self.types.of(value) for name, value in inputs.items()}, node.name
        )
        try:
            inferred = infer_types(node.proto, inputs, self.types, strict=True)
        except onnx.shape_inference.InferenceError as error:
            # onnx may be stricter than the runtime about a node that we do not know; where we know it, we agree.
            if contradictory:
                raise NeuronError("NX-ONNX-007", reason, node=node.name) from error
            inferred = infer_types(node.proto, inputs, self.types, strict=False)
        op, outputs = emit_host_node(node, self.types, with_trip_count(node.proto, inputs, inferred))
        self.host_nodes.append((op, HostNode(node.name, _operator(node), reason)))
        return dict(zip(_nonempty(node.proto.output), outputs, strict=True))


def _bound_outputs(node: Node, scope: Scope, names: Sequence[str]) -> Mapping[str, Value]:
    """The values of an inner scope that a node's outputs stand for."""
    result: dict[str, Value] = {}
    for index, name in enumerate(node.proto.output):
        if name and index < len(names):
            value = scope.find(names[index])
            if value is None and node.uses(index):
                raise Unsupported(f"output {index} is not computed")
            if value is not None:
                result[name] = value
    return result


def _check_count(node: Node, value: Value) -> None:
    """NeuronError when a tensor cannot be meant."""
    if isinstance(value, SSAValue) and isinstance(value.type, TensorType) and value.type.has_static_shape():
        count = element_count(value.type.get_shape())
        if count > MAX_TENSOR_ELEMENTS:
            raise NeuronError(
                "NX-ONNX-007", f"a result of {count} elements exceeds {MAX_TENSOR_ELEMENTS}", node=node.name
            )


def _operator(node: Node) -> str:
    """The operator of a node for messages."""
    domain = node.proto.domain
    return node.proto.op_type if domain in DEFAULT_DOMAINS else f"{domain}.{node.proto.op_type}"


def _nonempty(names: Iterable[str]) -> list[str]:
    return [name for name in names if name]


def _names(values: Iterable[ValueInfoProto]) -> list[str]:
    return [value.name for value in values]


def _read_names(nodes: Iterable[NodeProto], outputs: Iterable[str]) -> frozenset[str]:
    """Names read by any of the nodes, by subgraphs, or as outputs."""
    names = set(outputs)
    for node in nodes:
        names.update(node.input)
        names.update(captured_names(node))
    return frozenset(names)


def _is_tensor(value: ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type")


def _declared(value: ValueInfoProto) -> DeclaredInput:
    """The shape of a tensor input as the model declares it."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return DeclaredInput(value.name, None)
    shape: list[Dimension] = []
    for dim in tensor.shape.dim:
        known = dim.HasField("dim_value") and dim.dim_value >= 0
        shape.append(dim.dim_value if known else dim.dim_param or None)
    return DeclaredInput(value.name, shape)


def _declared_types(graph: GraphProto, *, trust_sizes: bool) -> dict[str, TypeProto]:
    """Declared types of the graph's values.

    Sizes are dropped unless they can be trusted: a file with symbolic inputs may still hold the sizes of the example
    that it was traced with.
    """
    result: dict[str, TypeProto] = {}
    for value in [*graph.value_info, *graph.output]:
        type_ = TypeProto()
        type_.CopyFrom(value.type)
        if not trust_sizes and type_.HasField("tensor_type"):
            for dim in type_.tensor_type.shape.dim:
                if dim.HasField("dim_value"):
                    dim.ClearField("dim_value")
        result[value.name] = type_
    return result


def _name_hint(name: str) -> str | None:
    """The name as an SSA name hint, or None where nothing of it can be kept."""
    hint = "".join(char if char.isascii() and (char.isalnum() or char in "_.$-") else "_" for char in name)
    return hint if hint and not hint[0].isdigit() and SSAValue.is_valid_name(hint) else None

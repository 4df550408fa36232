"""From a graph and its parameters to an ONNX model.

Given what the two readers leave, `converted` walks back from the results, so that labels and losses' gradients drop
away, and writes one or a few ONNX nodes for each node of MXNet's, by the tables of `operators`. Sizes of inputs are
open unless the graph declares them: `--input-shape` gives them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper
from onnx import TensorProto as T

from lowering.frontends.mxnet.builder import Builder, Call
from lowering.frontends.mxnet.operators import OPERATORS, data_inputs
from lowering.frontends.mxnet.params_file import Array, read_params
from lowering.frontends.mxnet.symbol_file import VARIABLE, Entry, Symbol, SymbolNode, read_symbol
from neuron_dialects.errors import NeuronError

SYMBOL_SUFFIX = "-symbol.json"
OPSET = 17
_IR_VERSION = 8


def read_mxnet(path: Path) -> ModelProto:
    """The ONNX model of `NAME-symbol.json`, with the parameters of the last epoch beside it.

    NeuronError: NX-FRAME-002 when a file is missing or malformed, NX-FRAME-004 for an operator that has no converter.
    """
    name = path.name.removesuffix(SYMBOL_SUFFIX)
    return converted(read_symbol(path), read_params(parameter_file(path.parent, name)), name)


def parameter_file(folder: Path, name: str) -> Path:
    """The newest `NAME-EPOCH.params`; NeuronError NX-FRAME-002 when there is none."""
    pattern = re.compile(rf"{re.escape(name)}-(\d{{4,9}})\.params\Z")
    try:
        found = {int(match[1]): path for path in folder.iterdir() if (match := pattern.match(path.name))}
    except OSError as error:
        raise NeuronError("NX-FRAME-002", f"'{folder}' cannot be read: {error.strerror}") from error
    if not found:
        raise NeuronError("NX-FRAME-002", f"'{name}-0000.params' is not beside '{name}{SYMBOL_SUFFIX}'")
    return found[max(found)]


def converted(symbol: Symbol, parameters: Mapping[str, Array], name: str) -> ModelProto:
    """The ONNX model. Its results are named as MXNet names them: the node's name and `_output`."""
    builder = Builder(parameters)
    needed = _needed(symbol)
    values: dict[Entry, str] = {}
    inputs: list[SymbolNode] = []
    for position, node in enumerate(symbol.nodes):
        if position not in needed:
            continue
        if node.op == VARIABLE:
            values[position, 0] = node.name
            if node.name not in parameters:
                inputs.append(node)
            continue
        arguments = [_value(values, entry, node) for entry in data_inputs(node)]
        outputs = OPERATORS[node.op](Call(builder, node, arguments))
        values |= {(position, number): output for number, output in enumerate(outputs)}
    builder.node_name = ""
    results: list[str] = []
    for entry in symbol.heads:
        node = symbol.nodes[entry[0]]
        result = f"{node.name}_output" if entry[1] == 0 else f"{node.name}_output{entry[1]}"
        results.append(builder.add("Identity", _value(values, entry, node), output=result))
    return _model(builder, [_input(node, parameters) for node in inputs], results, name)


def _needed(symbol: Symbol) -> set[int]:
    """Nodes that the results depend on; NeuronError NX-FRAME-004 naming the first that has no converter."""
    needed: set[int] = set()
    work = [position for position, _ in symbol.heads]
    while work:
        position = work.pop()
        if position in needed:
            continue
        needed.add(position)
        node = symbol.nodes[position]
        if node.op != VARIABLE:
            if node.op not in OPERATORS:
                raise NeuronError(
                    "NX-FRAME-004",
                    f"MXNet's operator {node.op} has no converter",
                    node=node.name,
                    help="docs/reference/mxnet.md lists the operators that have one",
                )
            work += [source for source, _ in data_inputs(node)]
    return needed


def _value(values: Mapping[Entry, str], entry: Entry, node: SymbolNode) -> str:
    if entry not in values:
        raise node.error(f"output {entry[1]} of one of its inputs has no converter")
    return values[entry]


def _input(node: SymbolNode, parameters: Mapping[str, Array]) -> ValueInfoProto:
    """An input of the model: in the parameters' element type, of the shape that the graph declares, 0 being open."""
    floats = {array.dtype for array in parameters.values() if array.dtype.kind == "f"}
    is_half = floats == {np.dtype(np.float16)}
    shape = [size or None for size in node.integers("__shape__")] if node.has("__shape__") else None
    return helper.make_tensor_value_info(node.name, T.FLOAT16 if is_half else T.FLOAT, shape)


def _model(builder: Builder, inputs: list[ValueInfoProto], results: list[str], name: str) -> ModelProto:
    element_type = inputs[0].type.tensor_type.elem_type if inputs else T.FLOAT
    outputs = [helper.make_tensor_value_info(result, element_type, None) for result in results]
    graph = helper.make_graph(builder.nodes, name, inputs, outputs, builder.initializers())
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="mxnet"
    )
    return model

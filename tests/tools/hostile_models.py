"""Model files that nobody should compile, each with the code that `neuron-cc compile` must answer, or None if it may.

Each is made when it is asked for: some are large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node


def value(name: str, shape: Sequence[int] | None, element: int = FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: dict[str, Any] | None = None,
    **rest: Any,
) -> ModelProto:
    """A model of opset 18; constants by name."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "hostile", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, **rest)


def one(op_type: str, shape: Sequence[int], constants: dict[str, Any] | None = None, **attributes: Any) -> ModelProto:
    """One node on x and on the constants."""
    made = node(op_type, ["x", *(constants or {})], ["y"], **attributes)
    return model([made], [value("x", shape)], [value("y", None)], constants)


def _window(**attributes: Any) -> ModelProto:
    return one("Conv", [1, 1, 4, 4], {"w": np.ones((1, 1, 3, 3), np.float32)}, **attributes)


# Size


def _misspelt(field: str) -> bytes:
    """A model whose node has one text of other bytes than UTF-8."""
    made = one("Relu", [2], name="name", doc_string="doc_string")
    graph = made.graph
    graph.input[0].name = graph.node[0].input[0] = "value"
    return made.SerializeToString().replace(field.encode(), b"\xff" * len(field))


def many_nodes() -> ModelProto:
    nodes = [node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(2**17 + 1)]
    return model(nodes, [value("v0", [2])], [value(f"v{2**17 + 1}", [2])])


def function(name: str, *called: str) -> Any:
    """A function of domain `f` that calls others, one after the other."""
    steps = [
        node(other, [f"t{i}"], [f"t{i + 1}"], domain="" if other == "Relu" else "f") for i, other in enumerate(called)
    ]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["t0"], [f"t{len(called)}"], steps, imports)


def calling(*functions: Any) -> ModelProto:
    """A model that calls the last function."""
    made = model(
        [node(functions[-1].name, ["x"], ["y"], domain="f")], [value("x", [2])], [value("y", [2])], functions=functions
    )
    made.opset_import.append(helper.make_opsetid("f", 1))
    return made


def function_bomb() -> ModelProto:
    """Forty functions, each of which calls the one before it twice."""
    return calling(function("F0", "Relu"), *(function(f"F{i}", f"F{i - 1}", f"F{i - 1}") for i in range(1, 40)))


def function_chain() -> ModelProto:
    """Functions nested more deeply than onnx allows, and than Python recurses."""
    return calling(*(function(f"F{i}", f"F{i - 1}" if i else "Relu") for i in range(1200)))


def nested_branches() -> ModelProto:
    graph = helper.make_graph([node("Relu", ["x"], ["y0"])], "inner", [], [value("y0", [2])])
    for depth in range(1, 30):
        other = helper.make_graph([node("Neg", ["x"], [f"n{depth}"])], "other", [], [value(f"n{depth}", [2])])
        branch = node("If", ["c"], [f"y{depth}"], then_branch=graph, else_branch=other)
        graph = helper.make_graph([branch], f"level{depth}", [], [value(f"y{depth}", [2])])
    return model(list(graph.node), [value("x", [2]), value("c", [], BOOL)], [value("y29", [2])])


def nested_messages() -> bytes:
    """Graphs in attributes of nodes of graphs, more deeply than protobuf parses."""
    data = b""
    for _ in range(2000):
        for field in (6, 5, 1):  # attribute's graph, node's attribute, graph's node
            data = _field(field, data)
    return b"\x08\x09" + _field(7, data) + _field(8, b"\x10\x12")


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, length = bytearray(), len(data)
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    size.append(length)
    return bytes([number << 3 | 2]) + bytes(size) + data


def folding_bomb() -> ModelProto:
    """Constants of some megabytes that would be computed at import, one from the other."""
    nodes = [node("Add", ["c" if i == 0 else f"a{i - 1}", "c"], [f"a{i}"]) for i in range(1000)]
    nodes.append(node("ReduceSum", ["a999"], ["s"]))
    return model(
        [*nodes, node("Add", ["x", "s"], ["y"])],
        [value("x", [1], INT64)],
        [value("y", None, INT64)],
        {"c": np.ones(60000, np.int64)},
    )


# Data


def sparse(size: int, index: int) -> ModelProto:
    tensor = SparseTensorProto(dims=[size])
    tensor.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    tensor.indices.CopyFrom(numpy_helper.from_array(np.array([index])))
    made = one("Add", [3])
    made.graph.node[0].input.append("w")
    made.graph.sparse_initializer.append(tensor)
    return made


def external(in_attribute: bool, **entries: str) -> ModelProto:
    """A weight outside the file, as an initializer or as the value of a Constant."""
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    made = one("Add", [3])
    made.graph.node[0].input.append("w")
    if in_attribute:
        made.graph.node.insert(0, node("Constant", [], ["w"], value=tensor))
    else:
        made.graph.initializer.append(tensor)
    return made


def with_version(version: int) -> ModelProto:
    made = one("Relu", [2])
    made.opset_import[0].version = version
    return made


def typed(second: int) -> ModelProto:
    return model([node("Add", ["x", "z"], ["y"])], [value("x", [2]), value("z", [2], second)], [value("y", [2])])


def loop(body: GraphProto) -> ModelProto:
    return model(
        [node("Loop", ["n", "", "x"], ["y"], body=body)],
        [value("n", [], INT64), value("x", [2])],
        [value("y", [2])],
    )


HOSTILE: dict[str, tuple[str | None, Callable[[], ModelProto | bytes]]] = {
    "many nodes": ("NX-ONNX-008", many_nodes),
    "function bomb": ("NX-ONNX-008", function_bomb),
    "function chain": ("NX-ONNX-002", function_chain),
    "function calls itself": ("NX-ONNX-002", lambda: calling(function("F", "F"))),
    "functions in a circle": ("NX-ONNX-002", lambda: calling(function("G", "F"), function("F", "G"))),
    "nested branches": (None, nested_branches),
    "nested messages": ("NX-ONNX-001", nested_messages),
    "folding bomb": (None, folding_bomb),
    "giant attribute": (None, lambda: _window(auto_pad="A" * 20_000_000)),
    "giant operator name": ("NX-ONNX-002", lambda: one("R" * 5_000_000, [2])),
    "giant node name": (None, lambda: one("Relu", [2], name="n" * 5_000_000)),
    "node name that is no text": ("NX-ONNX-001", lambda: _misspelt("name")),
    "value name that is no text": ("NX-ONNX-001", lambda: _misspelt("value")),
    "description that is no text": (None, lambda: _misspelt("doc_string")),
    "huge product of dimensions": ("NX-ONNX-005", lambda: one("Relu", [2**31, 2**31])),
    "more than the memory": ("NX-MEM-001", lambda: one("Relu", [2**33])),
    "huge matrix product": (
        "NX-MEM-001",
        lambda: one("MatMul", [2**17, 2**17], {"w": np.ones((2**17, 1), np.float32)}),
    ),
    "huge pads": ("NX-ONNX-007", lambda: _window(pads=[2**40] * 4)),
    "large pads": ("NX-MEM-001", lambda: _window(pads=[2**15] * 4)),
    "huge dilations": (None, lambda: _window(dilations=[2**40, 1])),
    "no strides": ("NX-ONNX-007", lambda: _window(strides=[0, 0])),
    "no groups": (None, lambda: _window(group=0)),
    "huge expansion": ("NX-ONNX-007", lambda: one("Expand", [1], {"s": np.array([2**50])})),
    "huge tiling": ("NX-ONNX-007", lambda: one("Tile", [3], {"r": np.array([2**45])})),
    "huge padding": ("NX-ONNX-007", lambda: one("Pad", [3], {"p": np.array([2**62, 2**62])})),
    "huge resize": (
        "NX-ONNX-007",
        lambda: one("Resize", [1, 4], {"r": np.zeros(0, np.float32), "s": np.array([1, 1e15], np.float32)}),
    ),
    "huge interpolation": (
        None,
        lambda: one(
            "Resize", [1, 40000], {"r": np.zeros(0, np.float32), "s": np.array([1, 2], np.float32)}, mode="linear"
        ),
    ),
    "huge triangle": ("NX-NEFF-005", lambda: one("Trilu", [2**17, 2**17])),
    "more dimensions than anyone has": ("NX-NEFF-007", lambda: one("Relu", [1] * 1000)),
    "contradictory reshape": ("NX-ONNX-007", lambda: one("Reshape", [2], {"s": np.array([-1, -1])})),
    "axis outside": ("NX-ONNX-007", lambda: one("Softmax", [2], axis=9)),
    "permutation that is none": ("NX-ONNX-007", lambda: one("Transpose", [2, 2], perm=[0, 0])),
    "operands of two types": ("NX-ONNX-007", lambda: typed(TensorProto.INT32)),
    "unknown operator": ("NX-ONNX-002", lambda: one("NoSuchOperator", [2])),
    "future operators": ("NX-ONNX-003", lambda: with_version(10**9)),
    "negative version": ("NX-ONNX-002", lambda: with_version(-5)),
    "empty tensor": (None, lambda: one("Relu", [0, 2])),
    "empty product": (None, lambda: one("MatMul", [3, 0], {"w": np.zeros((0, 4), np.float32)})),
    "sum of nothing": (None, lambda: one("ReduceSum", [3, 0])),
    "empty batch": (None, lambda: one("Conv", [0, 1, 4, 4], {"w": np.ones((1, 1, 3, 3), np.float32)})),
    "input is the output": (None, lambda: model([], [value("x", [2])], [value("x", [2])])),
    "output declared of another type": (
        "NX-ONNX-002",
        lambda: model([node("Relu", ["x"], ["y"])], [value("x", [2])], [value("y", [2], INT64)]),
    ),
    "loop over unknown names": (
        "NX-ONNX-002",
        lambda: loop(helper.make_graph([node("Identity", ["z"], ["c"])], "b", [], [value("c", [], BOOL)])),
    ),
    "sparse weight, index outside": ("NX-ONNX-002", lambda: sparse(10, 2**40)),
    "sparse weight of gigabytes": ("NX-ONNX-007", lambda: sparse(2**31, 5)),
    "weight elsewhere": ("NX-WEIGHT-001", lambda: external(False, location="../../etc/passwd")),
    "weight at a device": ("NX-WEIGHT-001", lambda: external(False, location="/dev/zero")),
    "weight in the folder itself": ("NX-WEIGHT-001", lambda: external(False, location=".")),
    "weight of no file": ("NX-WEIGHT-001", lambda: external(False, location="a\0b")),
    "weight in itself": ("NX-WEIGHT-001", lambda: external(False, location="m.onnx", offset="9" * 30, length="12")),
    "constant elsewhere": ("NX-ONNX-002", lambda: external(True, location="../../etc/passwd")),
    "constant in a missing file": ("NX-ONNX-002", lambda: external(True, location="none")),
}
"""What is wrong -> the code, and the file."""

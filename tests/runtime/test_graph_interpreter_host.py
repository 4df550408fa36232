"""ONNX nodes that the graph interpreter hands to the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper
from xdsl.dialects.builtin import DYNAMIC_INDEX, NameLoc, NoneAttr, StringAttr, TensorType
from xdsl.ir import Attribute
from xdsl.utils.test_value import create_ssa_value

from neuron_dialects.dtypes import BF16, F32, I64, DType, element_type
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import OnnxNodeOp, OpaqueType, tensor_type
from runtime.graph_interpreter.host import run_onnx_node
from tests.graph_level import Array, assert_close, random_array


def run(
    node: NodeProto,
    operands: Sequence[Any],
    results: Sequence[Attribute],
    *,
    types: Sequence[Attribute] | None = None,
    captures: Sequence[str] = (),
    opset: int = 18,
) -> list[Any]:
    """Run a node on operands; `types` are those of the operands where they are not plain tensors."""
    from neuron_dialects.dtypes import dtype_of_numpy

    given = types or [tensor_type(dtype_of_numpy(operand.dtype), operand.shape) for operand in operands]
    op = OnnxNodeOp(
        [create_ssa_value(type_) for type_ in given],
        op_type=node.op_type,
        domain=node.domain,
        node=node.SerializeToString(),
        opset=opset,
        result_types=results,
        captures=captures,
    )
    op.location = NameLoc(StringAttr("the/node"), NoneAttr())
    op.verify()
    return run_onnx_node(op, operands)


def array(dtype: DType, *shape: int) -> Array:
    return random_array(dtype, shape, np.random.default_rng(0))


def unranked(dtype: DType, rank: int) -> TensorType[Any]:
    return TensorType(dtype.type, [DYNAMIC_INDEX] * rank)


def test_two_results():
    x = array(F32, 3, 8)
    node = helper.make_node("TopK", ["x", "k"], ["values", "indices"], axis=1)
    types = [tensor_type(F32, (3, 2)), tensor_type(I64, (3, 2))]
    values, indices = run(node, [x, np.array([2], np.int64)], types)
    assert_close(values, -np.sort(-x, axis=1)[:, :2])
    assert_close(indices, np.argsort(-x, axis=1)[:, :2])


# Absent inputs and outputs have empty names and neither operand nor result; one value may be used twice.
def test_absent_and_repeated_names():
    node = helper.make_node("Clip", ["x", "", "x_max"], ["y"])
    x = np.array([1.0, 5.0], np.float32)
    assert run(node, [x, np.array(2, np.float32)], [tensor_type(F32, (2,))])[0].tolist() == [1.0, 2.0]
    node = helper.make_node("TopK", ["x", "k"], ["", "indices"])
    indices = run(node, [np.array([1.0, 9.0, 3.0], np.float32), np.array([1], np.int64)], [tensor_type(I64, (1,))])
    assert indices[0].tolist() == [1]
    node = helper.make_node("Add", ["x", "x"], ["y"])
    assert run(node, [x, x], [tensor_type(F32, (2,))])[0].tolist() == [2.0, 10.0]


def test_dynamic_result():
    node = helper.make_node("NonZero", ["x"], ["y"])
    result = run(node, [np.array([0.0, 1.0, 2.0], np.float32)], [unranked(I64, 2)])[0]
    assert result.tolist() == [[1, 2]]


# The branches read `x` of the enclosing graph, which is an operand by its captured name.
def test_captured_values():
    def branch(name: str, op_type: str) -> Any:
        output = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])
        return helper.make_graph([helper.make_node(op_type, ["x"], ["z"])], name, [], [output])

    node = helper.make_node("If", ["flag"], ["y"], then_branch=branch("then", "Neg"), else_branch=branch("else", "Abs"))
    x = np.array([-1.0, 2.0], np.float32)
    for flag, expected in ((True, [1.0, -2.0]), (False, [1.0, 2.0])):
        assert run(node, [np.array(flag), x], [tensor_type(F32, (2,))], captures=["x"])[0].tolist() == expected


def test_strings_and_sequences():
    strings = TensorType(OpaqueType(StringAttr("string")), [2])
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="UPPER")
    assert run(node, [np.array(["a", "b"], object)], [strings], types=[strings])[0].tolist() == ["A", "B"]

    sequence = OpaqueType(StringAttr("seq(tensor(float))"))
    node = helper.make_node("SplitToSequence", ["x"], ["y"], axis=0)
    parts = run(node, [array(F32, 2, 3)], [sequence])[0]
    assert [part.shape for part in parts] == [(1, 3), (1, 3)]
    node = helper.make_node("ConcatFromSequence", ["x"], ["y"], axis=0)
    whole = run(node, [parts], [tensor_type(F32, (2, 3))], types=[sequence])[0]
    assert_close(whole, array(F32, 2, 3))


# numpy has no bf16: it passes as f32, through Cast nodes.
def test_bf16_passes_as_f32():
    node = helper.make_node("Identity", ["x"], ["y"])
    x = array(BF16, 4)
    actual = run(node, [x], [tensor_type(BF16, (4,))])[0]
    assert actual.dtype == BF16.numpy
    np.testing.assert_array_equal(actual, x)


# onnxruntime has no CPU kernel for this type; the reference implementation has.
def test_reference_runs_what_onnxruntime_does_not():
    node = helper.make_node("Relu", ["x"], ["y"])
    x = np.array([-1.5, 2.5], BF16.numpy)
    assert run(node, [x], [tensor_type(BF16, (2,))])[0].astype(np.float32).tolist() == [0.0, 2.5]


def test_unknown_operator():
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="com.example")
    with pytest.raises(NeuronError) as caught:
        run(node, [array(F32, 2)], [tensor_type(F32, (2,))], opset=1)
    assert caught.value.code == "NX-OP-001"
    assert caught.value.node == "the/node"
    assert "Frobnicate" in caught.value.message


def test_refused_values():
    node = helper.make_node("TopK", ["x", "k"], ["values", "indices"])
    with pytest.raises(NeuronError) as caught:
        run(node, [array(F32, 4), np.array([9], np.int64)], [tensor_type(F32, (9,)), tensor_type(I64, (9,))])
    assert caught.value.code == "NX-OP-002"
    assert "TopK failed on the host" in caught.value.message


def test_unknown_type():
    node = helper.make_node("Identity", ["x"], ["y"])
    with pytest.raises(NeuronError, match="no ONNX type 'tensor"):
        run(node, [object()], [OpaqueType(StringAttr("x"))], types=[OpaqueType(StringAttr("tensor(quaternion)"))])


@pytest.mark.parametrize(
    ("node", "message"),
    [(b"\xff\xff\xff", "not that of an ONNX node"), (b"", "has 0 inputs and 0 outputs, the operator 1 operands and 1")],
)
def test_malformed_node(node: bytes, message: str):
    op = OnnxNodeOp(
        [create_ssa_value(TensorType(element_type("f32"), [1]))],
        op_type="Relu",
        domain="",
        node=node,
        opset=18,
        result_types=[TensorType(element_type("f32"), [1])],
    )
    with pytest.raises(NeuronError, match=message) as caught:
        run_onnx_node(op, [array(F32, 1)])
    assert caught.value.code == "NX-IR-001"

"""Partitioned programs compute what they computed before, piece by piece."""

from __future__ import annotations

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import OnnxNodeOp
from neuron_dialects.neuron import Executor, LaunchOp, functions_of
from passes.graph.narrow_integers import GraphNarrowIntegersPass
from passes.graph.partition import GraphPartitionPass, PartitionEntry, partition_report
from tests.graph_level import check_same_results, main_of, make_context, onnx_node, parse

MODULE = 'builtin.module attributes {{neuron.target = #neuron.target<"trn1">}} {{\n{}\n}}'


def partitioned(body: str, partition: GraphPartitionPass | None = None) -> ModuleOp:
    module = parse(MODULE.format(body))
    check_same_results(module, partition or GraphPartitionPass(), GraphNarrowIntegersPass())
    return module


# core -> host -> core, with integers that the host counts in 64 bits and the core in 32.
def test_through_the_host():
    module = partitioned(
        f"""
        func.func @main(%x: tensor<3x8xf32>, %offset: tensor<3x2xi64>) -> (tensor<3x2xf32>, tensor<3x2xi64>) {{
          %k = graph.constant 2 : tensor<1xi64>
          %w = graph.weight @w : tensor<8xf32>
          %0 = graph.binary mul %x, %w : (tensor<3x8xf32>, tensor<8xf32>) -> tensor<3x8xf32>
          %v, %i = graph.onnx_node "TopK"(%0, %k) domain "" opset 13 {onnx_node("TopK", 2, 2)}
            : (tensor<3x8xf32>, tensor<1xi64>) -> (tensor<3x2xf32>, tensor<3x2xi64>)
          %1 = graph.unary tanh %v : (tensor<3x2xf32>) -> tensor<3x2xf32>
          %2 = graph.binary add %i, %offset : (tensor<3x2xi64>, tensor<3x2xi64>) -> tensor<3x2xi64>
          func.return %1, %2 : tensor<3x2xf32>, tensor<3x2xi64>
        }}"""
    )
    launches = [op.callee.root_reference.data for op in main_of(module).body.block.ops if isinstance(op, LaunchOp)]
    assert launches == ["neuron_0", "host_1", "neuron_2"]
    last = functions_of(module, Executor.CORE)[1]
    inputs = [str(type_) for type_ in last.function_type.inputs]
    assert inputs == ["tensor<3x2xf32>", "tensor<3x2xi32>", "tensor<3x2xi32>"]


# A value of one segment that several later ones use, an input that two segments use, a result returned twice.
def test_values_used_in_several_segments():
    node = onnx_node("Identity", 1, 1)
    module = partitioned(
        f"""
        func.func @main(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) {{
          %0 = graph.unary exp %x : (tensor<4xf32>) -> tensor<4xf32>
          %1 = graph.onnx_node "Identity"(%0) domain "" opset 13 {node} : (tensor<4xf32>) -> tensor<4xf32>
          %2 = graph.binary add %1, %0 : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
          %3 = graph.onnx_node "Identity"(%x) domain "" opset 13 {node} : (tensor<4xf32>) -> tensor<4xf32>
          %4 = graph.binary sub %2, %3 : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
          func.return %4, %0, %4 : tensor<4xf32>, tensor<4xf32>, tensor<4xf32>
        }}"""
    )
    assert [function.sym_name.data for function in functions_of(module, Executor.CORE)] == ["neuron_0", "neuron_2"]
    assert [function.sym_name.data for function in functions_of(module, Executor.HOST)] == ["host_1"]


# Sequences pass from one segment of the host to another.
def test_sequences_between_host_segments():
    split, join = onnx_node("SplitToSequence", 1, 1, axis=0), onnx_node("ConcatFromSequence", 1, 1, axis=0)
    sequence = '!graph.opaque<"seq(tensor(float))">'
    module = partitioned(
        f"""
        func.func @main(%x: tensor<4x2xf32>) -> tensor<8x2xf32> {{
          %s = graph.onnx_node "SplitToSequence"(%x) domain "" opset 13 {split} : (tensor<4x2xf32>) -> {sequence}
          %h = graph.onnx_node "Identity"(%x) domain "" opset 13 {onnx_node("Identity", 1, 1)}
            : (tensor<4x2xf32>) -> tensor<4x2xf32>
          %e = graph.unary exp %h : (tensor<4x2xf32>) -> tensor<4x2xf32>
          %t = graph.onnx_node "SequenceInsert"(%s, %e) domain "" opset 13 {onnx_node("SequenceInsert", 2, 1)}
            : ({sequence}, tensor<4x2xf32>) -> {sequence}
          %y = graph.onnx_node "ConcatFromSequence"(%t) domain "" opset 13 {join} : ({sequence}) -> tensor<8x2xf32>
          func.return %y : tensor<8x2xf32>
        }}"""
    )
    assert str(functions_of(module, Executor.HOST)[1].function_type.inputs.data[0]) == sequence


# Nodes that draw random numbers stay in order, even where nothing else orders them.
def test_random_nodes_stay_in_order():
    module = parse(
        MODULE.format(
            """
        func.func @main(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
          %e = graph.unary exp %x : (tensor<4xf32>) -> tensor<4xf32>
          %a = graph.onnx_node "RandomNormalLike"(%e) domain "" opset 13 random node ""
            : (tensor<4xf32>) -> tensor<4xf32>
          %b = graph.onnx_node "RandomUniformLike"(%x) domain "" opset 13 random node ""
            : (tensor<4xf32>) -> tensor<4xf32>
          func.return %a, %b : tensor<4xf32>, tensor<4xf32>
        }"""
        )
    )
    GraphPartitionPass().apply(make_context(), module)
    hosts = functions_of(module, Executor.HOST)
    drawn = [op.op_type.data for function in hosts for op in function.body.block.ops if isinstance(op, OnnxNodeOp)]
    assert (len(hosts), drawn) == (1, ["RandomNormalLike", "RandomUniformLike"])


def test_report():
    module = partitioned(
        """
        func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
          %0 = graph.unary exp %x : (tensor<4xf32>) -> tensor<4xf32> loc("a|b")
          func.return %0 : tensor<4xf32>
        }"""
    )
    assert partition_report(module) == [PartitionEntry("a|b", "graph.unary", Executor.CORE, "neuron_0", "supported")]
    assert partition_report(ModuleOp([])) == []


def test_programs_that_cannot_be_partitioned():
    with pytest.raises(NeuronError, match="has no function @main"):
        GraphPartitionPass().apply(make_context(), parse(MODULE.format("")))
    module = partitioned("func.func @main(%x: tensor<4xi64>) -> tensor<4xi64> { func.return %x : tensor<4xi64> }")
    assert functions_of(module, Executor.CORE) == []
    text = """
    func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
      %0 = graph.unary exp %x : (tensor<4xf32>) -> tensor<4xf32>
      func.return %0 : tensor<4xf32>
    }"""
    module = partitioned(text)
    with pytest.raises(NeuronError, match="launches segments already"):
        GraphPartitionPass().apply(make_context(), module)
    with pytest.raises(NeuronError, match="NX-TARGET-003"):
        GraphPartitionPass().apply(make_context(), parse(text))


# A chain of a thousand operators that change sides all the time: one segment each, in a moment.
def test_long_programs():
    lines: list[str] = []
    node = onnx_node("Identity", 1, 1)
    for number in range(0, 300, 2):
        before = f"%v{number}" if number else "%x"
        lines.append(f"%v{number + 1} = graph.unary tanh {before} : (tensor<4xf32>) -> tensor<4xf32>")
        lines.append(
            f'%v{number + 2} = graph.onnx_node "Identity"(%v{number + 1}) domain "" opset 13 {node}'
            " : (tensor<4xf32>) -> tensor<4xf32>"
        )
    body = "\n".join(lines)
    module = partitioned(
        f"func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {{\n{body}\nfunc.return %v300 : tensor<4xf32>\n}}",
        GraphPartitionPass(by_time=False),
    )
    assert len(functions_of(module, Executor.HOST)) == len(functions_of(module, Executor.CORE)) == 150


# Numbers that only the comparison sees are saturated, and the results stay the same.
def test_saturated_comparisons():
    module = parse(
        MODULE.format(
            """
        func.func @main(%i: tensor<4xi64>) -> (tensor<4xi1>, tensor<4xi64>) {
          %large = graph.constant 9223372036854775807 : tensor<i64>
          %small = graph.constant -4294967296 : tensor<i64>
          %0 = graph.compare lt %i, %large : (tensor<4xi64>, tensor<i64>) -> tensor<4xi1>
          %1 = graph.binary max %i, %small : (tensor<4xi64>, tensor<i64>) -> tensor<4xi64>
          func.return %0, %1 : tensor<4xi1>, tensor<4xi64>
        }"""
        )
    )
    values = np.array([0, -5, 2**31 - 2, -(2**31)])
    check_same_results(module, GraphPartitionPass(), GraphNarrowIntegersPass(), inputs=[values])
    assert len(functions_of(module, Executor.CORE)) == 1


CONTROLLED = f"""
    func.func @main(%x: tensor<64x256xf32>) -> (tensor<64xf32>, tensor<64x64xf32>) {{
      %w = graph.weight @w : tensor<256x64xf32>
      %0 = graph.matmul %x, %w : (tensor<64x256xf32>, tensor<256x64xf32>) -> tensor<64x64xf32> loc("product")
      %1 = graph.unary tanh %0 : (tensor<64x64xf32>) -> tensor<64x64xf32> loc("middle")
      %2 = graph.softmax %1 axis 1 : (tensor<64x64xf32>) -> tensor<64x64xf32> loc("soft")
      %3 = graph.reduce max %2 axes [1] : (tensor<64x64xf32>) -> tensor<64xf32> loc("most")
      %4 = graph.onnx_node "Identity"(%3) domain "" opset 13 {onnx_node("Identity", 1, 1)}
        : (tensor<64xf32>) -> tensor<64xf32> loc("host")
      %5 = graph.unary exp %4 : (tensor<64xf32>) -> tensor<64xf32> loc("tail")
      func.return %5, %2 : tensor<64xf32>, tensor<64x64xf32>
    }}"""


def places(module: ModuleOp) -> dict[str, str]:
    """Node -> C on a core, H on the host."""
    return {entry.node: str(entry.executor)[0].upper() for entry in partition_report(module)}


# Each control by itself, with the numbers unchanged. By time, 64 exponentials are not worth a launch.
@pytest.mark.parametrize(
    ("partition", "expected"),
    [
        (GraphPartitionPass(), "CCCCHH"),
        (GraphPartitionPass(by_time=False), "CCCCHC"),
        (GraphPartitionPass(force_core=("tail",)), "CCCCHC"),
        (GraphPartitionPass(force_host=("softmax",)), "CCHHHH"),
        (GraphPartitionPass(force_host=("graph.matmul", "middle")), "HHCCHH"),
        (GraphPartitionPass(force_host=("Identity", "nobody")), "CCCCHH"),
        (GraphPartitionPass(minimum_segment_size=2, by_time=False), "CCCCHH"),
        (GraphPartitionPass(minimum_segment_size=5), "HHHHHH"),
        (GraphPartitionPass(minimum_segment_size=5, force_core=("soft",)), "CCCCHH"),
    ],
)
def test_controls(partition: GraphPartitionPass, expected: str):
    module = partitioned(CONTROLLED, partition)
    assert "".join(places(module).values()) == expected


def test_what_cannot_be_forced():
    module = MODULE.format(CONTROLLED)
    with pytest.raises(
        NeuronError, match=r"NX-PART-001.*node 'host': Identity is forced to the core, but cores have no"
    ):
        GraphPartitionPass(force_core=("host",)).apply(make_context(), parse(module))
    with pytest.raises(NeuronError, match=r"but it is forced to the host too"):
        GraphPartitionPass(force_core=("soft",), force_host=("soft",)).apply(make_context(), parse(module))
    with pytest.raises(
        NeuronError, match=r"NX-PART-002.*1 of 6 operators .*\n  Identity 'host': cores have no"
    ) as caught:
        GraphPartitionPass(must_compile=True).apply(make_context(), parse(module))
    assert "tail" not in caught.value.message
    with pytest.raises(NeuronError, match="minimum-segment-size 0 is less than 1"):
        GraphPartitionPass(minimum_segment_size=0).apply(make_context(), parse(module))


# An operator that the back end refused says so; the attribute is text that a person can write.
def test_refused_operators():
    text = CONTROLLED.replace('loc("middle")', "").replace(
        "graph.unary tanh %0 :", 'graph.unary tanh %0 {neuron.refused = "NX-MEM-001: too large"} :'
    )
    module = partitioned(text)
    entry = partition_report(module)[1]
    assert (entry.executor, entry.reason) == (Executor.HOST, "the back end refused it: NX-MEM-001: too large")

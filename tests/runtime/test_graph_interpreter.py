"""How the graph interpreter walks programs: values, weights, launches, errors."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from xdsl.dialects.func import FuncOp

from neuron_dialects.dtypes import F32
from neuron_dialects.errors import NeuronError
from neuron_dialects.weights import WeightStore
from runtime.graph_interpreter import WeightResolver, Weights, run_graph
from runtime.graph_interpreter import interpreter as interpreter_module
from tests.graph_level import Array, assert_close, main_of, no_weights, parse, random_array


def run(text: str, *inputs: Array, store: WeightStore | None = None) -> list[Array]:
    module = parse(text)
    return run_graph(main_of(module), inputs, WeightResolver(module, store or WeightStore()))


def vector(*values: float) -> Array:
    return np.array(values, np.float32)


def test_constants_weights_and_several_results():
    store = WeightStore()
    store.add("w", vector(1, 2, 3))
    results = run(
        """
        func.func @main(%x: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) {
          %w = graph.weight @w : tensor<3xf32>
          %two = graph.constant 2.0 : tensor<f32>
          %sum = graph.binary add %x, %w : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
          %double = graph.binary mul %sum, %two : (tensor<3xf32>, tensor<f32>) -> tensor<3xf32>
          func.return %double, %sum, %x : tensor<3xf32>, tensor<3xf32>, tensor<3xf32>
        }""",
        vector(10, 20, 30),
        store=store,
    )
    assert [result.tolist() for result in results] == [[22, 44, 66], [11, 22, 33], [10, 20, 30]]


def test_fused_operators_and_launches():
    text = """
    func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
      %0, %1 = neuron.launch @neuron_0(%x) on core : (tensor<2xf32>) -> (tensor<2xf32>, tensor<2xf32>)
      %2 = neuron.launch @host_1(%0, %1) on host : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
      func.return %2 : tensor<2xf32>
    }
    func.func @neuron_0(%x: tensor<2xf32>) -> (tensor<2xf32>, tensor<2xf32>) {
      %0, %1 = graph.fused (%a = %x) : (tensor<2xf32>) -> (tensor<2xf32>, tensor<2xf32>) {
        %neg = graph.unary neg %a : (tensor<2xf32>) -> tensor<2xf32>
        %square = graph.unary square %neg : (tensor<2xf32>) -> tensor<2xf32>
        graph.yield %neg, %square : tensor<2xf32>, tensor<2xf32>
      }
      func.return %0, %1 : tensor<2xf32>, tensor<2xf32>
    }
    func.func @host_1(%a: tensor<2xf32>, %b: tensor<2xf32>) -> tensor<2xf32> {
      %0 = graph.binary sub %b, %a : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
      func.return %0 : tensor<2xf32>
    }"""
    assert run(text, vector(2, -3))[0].tolist() == [6, 6]


NARROW = """
func.func @main(%i: tensor<2xi64>, %c: tensor<2xi1>) -> (tensor<2xi64>, tensor<2xi1>) {
  %0, %1 = neuron.launch @neuron_0(%i, %c) on core : (tensor<2xi64>, tensor<2xi1>) -> (tensor<2xi64>, tensor<2xi1>)
  func.return %0, %1 : tensor<2xi64>, tensor<2xi1>
}
func.func @neuron_0(%i: tensor<2xi32>, %c: tensor<2xui8>) -> (tensor<2xi32>, tensor<2xui8>) {
  %0 = graph.binary add %i, %i : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi32>
  func.return %0, %c : tensor<2xi32>, tensor<2xui8>
}"""


# The core computes in narrower types than the program's; values that fit pass unchanged, others are refused.
def test_launch_converts_element_types():
    truth = np.array([True, False])
    integers, condition = run(NARROW, np.array([5, -6]), truth)
    assert integers.dtype == np.int64
    assert integers.tolist() == [10, -12]
    assert_close(condition, truth)
    with pytest.raises(NeuronError, match="the value 4294967296 does not fit i32"):
        run(NARROW, np.array([1, 2**32]), truth)


LOWERED = """
func.func @main(%x: tensor<2xi64>) -> tensor<2xi64> {
  %0 = neuron.launch @neuron_0(%x) on core : (tensor<2xi64>) -> tensor<2xi64>
  func.return %0 : tensor<2xi64>
}
func.func @neuron_0(%in: memref<2xi32, #neuron.space<dram>>, %out: memref<2xi32, #neuron.space<dram>>) {
  func.return
}"""


# A function on buffers is run by whoever can; it gets its inputs and returns its outputs in its own element types.
def test_launch_of_a_lowered_function():
    module = parse(LOWERED)
    seen: list[tuple[str, str]] = []

    def launch(function: FuncOp, arguments: list[Array], weights: Weights) -> list[Array]:
        seen.append((function.sym_name.data, str(arguments[0].dtype)))
        return [arguments[0] * 2]

    assert run_graph(main_of(module), [np.array([1, 2])], no_weights, launch=launch)[0].tolist() == [2, 4]
    assert seen == [("neuron_0", "int32")]
    with pytest.raises(NeuronError, match="@neuron_0 is no longer at the graph level"):
        run_graph(main_of(module), [np.array([1, 2])], no_weights)


def chain(length: int) -> str:
    lines = [
        f"%{n + 1} = graph.unary neg %{n} : (tensor<8xf32>) -> tensor<8xf32>" for n in range(length)
    ]  # fmt: skip
    body = "\n".join(lines).replace("%0 ", "%x ")
    return f"func.func @main(%x: tensor<8xf32>) -> tensor<8xf32> {{\n{body}\nfunc.return %{length} : tensor<8xf32>\n}}"


# Of a chain of operators never more than an operand and a result live at a time.
def test_values_die_at_their_last_use(monkeypatch: pytest.MonkeyPatch):
    alive: list[weakref.ref[Array]] = []
    most = 0

    def negate(_: object, x: Array) -> Array:
        nonlocal most
        result = -x
        alive.append(weakref.ref(result))
        most = max(most, sum(reference() is not None for reference in alive))
        return result

    from neuron_dialects.graph import UnaryOp

    monkeypatch.setattr(interpreter_module, "MEANINGS", {UnaryOp: negate})
    run(chain(20), random_array(F32, (8,), np.random.default_rng(0)))
    assert most == 2


# Weights at the head of a program are read where they are used, not all at once.
def test_weights_are_read_when_used():
    asked: list[str] = []

    def weights(name: str) -> Array:
        asked.append(name)
        return vector(1, 1)

    text = """
    func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
      %unused = graph.weight @unused : tensor<2xf32>
      %b = graph.weight @b : tensor<2xf32>
      %a = graph.weight @a : tensor<2xf32>
      %0 = graph.binary add %x, %a : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
      %1 = graph.binary add %0, %b : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
      func.return %1 : tensor<2xf32>
    }"""
    assert run_graph(main_of(parse(text)), [vector(0, 0)], weights)[0].tolist() == [2, 2]
    assert asked == ["a", "b"]


DERIVED = """
graph.derived_weight @double : tensor<2xf32> {
  %w = graph.weight @w : tensor<2xf32>
  %r = graph.binary add %w, %w : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
  graph.yield %r : tensor<2xf32>
}
graph.derived_weight @quadruple : tensor<2xbf16> {
  %w = graph.weight @double : tensor<2xf32>
  %r = graph.binary add %w, %w : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
  %c = graph.cast %r : (tensor<2xf32>) -> tensor<2xbf16>
  graph.yield %c : tensor<2xbf16>
}"""


def test_derived_weights():
    store = WeightStore()
    store.add("w", vector(1, 2))
    resolver = WeightResolver(parse(DERIVED), store)
    quadruple = resolver("quadruple")
    assert quadruple.astype(np.float32).tolist() == [4, 8]
    assert not quadruple.flags.writeable
    # Computed once for as long as somebody holds it, and not held for ever.
    assert resolver("quadruple") is quadruple
    reference = weakref.ref(quadruple)
    del quadruple
    gc.collect()
    assert reference() is None
    assert resolver("w") is store.get("w")


def test_derived_weight_that_passes_a_weight_through():
    store = WeightStore()
    store.add("w", vector(1, 2))
    text = """
    graph.derived_weight @same : tensor<2xf32> {
      %w = graph.weight @w : tensor<2xf32>
      graph.yield %w : tensor<2xf32>
    }"""
    assert WeightResolver(parse(text), store)("same").tolist() == [1, 2]


def test_derived_weight_of_itself():
    text = DERIVED.replace("@w :", "@quadruple :").replace("tensor<2xf32>\n", "tensor<2xf32>\n", 1)
    with pytest.raises(NeuronError, match="quadruple -> double -> quadruple"):
        WeightResolver(parse(text), WeightStore())("quadruple")


IDENTITY = "func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> { func.return %x : tensor<2xf32> }"
NAMED = IDENTITY.replace("tensor<2xf32> {", 'tensor<2xf32> attributes {neuron.input_names = ["image"]} {')


@pytest.mark.parametrize(
    ("text", "inputs", "message"),
    [
        (IDENTITY, [], "0 inputs are given, @main takes 1"),
        (IDENTITY, [vector(1)], "input 0 is 1 of float32 instead of 2 of float32"),
        (NAMED, [np.array([1, 2])], "input 'image' is 2 of int64 instead of 2 of float32"),
    ],
)
def test_inputs_that_do_not_fit(text: str, inputs: list[Array], message: str):
    with pytest.raises(NeuronError) as caught:
        run(text, *inputs)
    assert caught.value.code == "NX-ONNX-005"
    assert message in caught.value.message


def test_weight_that_does_not_fit():
    store = WeightStore()
    store.add("w", vector(1, 2, 3))
    text = """
    func.func @main() -> tensor<2xf32> {
      %w = graph.weight @w : tensor<2xf32>
      func.return %w : tensor<2xf32>
    }"""
    with pytest.raises(NeuronError) as caught:
        run(text, store=store)
    assert caught.value.code == "NX-WEIGHT-004"
    assert "weight 'w' is 3 of float32 instead of 2 of float32" in caught.value.message
    with pytest.raises(NeuronError, match="NX-WEIGHT-003"):
        run(text)


LAUNCH = """
func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
  %0 = neuron.launch @NAME(%x) on core : (tensor<2xf32>) -> tensor<2xf32>
  func.return %0 : tensor<2xf32>
}"""


def test_launches_that_cannot_be_run():
    with pytest.raises(NeuronError, match="launches @gone, but the module has no such function"):
        run(LAUNCH.replace("NAME", "gone"), vector(1, 2))
    with pytest.raises(NeuronError, match="@main launches itself"):
        run(LAUNCH.replace("NAME", "main"), vector(1, 2))
    declared = LAUNCH.replace("NAME", "outside") + "func.func private @outside(tensor<2xf32>) -> tensor<2xf32>"
    with pytest.raises(NeuronError, match="@outside has 0 blocks"):
        run(declared, vector(1, 2))


def test_operation_of_another_level():
    text = """
    func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
      %0 = builtin.unrealized_conversion_cast %x : tensor<2xf32> to tensor<2xf32>
      func.return %0 : tensor<2xf32>
    }"""
    with pytest.raises(NeuronError, match="unrealized_conversion_cast' has no meaning at the graph level"):
        run(text, vector(1, 2))

"""From finished core functions to programs and NEFFs: what must have run before, and the names that things get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, SSAValue
from xdsl.parser import Parser

from lowering.compiler import CompileOptions, CompileResult, compile_model
from lowering.nisa_to_neff import emit_neff
from lowering.nisa_to_neff.program import core_program
from lowering.pipeline import PHASES, run_passes
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import BinaryKind, BinaryOp
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import load_target
from neuron_dialects.weights import WeightStore
from runtime.neff import CORE, HOST, read_neff, write_neff
from runtime.reference import run_onnxruntime
from runtime.session import Session
from tests.core_kernels import Array, core_function, core_module
from tests.onnx_models import model_of
from tools.module_file import make_context

LOWERING = [spec for phase in PHASES[1:] for spec in phase.passes]
"""The passes from the graph level down."""

HEAD = """
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: memref<4x8xf32, #neuron.space<dram>>, %y: memref<4x8xf32, #neuron.space<dram>>)
      attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64} {
"""


def program_of(body: str) -> CoreProgram:
    """The program of a function of one input and one output with this body."""
    return core_program(core_function(parse(f"{HEAD}{body}\n    func.return\n  }}\n}}")), load_target("trn1"))


def parse(text: str) -> ModuleOp:
    """A module from its text, not verified."""
    return Parser(make_context(), text).parse_module()


def squares_after(passes: int) -> ModuleOp:
    """A function that squares 300 rows, so that it has a loop, after so many passes from the graph level down."""

    def squares(block: Block, arguments: Sequence[SSAValue], _: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        (rows,) = arguments
        square = BinaryOp(BinaryKind.MUL, rows, rows)
        block.add_op(square)
        return [square.result]

    module = core_module("trn1", [("f32", (300, 8192))], {}, squares)
    run_passes(Context(), module, LOWERING[:passes])
    return module


# Emission in the middle of the pipeline names the pass that must run first.
@pytest.mark.parametrize("passes", range(1, len(LOWERING) + 1))
def test_emission_needs_every_pass(passes: int) -> None:
    function = core_function(squares_after(passes))
    if passes == len(LOWERING):
        assert sum(len(q) for q in core_program(function, load_target("trn1")).queues.values()) > 0
        return
    missing = "nisa-allocate-registers" if LOWERING[passes - 1] == "nisa-split-queues" else "nisa-split-queues"
    with pytest.raises(NeuronError, match=f"run {missing} before emission") as caught:
        core_program(function, load_target("trn1"))
    assert caught.value.code == "NX-NEFF-021"


def test_a_buffer_on_chip_needs_an_address() -> None:
    with pytest.raises(NeuronError, match="run nisa-allocate before emission") as caught:
        program_of("""
    %a = nisa.alloc : memref<4x8xf32, #neuron.space<sbuf>>
    nisa.queue sp { nisa.dma_copy on sp ring load0 dst %a[0:4][0 : 8] src %x[0 : 32] }""")
    assert caught.value.code == "NX-NEFF-020"


@pytest.mark.parametrize(
    ("queues", "message"),
    [
        ("nisa.queue gpu { nisa.control halt }", "engine gpu has a queue, which target trn1 does not have"),
        ("nisa.queue sp { nisa.control halt } nisa.queue sp { nisa.control halt }", "engine sp has two queues"),
        ("nisa.queue sp { nisa.control branch_less r0, 2, L3 }", "queue sp branches to L3, which it does not have"),
        ("nisa.queue sp { nisa.control label L0 nisa.control label L0 }", "queue sp has label L0 twice"),
    ],
)
def test_broken_queues_are_refused(queues: str, message: str) -> None:
    with pytest.raises(NeuronError, match=message) as caught:
        program_of(queues)
    assert caught.value.code == "NX-NEFF-007"


# Addresses count elements of the operand's own type from the start of the partition; labels become entry numbers.
def test_entries_are_absolute() -> None:
    program = program_of("""
    %w = nisa.param "table" : memref<4x8xbf16, #neuron.space<dram>>
    %s = nisa.alloc : memref<4x8xf32, #neuron.space<dram>>
    %a = nisa.alloc at 32, 256 : memref<4x8xbf16, #neuron.space<sbuf>>
    nisa.queue sp {
      nisa.control reg_move r0, 0
      nisa.control label L7
      nisa.dma_copy on sp ring load0 dst %a[0:4][4 : 4] src %w[r0 : 4 step 8, 4] wait(act >= r0 + 1) signal(load0)
      nisa.control reg_add r0, r0, 4
      nisa.control branch_less r0, 8, L7
    }""")
    assert [(v.id, v.name, v.kind, v.dtype, v.shape) for v in program.variables] == [
        (0, "input0", "input", "f32", (4, 8)),
        (1, "output0", "output", "f32", (4, 8)),
        (2, "table", "file", "bf16", (4, 8)),
        (3, "scratch3", "tmp", "f32", (4, 8)),
    ]
    assert list(program.queues) == list(load_target("trn1").engines)
    move, copy, add, branch = program.queues["sp"]
    assert [(e.control, e.numbers) for e in (move, add, branch)] == [
        ("reg_move", (0, 0)),
        ("reg_add", (0, 0, 4)),
        ("branch_less", (0, 8, 1)),
    ]
    assert copy.instruction is not None
    assert str(copy.instruction.operands["dst"].pattern) == "[32:4][132 : 4]"
    assert copy.instruction.operands["dst"].buffer is None
    assert copy.instruction.operands["src"].buffer == 2
    assert (copy.ring, copy.instruction.engine) == ("load0", "dma")
    assert program.semaphores == ("act", "load0")
    assert [(number, str(value)) for number, value in copy.waits] == [(0, "$0 + 1")]
    assert copy.signal == 1


# A weight may be called what we would call an input, an output or a scratch tensor.
def test_names_of_our_own_make_room_for_weights() -> None:
    program = program_of("""
    %w = nisa.param "input0" : memref<4x8xbf16, #neuron.space<dram>>
    %v = nisa.param "output0" : memref<4x8xbf16, #neuron.space<dram>>
    %u = nisa.param "scratch5" : memref<4x8xbf16, #neuron.space<dram>>
    %s = nisa.alloc : memref<4x8xf32, #neuron.space<dram>>""")
    assert [v.name for v in program.variables] == ["input0_", "output0_", "input0", "output0", "scratch5", "scratch5_"]


def test_a_module_without_main_is_refused() -> None:
    with pytest.raises(NeuronError) as caught:
        emit_neff(squares_after(len(LOWERING)), WeightStore(), "copy")
    assert caught.value.code == "NX-IR-002"


def test_main_may_only_launch() -> None:
    module = parse("""
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
    %y = graph.unary relu %x : (tensor<4xf32>) -> tensor<4xf32>
    func.return %y : tensor<4xf32>
  }
}""")
    with pytest.raises(NeuronError, match=r"graph.unary in the main function") as caught:
        emit_neff(module, WeightStore(), "relu")
    assert caught.value.code == "NX-NEFF-022"


def compiled(folder: Path, nodes: list[onnx.NodeProto], inputs: list[str], outputs: list[str]) -> CompileResult:
    """A model of 2x8 tensors, left in model.onnx, compiled for trn1 without casts; it has weights `w` and `lengths`."""
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 8]) for n in (*inputs, *outputs)]
    weights = {"w": np.random.default_rng(1).standard_normal((8, 8), np.float32), "lengths": np.full(2, 8)}
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", values[: len(inputs)], values[len(inputs) :], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return compile_model(folder / "model.onnx", CompileOptions(target="trn1", auto_cast="none"))


def check_numbers(folder: Path, result: CompileResult) -> None:
    """The NEFF, written and read again, gives onnxruntime's outputs."""
    assert result.neff is not None
    write_neff(result.neff, folder / "model.neff")
    neff = read_neff(folder / "model.neff")
    rng = np.random.default_rng(2)
    inputs: dict[str, Array] = {s.name: rng.standard_normal(s.shape).astype(np.float32) for s in neff.inputs}
    expected = run_onnxruntime(folder / "model.onnx", inputs)
    outputs = Session(neff).run(inputs).outputs
    assert set(outputs) == set(expected)
    for name, value in outputs.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)


# Names of the model stay at its boundary; what is passed between segments gets names that no input has.
def test_tensors_between_segments_are_named_apart(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["t3", "w"], ["a"]),
        helper.make_node("ReverseSequence", ["a", "lengths"], ["b"], batch_axis=0, time_axis=1),  # for the host
        helper.make_node("Add", ["b", "t4"], ["y"]),
    ]
    result = compiled(tmp_path, nodes, ["t3", "t4"], ["y"])
    assert result.neff is not None
    assert [(n.executor, n.inputs, n.outputs) for n in result.neff.graph] == [
        (CORE, ("t3",), ("t5",)),
        (HOST, ("t5",), ("t6",)),
        (CORE, ("t6", "t4"), ("y",)),
    ]
    assert [s.name for s in result.neff.intermediates] == ["t5", "t6"]
    check_numbers(tmp_path, result)


# An output that is an input, or another output, is a copy that the core makes.
def test_outputs_that_are_other_tensors_are_copied(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Identity", ["y"], ["again"]),
        helper.make_node("Identity", ["x"], ["same"]),
    ]
    result = compiled(tmp_path, nodes, ["x"], ["y", "again", "same"])
    assert result.neff is not None
    assert [(n.executor, n.inputs, n.outputs) for n in result.neff.graph] == [
        (CORE, ("x",), ("y", "again", "same")),
    ]
    check_numbers(tmp_path, result)


# 64-bit integers need not fit the core's: the host copies an output that is such an input.
def test_wide_integers_are_copied_by_the_host() -> None:
    x = np.array([2**40, -1], np.int64)
    model = model_of([helper.make_node("Identity", ["x"], [name]) for name in ("y", "z")], {"x": x}, ["y", "z"])
    result = compile_model(model)
    assert result.neff is not None
    assert [(n.executor, n.inputs, n.outputs) for n in result.neff.graph] == [(HOST, ("x", "x"), ("y", "z"))]
    for output in Session(result.neff).run({"x": x}).outputs.values():
        assert output.tolist() == x.tolist()


# A recipe for a weight runs once, at emission: the NEFF holds its result, in the layout that the kernel reads.
def test_derived_weights_are_computed_at_emission(tmp_path: Path) -> None:
    result = compiled(tmp_path, [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], ["x"], ["y"])
    assert result.neff is not None
    (parameter,) = result.neff.subgraphs[0].parameters.values()
    weight = np.random.default_rng(1).standard_normal((8, 8), np.float32)
    np.testing.assert_array_equal(np.asarray(parameter), weight.T)
    check_numbers(tmp_path, result)

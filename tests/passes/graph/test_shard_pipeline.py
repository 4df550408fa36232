"""Sharding a core function, also within its operators: the stages together compute what the function computes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from lowering.execute import run_module
from lowering.nisa_to_neff.program import core_program
from lowering.pipeline import run_passes
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import ConcatOp, MatMulOp
from neuron_dialects.neuron import Executor, functions_of, target_of
from passes.graph import pipeline_graph
from passes.graph.pipeline_cut import Cutter
from passes.graph.pipeline_fold import Cut
from passes.graph.pipeline_graph import heaviest_function, read_chain
from passes.graph.shard_pipeline import GraphShardPipelinePass, apply_cut
from tests.graph_level import check_valid, main_of, parse, random_inputs, random_store, relative_l2

LAYER = """
builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
  func.func @main(%x: tensor<64x256xbf16>) -> (tensor<64x256xf32>, tensor<64x512xbf16>) {
    %w = graph.weight @w : tensor<256x512xbf16>
    %b = graph.weight @b : tensor<512xbf16>
    %v = graph.weight @v : tensor<512x256xbf16>
    %0 = graph.matmul %x, %w : (tensor<64x256xbf16>, tensor<256x512xbf16>) -> tensor<64x512xbf16>
    %1 = graph.binary add %0, %b : (tensor<64x512xbf16>, tensor<512xbf16>) -> tensor<64x512xbf16>
    %2 = graph.unary gelu %1 : (tensor<64x512xbf16>) -> tensor<64x512xbf16>
    %3 = graph.matmul %2, %v : (tensor<64x512xbf16>, tensor<512x256xbf16>) -> tensor<64x256xf32>
    %4 = graph.cast %x : (tensor<64x256xbf16>) -> tensor<64x256xf32>
    %5 = graph.binary add %3, %4 : (tensor<64x256xf32>, tensor<64x256xf32>) -> tensor<64x256xf32>
    %6 = graph.unary relu %2 : (tensor<64x512xbf16>) -> tensor<64x512xbf16>
    func.return %5, %6 : tensor<64x256xf32>, tensor<64x512xbf16>
  }
}
"""
PAIR = """
builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
  func.func @main(%x: tensor<64x256xbf16>) -> tensor<64x256xbf16> {
    %w = graph.weight @w : tensor<256x512xbf16>
    %b = graph.weight @b : tensor<512xbf16>
    %v = graph.weight @v : tensor<512x256xbf16>
    %c = graph.weight @c : tensor<256xbf16>
    %0 = graph.matmul %x, %w : (tensor<64x256xbf16>, tensor<256x512xbf16>) -> tensor<64x512xbf16>
    %1 = graph.binary add %0, %b : (tensor<64x512xbf16>, tensor<512xbf16>) -> tensor<64x512xbf16>
    %2 = graph.unary gelu %1 : (tensor<64x512xbf16>) -> tensor<64x512xbf16>
    %3 = graph.matmul %2, %v : (tensor<64x512xbf16>, tensor<512x256xbf16>) -> tensor<64x256xbf16>
    %4 = graph.binary add %3, %c : (tensor<64x256xbf16>, tensor<256xbf16>) -> tensor<64x256xbf16>
    %5 = graph.binary add %4, %x : (tensor<64x256xbf16>, tensor<64x256xbf16>) -> tensor<64x256xbf16>
    func.return %5 : tensor<64x256xbf16>
  }
}
"""
CONVOLUTIONS = """
builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
  func.func @main(%x: tensor<1x32x6x6xbf16>) -> tensor<1x256x6x6xbf16> {
    %w = graph.weight @w : tensor<256x32x3x3xbf16>
    %b = graph.weight @b : tensor<256x1x1xbf16>
    %v = graph.weight @v : tensor<256x256x1x1xbf16>
    %0 = graph.conv %x, %w strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x32x6x6xbf16>, tensor<256x32x3x3xbf16>) -> tensor<1x256x6x6xbf16>
    %1 = graph.binary add %0, %b : (tensor<1x256x6x6xbf16>, tensor<256x1x1xbf16>) -> tensor<1x256x6x6xbf16>
    %2 = graph.conv %1, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x256x6x6xbf16>, tensor<256x256x1x1xbf16>) -> tensor<1x256x6x6xbf16>
    %3 = graph.binary add %2, %1 : (tensor<1x256x6x6xbf16>, tensor<1x256x6x6xbf16>) -> tensor<1x256x6x6xbf16>
    func.return %3 : tensor<1x256x6x6xbf16>
  }
}
"""  # noqa: E501


def partitioned(text: str) -> ModuleOp:
    module = parse(text)
    run_passes(Context(), module, ("graph-partition", "graph-fuse"))
    return module


def stages_at(graph: pipeline_graph.PipelineGraph, places: list[int], cores: list[int] | None = None) -> Cut:
    """Stages that begin at these atoms, on these cores, or each on its own."""
    ends = [*places[1:], len(graph.chain.atoms)]
    stages = [
        next(s for s in graph.chain.stages_ending_at(last, graph.costs, float("inf")) if s.first == first)
        for first, last in zip(places, ends, strict=True)
    ]
    return Cut(tuple(stages), tuple(cores or range(len(places))))


@pytest.mark.parametrize("text", [LAYER, PAIR, CONVOLUTIONS], ids=["layer", "pair", "convolutions"])
def test_cuts_anywhere_compute_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each operator in pieces of 128 channels; a cut at each atom, at each two of them, and a stage for each atom."""
    monkeypatch.setattr(pipeline_graph, "FINEST", 1 << 20)
    whole = partitioned(text)
    store, inputs = random_store(whole), random_inputs(main_of(whole))
    expected = run_module(whole, store, inputs).outputs
    function = heaviest_function(whole)
    assert function is not None
    atoms = len(read_chain(function, target_of(whole)).chain.atoms)
    assert atoms > len(read_chain(function, target_of(whole)).ops)
    some = [places for count in (1, 2) for places in itertools.combinations(range(1, atoms), count)]
    for places in [*([0, *own] for own in some), list(range(atoms))]:
        module = whole.clone()
        function = heaviest_function(module)
        assert function is not None
        graph = read_chain(function, target_of(module))
        made = apply_cut(module, graph, stages_at(graph, places))
        check_valid(module)
        assert len(made) == len(places) == len(functions_of(module, Executor.CORE))
        for have, want in zip(run_module(module, store, inputs).outputs, expected, strict=True):
            assert relative_l2(have.astype(np.float32), want.astype(np.float32)) < 1e-2


def test_a_product_sums_what_it_gives_for_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first product is cut in the middle: the second one is two products, and nothing is put together for it."""
    monkeypatch.setattr(pipeline_graph, "FINEST", 1 << 20)
    module = partitioned(LAYER)
    function = heaviest_function(module)
    assert function is not None
    graph = read_chain(function, target_of(module))
    first = next(number for number in range(len(graph.ops)) if graph.chain.nodes[number].pieces == 4)
    place = next(number for number, atom in enumerate(graph.chain.atoms) if atom.node == first and atom.piece == 2)
    _, second = apply_cut(module, graph, stages_at(graph, [0, place]))
    assert sum(isinstance(op, MatMulOp) for op in second.walk()) == 3
    # What returns the cut value itself needs it whole.
    assert sum(isinstance(op, ConcatOp) for op in second.walk()) == 1


def test_a_product_and_what_feeds_it_are_cut_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else reads what the first product makes: the stages pass on a sum of 64 x 256 f32, and no part of it."""
    monkeypatch.setattr(pipeline_graph, "FINEST", 1 << 20)
    module = partitioned(PAIR)
    function = heaviest_function(module)
    assert function is not None
    graph = read_chain(function, target_of(module))
    assert [node.pieces for node in graph.chain.nodes] == [4]
    first, second = apply_cut(module, graph, stages_at(graph, [0, 1]))
    assert [str(type_) for type_ in first.function_type.outputs] == ["tensor<64x256xf32>"]
    assert sum(isinstance(op, MatMulOp) for op in second.walk()) == 2


def test_the_last_stage_gives_weights_that_are_results() -> None:
    text = LAYER.replace("tensor<64x512xbf16>) {", "tensor<64x512xbf16>, tensor<512xbf16>) {")
    text = text.replace("%5, %6 :", "%5, %6, %b :").replace(
        "f32>, tensor<64x512xbf16>\n", "f32>, tensor<64x512xbf16>, tensor<512xbf16>\n"
    )
    whole = partitioned(text)
    store, inputs = random_store(whole), random_inputs(main_of(whole))
    expected = run_module(whole, store, inputs).outputs
    function = heaviest_function(whole)
    assert function is not None
    graph = read_chain(function, target_of(whole))
    _, last = apply_cut(whole, graph, stages_at(graph, [0, 2]))
    check_valid(whole)
    assert str(last.function_type.outputs.data[-1]) == "tensor<512xbf16>"
    np.testing.assert_array_equal(run_module(whole, store, inputs).outputs[2], expected[2])


def test_stages_lower_to_what_the_function_computes() -> None:
    """Both stages on the machine, weights pinned: within rounding of the graph level, which rounds elsewhere."""
    module = partitioned(CONVOLUTIONS)
    store, inputs = random_store(module), random_inputs(main_of(module))
    expected = run_module(module, store, inputs).outputs
    GraphShardPipelinePass(2).apply(Context(), module)
    lowering = ("graph-layout", "convert-graph-to-tile", "convert-tile-to-nisa", "nisa-pin-weights", "nisa-allocate")
    run_passes(Context(), module, (*lowering, "nisa-synchronize", "nisa-split-queues", "nisa-allocate-registers"))
    for have, want in zip(run_module(module, store, inputs).outputs, expected, strict=True):
        assert relative_l2(have.astype(np.float32), want.astype(np.float32)) < 2e-2


def test_what_does_not_fit_is_said_with_its_node() -> None:
    """Two weights of 12 MiB each on two cores of 12 MiB, beside what is computed: too much by the figure told."""
    text = LAYER.replace("512", "24576")
    with pytest.raises(NeuronError, match="pipeline of 2 cores needs") as caught:
        GraphShardPipelinePass(2).apply(Context(), partitioned(text))
    assert caught.value.code == "NX-PIPE-001"
    with pytest.raises(NeuronError) as caught:
        GraphShardPipelinePass(64).apply(Context(), partitioned(LAYER))
    assert caught.value.code == "NX-PIPE-002"


def test_more_cores_are_never_slower_by_the_estimates() -> None:
    """The slowest stage of the best cut does not grow with the number of stages while transfers are free."""
    module = partitioned(CONVOLUTIONS)
    function = heaviest_function(module)
    assert function is not None
    graph = read_chain(function, target_of(module))
    free = replace(graph.costs, bytes_per_ns=1e9, transfer_ns=0.0)
    times = Cutter(graph.chain, free, 3).slowest_ns[1:]
    assert times == sorted(times, reverse=True)


def test_stages_share_a_core() -> None:
    """Three stages on two cores: weights of the first and the last one lie side by side, buffers behind both."""
    module = partitioned(LAYER)
    store, inputs = random_store(module), random_inputs(main_of(module))
    expected = run_module(module, store, inputs).outputs
    function = heaviest_function(module)
    assert function is not None
    graph = read_chain(function, target_of(module))
    made = apply_cut(module, graph, stages_at(graph, [0, 1, 2], [0, 1, 0]))
    names = [function.sym_name.data for function in made]
    lowering = ("graph-layout", "convert-graph-to-tile", "convert-tile-to-nisa", "nisa-pin-weights", "nisa-allocate")
    run_passes(Context(), module, (*lowering, "nisa-synchronize", "nisa-split-queues", "nisa-allocate-registers"))
    for have, want in zip(run_module(module, store, inputs).outputs, expected, strict=True):
        assert relative_l2(have.astype(np.float32), want.astype(np.float32)) < 2e-2
    by_name = {function.sym_name.data: function for function in functions_of(module, Executor.CORE)}
    first, alone, last = (core_program(by_name[name], target_of(module)) for name in names)
    assert [program.core for program in (first, alone, last)] == [0, 1, 0]
    assert first.pinned_range[0] == alone.pinned_range[0] == 0
    assert 0 < first.pinned_range[1] <= last.pinned_range[0] < last.pinned_range[1]
    assert first.reserved_bytes == last.reserved_bytes == last.pinned_range[1]
    assert alone.reserved_bytes == 0


def test_a_value_is_returned_in_two_types() -> None:
    """The caller takes the same numbers as i64 and as i32, which the core computes with, and an argument as i32."""
    text = """
builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
  func.func @main(%x: tensor<4x8xf32>, %i: tensor<8xi64>) -> (tensor<4x8xi64>, tensor<4x8xi32>, tensor<8xi32>) {
    %0:3 = neuron.launch @neuron_0(%x, %i) on core : (tensor<4x8xf32>, tensor<8xi64>) -> (tensor<4x8xi64>, tensor<4x8xi32>, tensor<8xi32>)
    func.return %0#0, %0#1, %0#2 : tensor<4x8xi64>, tensor<4x8xi32>, tensor<8xi32>
  }
  func.func private @neuron_0(%x: tensor<4x8xf32>, %i: tensor<8xi32>) -> (tensor<4x8xi32>, tensor<4x8xi32>, tensor<8xi32>) attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.unary relu %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
    %1 = graph.cast %0 : (tensor<4x8xf32>) -> tensor<4x8xi32>
    func.return %1, %1, %i : tensor<4x8xi32>, tensor<4x8xi32>, tensor<8xi32>
  }
}
"""  # noqa: E501
    module = parse(text)
    function = heaviest_function(module)
    assert function is not None
    apply_cut(
        module, read_chain(function, target_of(module)), stages_at(read_chain(function, target_of(module)), [0, 1])
    )
    check_valid(module)
    results = [str(type_) for type_ in main_of(module).function_type.outputs]
    assert results == ["tensor<4x8xi64>", "tensor<4x8xi32>", "tensor<8xi32>"]
    x, i = np.full((4, 8), 3.0, np.float32), np.arange(8)
    wide, narrow, same = run_module(module, random_store(module), [x, i]).outputs
    assert (wide.dtype, narrow.dtype, same.dtype) == (np.int64, np.int32, np.int32)
    assert (wide == 3).all()
    assert (narrow == 3).all()
    np.testing.assert_array_equal(same, i)

"""A small tensor that many stages read goes from reader to reader, and arrives as it was."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from lowering.execute import run_module
from lowering.pipeline import pass_specs, run_passes
from neuron_dialects.hand_over import HandOverOp
from neuron_dialects.neuron import LaunchOp, target_of
from passes.graph import pass_along
from passes.graph.pipeline_fold import Cut
from passes.graph.pipeline_graph import heaviest_function, read_chain
from passes.graph.shard_pipeline import apply_cut
from tests.graph_level import check_valid, main_of, parse, random_inputs, random_store

SHARED = """
builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
  func.func @main(%x: tensor<16x64xbf16>, %s: tensor<16x64xbf16>) -> tensor<16x64xbf16> {
    %m = graph.softmax %s axis 1 : (tensor<16x64xbf16>) -> tensor<16x64xbf16>
    %0 = graph.binary add %x, %m : (tensor<16x64xbf16>, tensor<16x64xbf16>) -> tensor<16x64xbf16>
    %1 = graph.softmax %0 axis 1 : (tensor<16x64xbf16>) -> tensor<16x64xbf16>
    %2 = graph.binary sub %1, %m : (tensor<16x64xbf16>, tensor<16x64xbf16>) -> tensor<16x64xbf16>
    %3 = graph.softmax %2 axis 1 : (tensor<16x64xbf16>) -> tensor<16x64xbf16>
    %4 = graph.binary mul %3, %m : (tensor<16x64xbf16>, tensor<16x64xbf16>) -> tensor<16x64xbf16>
    %5 = graph.softmax %4 axis 1 : (tensor<16x64xbf16>) -> tensor<16x64xbf16>
    %6 = graph.binary add %5, %m : (tensor<16x64xbf16>, tensor<16x64xbf16>) -> tensor<16x64xbf16>
    func.return %6 : tensor<16x64xbf16>
  }
}
"""


def sharded(module: ModuleOp) -> ModuleOp:
    """The module with a stage for each operator."""
    run_passes(Context(), module, ("graph-partition",))
    function = heaviest_function(module)
    assert function is not None
    graph = read_chain(function, target_of(module))
    ends = range(1, len(graph.chain.atoms) + 1)
    stages = [graph.chain.stages_ending_at(last, graph.costs, float("inf"))[0] for last in ends]
    apply_cut(module, graph, Cut.plain(stages))
    check_valid(module)
    return module


def readers_of_results(module: ModuleOp) -> Counter[int]:
    """How many results of launches have so many readers."""
    launches = [op for op in module.walk() if isinstance(op, LaunchOp)]
    return Counter(len(list(result.uses)) for launch in launches for result in launch.results)


def test_a_shared_tensor_goes_from_reader_to_reader() -> None:
    whole = parse(SHARED)
    store, inputs = random_store(whole), random_inputs(main_of(whole))
    (expected,) = run_module(whole, store, inputs).outputs
    module = sharded(whole.clone())
    np.testing.assert_array_equal(run_module(module, store, inputs).outputs[0], expected)
    # Eight operators make a tensor each; three of the four that read the first one give it on.
    assert readers_of_results(module) == {1: 8 + 3}
    specs = pass_specs()
    run_passes(Context(), module, specs[specs.index("graph-shard-pipeline") + 1 :])
    rows = [op for op in module.walk() if isinstance(op, HandOverOp)]
    assert max(row.buffers.value.data for row in rows) == 3
    np.testing.assert_array_equal(run_module(module, store, inputs).outputs[0], expected)


# What takes long to pass on goes to all of its readers from where it was made.
def test_large_tensors_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pass_along, "MOST_BYTES", 16 * 64 * 2 - 1)
    assert max(readers_of_results(sharded(parse(SHARED)))) == 4

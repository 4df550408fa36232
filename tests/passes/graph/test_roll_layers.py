"""Rolled layers compute what they did, at every level; and what is rolled, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp

from lowering.execute import queue_programs, run_module
from lowering.nisa_to_neff import emit_neff
from lowering.numerics import random_weights
from lowering.pipeline import make_pass, pass_specs, run_passes
from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import LaunchOp, launch_problems, layer_weights, target_of
from runtime.races import check_races
from tests.graph_level import parse
from tests.layered import layered_inputs, layered_text, layered_weights

ROLL = "graph-roll-layers{layers=3 least-layers=4 least-operators=1}"


def rolled(text: str) -> ModuleOp:
    module = parse(text)
    run_passes(Context(), module, [ROLL])
    module.verify()
    assert launch_problems(module) == []
    return module


def launches(module: ModuleOp) -> list[tuple[str, int | None]]:
    return [(op.callee.root_reference.data, op.repetitions) for op in module.walk() if isinstance(op, LaunchOp)]


def layer_count(module: ModuleOp, name: str) -> int:
    function = next(op for op in module.ops if isinstance(op, FuncOp) and op.sym_name.data == name)
    return sum(op.name == "graph.matmul" for op in function.walk())


# Seven layers: twice three, and one that is left over.
def test_layers_are_rolled() -> None:
    module = rolled(layered_text(7))
    assert launches(module) == [("neuron_0_part_0", None), ("neuron_0_part_1", 2), ("neuron_0_part_2", None)]
    assert [layer_count(module, f"neuron_0_part_{n}") for n in range(3)] == [0, 3, 1]
    body = next(op for op in module.ops if isinstance(op, FuncOp) and op.sym_name.data == "neuron_0_part_1")
    assert layer_weights(body)["w1"] == ["w1", "w4"]


# Fewer layers than asked for, or fewer operators than are worth it, stay as they are: five operators a layer, and of
# seven layers three are spared.
@pytest.mark.parametrize("options", ["least-layers=8 least-operators=1", "least-layers=4 least-operators=16"])
def test_what_stays(options: str) -> None:
    module = parse(layered_text(7))
    run_passes(Context(), module, [f"graph-roll-layers{{layers=3 {options}}}"])
    assert launches(module) == [("neuron_0", None)]


# A weight without dimensions in each layer: its parameter would not tell what is stacked.
def test_scalar_weights_stay() -> None:
    text = layered_text(6).replace("tensor<64xf32>", "tensor<f32>")
    assert launches(rolled(text)) == [("neuron_0", None)]


# Random weights for a rolled module are those for the module before: of all layers.
def test_random_weights_of_all_layers() -> None:
    before, after = random_weights(parse(layered_text(6))), random_weights(rolled(layered_text(6)))
    assert set(after.names()) == set(before.names())
    assert all(np.array_equal(after.get(name), before.get(name)) for name in before.names())


# A layer in the middle gives a result of its own: there are loops before and behind it.
def test_results_from_the_middle() -> None:
    text = layered_text(12, returns="%h5")
    module = rolled(text)
    assert [times for _, times in launches(module)] == [None, 5, None, 2, None]
    store = layered_weights(12)
    expected = run_module(parse(text), store, layered_inputs()).outputs
    for actual, wanted in zip(run_module(module, store, layered_inputs()).outputs, expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


# One body, one set of weights: nothing is stacked.
def test_shared_weights() -> None:
    module = rolled(layered_text(6, shared=True))
    store = layered_weights(1)
    expected = run_module(parse(layered_text(6, shared=True)), store, layered_inputs()).outputs
    np.testing.assert_array_equal(run_module(module, store, layered_inputs()).outputs[0], expected[0])
    run_passes(Context(), module, behind_the_roll())
    assert "stacked" not in str(module)
    np.testing.assert_allclose(
        run_module(module, store, layered_inputs()).outputs[0], expected[0], rtol=1e-4, atol=1e-4
    )


def behind_the_roll() -> list[str]:
    specs = pass_specs("none")
    return specs[specs.index("graph-roll-layers") + 1 :]


# After every pass that follows the program computes the same: in numpy, over tiles, in instructions, on the machine. It
# is free of races then, and one segment; its code does not grow with the number of layers.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
def test_every_level_computes_the_same(target: str) -> None:
    text, store, inputs = layered_text(9, target=target), layered_weights(9), layered_inputs()
    (expected,) = run_module(parse(text), store, inputs).outputs
    module = rolled(text)
    tolerance = 1e-4 if target == "trn1" else 3e-2
    for spec in ["graph-auto-cast{mode=none}", "graph-fold-weights", *behind_the_roll()]:
        run_passes(Context(), module, [spec])
        module.verify()
        # A copy: running queues allocates their registers.
        (actual,) = run_module(module.clone(), store, inputs).outputs
        error = float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
        assert error < tolerance, f"{spec}: {error}"
    assert launches(module) == [("neuron_0", None)]
    (program,) = queue_programs(module)
    assert check_races(program, target_of(module)) == []
    (image,) = emit_neff(module, store, "layers").subgraphs
    stacked = {v.shape for v in image.program.variables if v.kind == "file" and v.name.endswith(".stacked")}
    assert stacked
    assert all(shape[0] == 3 for shape in stacked)


def test_code_does_not_grow_with_the_layers() -> None:
    def entries(layers: int) -> int:
        module = rolled(layered_text(layers))
        run_passes(Context(), module, behind_the_roll())
        (program,) = queue_programs(module)
        return sum(map(len, program.queues.values()))

    assert entries(30) == entries(9)


# A program that is not linked cannot be emitted, and the stages of a pipeline are not cut from parts.
def test_parts_are_not_emitted() -> None:
    module = rolled(layered_text(8))
    specs = [spec for spec in behind_the_roll() if spec != "nisa-link-parts"]
    run_passes(Context(), module, specs)
    with pytest.raises(NeuronError, match="a launch is repeated") as error:
        emit_neff(module, layered_weights(8), "layers")
    assert error.value.code == "NX-NEFF-022"


@pytest.mark.parametrize("options", ["layers=0", "least-layers=1"])
def test_impossible_options(options: str) -> None:
    with pytest.raises(NeuronError) as error:
        run_passes(Context(), parse(layered_text(2)), [make_pass(f"graph-roll-layers{{{options}}}")])
    assert error.value.code == "NX-PASS-001"

"""Recurrent layers on the core: cells against onnxruntime on the machine, one loop over time, what stays in SBUF."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from xdsl.dialects import scf
from xdsl.dialects.func import FuncOp

from lowering.compiler import CompileOptions, compile_model
from lowering.graph_to_tile import recurrent_plan
from lowering.graph_to_tile.recurrent_plan import Recurrence, lanes_of, plan_recurrence
from lowering.onnx_backend import NeuronBackend
from neuron_dialects.neuron import Executor, functions_of
from neuron_dialects.tile import TileOp
from tests.graph_level import relative_l2
from tests.lowering.recurrent_models import Layer
from tests.onnx_models import onnxruntime_results

BOTH = ("trn1", "inf1")
LAYERS = [
    *(Layer(op_type, direction="bidirectional", lengths=(5, 0, 3)) for op_type in ("LSTM", "GRU", "RNN")),
    Layer("LSTM", hidden=131, direction="reverse", given=("b", "h", "c", "p"), attributes={"clip": 0.5}),
    Layer("LSTM", hidden=200, batch=1, attributes={"input_forget": 1}),
    Layer("GRU", hidden=200, attributes={"linear_before_reset": 1, "clip": 0.5}),
    Layer("GRU", hidden=257, batch=2, outputs=("y_h",)),
    Layer("RNN", steps=11, batch=520, hidden=8, outputs=("y",)),
    Layer("LSTM", attributes={"activations": ["HardSigmoid", "Softsign", "ScaledTanh"],
                              "activation_alpha": [0.3, 0.9], "activation_beta": [0.4, 0.7]}),
    Layer("GRU", attributes={"activations": ["Affine", "Elu"], "activation_alpha": [0.3, 0.9],
                             "activation_beta": [0.2]}),
    *(Layer("RNN", attributes={"activations": [name], "activation_alpha": [0.3]})
      for name in ("Relu", "Sigmoid", "Softplus", "LeakyRelu", "ThresholdedRelu")),
]  # fmt: skip


def error(layer: Layer, target: str = "trn1", auto_cast: str = "none", **model: Any) -> float:
    """Worst relative error against onnxruntime; everything runs on the core."""
    proto, feeds = layer.model(**model)
    prepared = NeuronBackend.prepare(proto, options=CompileOptions(target=target, auto_cast=auto_cast))
    results = prepared.run(list(feeds.values()))
    assert prepared.compiled is not None
    assert prepared.compiled.host_segments == 0
    expected = onnxruntime_results(proto, feeds)
    return max(relative_l2(np.asarray(have), want) for have, want in zip(results, expected, strict=True))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.label)
def test_cells(layer: Layer) -> None:
    assert error(layer) < 2e-6


# The array of inf1 gives results on 64 partitions only, so that a tile of hidden units comes in two parts.
@pytest.mark.parametrize("layer", LAYERS[:7], ids=lambda layer: layer.label)
def test_narrow_array(layer: Layer) -> None:
    assert error(layer, "inf1") < 1e-2


@pytest.mark.parametrize("auto_cast", ["matmult", "all"])
def test_casts(auto_cast: str) -> None:
    assert error(Layer("GRU", hidden=40), auto_cast=auto_cast) < 2e-2


# A recurrence weight that is no weight of the model is packed on the device.
@pytest.mark.parametrize("target", BOTH)
def test_weights_as_inputs(target: str) -> None:
    layer = Layer("LSTM", hidden=131, direction="bidirectional", given=("b", "h", "p"))
    assert error(layer, target, weights_are_inputs=True) < (2e-6 if target == "trn1" else 1e-2)


# Where SBUF is too small for the whole weight, a part of it or all of it streams past in each step.
@pytest.mark.parametrize(("share", "resident"), [(0.9, 5), (0.1, 3), (0.02, 0)])
def test_streamed_weights(share: float, resident: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer("GRU", steps=3, batch=2, hidden=600)
    plan = recurrent_plan.plan_recurrence

    def planned(*arguments: Any) -> Any:
        made = plan(*arguments)
        assert made.resident == resident
        return made

    monkeypatch.setattr(recurrent_plan, "USABLE_SBUF", share)
    monkeypatch.setattr("lowering.graph_to_tile.recurrent.plan_recurrence", planned)
    assert error(layer, auto_cast="matmult") < 1e-2


# States take turns where a step is cut into blocks: whatever number of steps is loaded together, and left over.
@pytest.mark.parametrize(("op_type", "steps", "share"), [("LSTM", 5, 0.0), ("LSTM", 4, 0.0), ("RNN", 7, 0.0013)])
@pytest.mark.parametrize("auto_cast", ["all", "none"])
def test_states_that_take_turns(
    op_type: str, steps: int, share: float, auto_cast: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Layer(op_type, steps=steps, batch=2, hidden=300, direction="bidirectional", given=("b", "h"))
    monkeypatch.setattr(recurrent_plan, "OVERLAPPED_NS", 1.0)
    monkeypatch.setattr(recurrent_plan, "CHUNK_SHARE", share)
    assert error(layer, auto_cast=auto_cast) < (2e-6 if auto_cast == "none" else 2e-2)


def core_functions(layer: Layer, emit: str) -> list[FuncOp]:
    """The core functions of a layer at some level."""
    proto, _ = layer.model()
    module = compile_model(proto, CompileOptions(target="trn1", emit=emit)).module
    return functions_of(module, Executor.CORE)


# Code does not grow with the number of steps: there is a loop over time.
@pytest.mark.parametrize(("op_type", "emit"), [("LSTM", "nisa"), ("GRU", "tile")])
def test_program_size_is_independent_of_time(op_type: str, emit: str) -> None:
    def size(steps: int) -> int:
        functions = core_functions(Layer(op_type, steps=steps, batch=8, direction="bidirectional"), emit)
        return sum(1 for function in functions for _ in function.walk())

    assert abs(size(1600) - size(400)) < 20


# The weight is loaded before the loop over time, and nothing is loaded in the loop over steps.
def test_the_weight_is_loaded_once() -> None:
    (function,) = core_functions(Layer("LSTM", steps=40, hidden=256), "tile")
    (load,) = [op for op in function.walk() if isinstance(op, TileOp) and "recurrence" in str(op.operands[0].name_hint)]
    assert load.name == "tile.load"
    assert not isinstance(load.parent_op(), scf.ForOp)


def test_plans() -> None:
    assert [lanes_of(hidden) for hidden in (1, 128, 129, 1500)] == [(1, 1), (1, 128), (2, 65), (12, 125)]
    # 12 tiles of 48 kB a partition, 4 gates: 12 * 4 * 12 * 125 * 2 = 144,000 B fit in the 180,224 B of trn1.
    layer = Recurrence(1500, 4, 35, 1, 2, 13000.0)
    large = plan_recurrence(layer, 180224, 512)
    assert (large.resident, large.block, large.steps, large.batch) == (12, 3, 35, 1)
    # Of the 98,304 B of inf1 they leave room for some, in whole blocks.
    small = plan_recurrence(layer, 98304, 512)
    assert 0 < small.resident < 12
    # A large batch is cut so that the gates of a tile of hidden units lie in one PSUM bank.
    wide = plan_recurrence(Recurrence(128, 4, 10, 1000, 2, 100.0), 180224, 512)
    assert wide.batch * 4 * wide.block <= 512
    # 64 sequences are computed together, though less of the weight stays on chip then: a step of 32 takes the tensor
    # engine as long as one of 64. 40 sequences fit beside all that stays for 40.
    together = plan_recurrence(Recurrence(1500, 4, 35, 64, 2, 12500.0, 272.0), 180224, 512)
    fewer = plan_recurrence(Recurrence(1500, 4, 35, 40, 2, 12500.0, 272.0), 180224, 512)
    assert (together.batch, fewer.batch) == (64, 40)
    assert 0 < together.resident < fewer.resident < 12
    # 12,288 B of bf16 gates, 6,144 B of state and 10,240 B for a block of two tiles are left beside all of the weight.
    bare = Recurrence(1500, 4, 35, 64, 2, 12500.0, 272.0, 2, 2, alternates=True, keeps_h=False, stores_state=True)
    whole = plan_recurrence(bare, 180224, 512)
    assert (whole.batch, whole.resident, whole.block, whole.steps) == (64, 12, 2, 1)
    # Another 6 KB less, and blocks are of one tile.
    assert plan_recurrence(bare, 174080, 512).block == 1
    # Steps whose gates are loaded together leave room for others.
    long = plan_recurrence(Recurrence(1024, 4, 5000, 32, 2, 6000.0), 180224, 512)
    assert 2 * 5 * 8 * 4 * long.steps * long.batch <= 180224 / 8

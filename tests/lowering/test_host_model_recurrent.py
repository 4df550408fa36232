"""Recurrent layers of host functions as ONNX models: onnxruntime must give what the graph interpreter gives."""

from __future__ import annotations

import pytest

from lowering.onnx_to_graph import INPUT_NAMES, import_onnx
from runtime.graph_interpreter import WeightResolver
from tests.graph_level import main_of
from tests.lowering.host_models import check_same
from tests.lowering.recurrent_models import Layer
from tests.onnx_models import names_of

LAYERS = [
    Layer("LSTM", direction="bidirectional", given=("b", "h", "c", "p"), lengths=(5, 2, 3)),
    Layer("LSTM", given=(), attributes={"clip": 0.3, "input_forget": 1}),
    Layer("GRU", direction="bidirectional", attributes={"linear_before_reset": 1}),
    Layer("GRU", direction="reverse", attributes={"activations": ["HardSigmoid", "LeakyRelu"],
                                                  "activation_alpha": [0.3, 0.4], "activation_beta": [0.6]}),
    Layer("RNN", attributes={"activations": ["ScaledTanh"], "activation_alpha": [0.9], "activation_beta": [0.6]}),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.label)
def test_a_layer_on_the_host(layer: Layer) -> None:
    model, feeds = layer.model()
    result = import_onnx(model)
    main = main_of(result.module)
    inputs = [feeds[name] for name in names_of(main, INPUT_NAMES)]
    check_same(main, inputs, WeightResolver(result.module, result.weights), tolerance=1e-5)

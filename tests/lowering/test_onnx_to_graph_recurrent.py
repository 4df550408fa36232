"""LSTM, GRU and RNN at import: every form against onnxruntime."""

from __future__ import annotations

import pytest

from tests.lowering.recurrent_models import Layer
from tests.onnx_models import check_import, operators

DIRECTIONS = ("forward", "reverse", "bidirectional")
ONE_PARAMETER = ("LeakyRelu", "ThresholdedRelu", "Elu")
TWO_PARAMETERS = ("HardSigmoid", "Affine", "ScaledTanh")
PLAIN = ("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus")

LAYERS = [
    *(Layer(op_type, direction=direction) for op_type in ("LSTM", "GRU", "RNN") for direction in DIRECTIONS),
    *(Layer(op_type, given=()) for op_type in ("LSTM", "GRU", "RNN")),
    *(
        Layer(op_type, direction=direction, lengths=(5, 2, 3))
        for op_type in ("LSTM", "GRU", "RNN")
        for direction in DIRECTIONS
    ),
    Layer("LSTM", direction="bidirectional", lengths=(0, 5, 2)),
    Layer("LSTM", direction="bidirectional", given=("b", "h", "c", "p")),
    Layer("LSTM", given=("b", "p"), attributes={"clip": 0.3}),
    Layer("LSTM", attributes={"input_forget": 1}),
    Layer("GRU", direction="bidirectional", attributes={"linear_before_reset": 1}),
    Layer("GRU", given=("h",), attributes={"linear_before_reset": 1}),
    Layer("GRU", attributes={"clip": 0.3}),
    Layer("GRU", attributes={"clip": 0.3, "linear_before_reset": 1}),
    Layer("RNN", attributes={"clip": 0.3}),
    Layer("RNN", steps=1, batch=1),
    *(Layer("RNN", attributes={"activations": [name]}) for name in (*PLAIN, *ONE_PARAMETER, *TWO_PARAMETERS)),
    *(Layer("RNN", attributes={"activations": [name], "activation_alpha": [0.3]}) for name in ONE_PARAMETER),
    *(
        Layer("RNN", attributes={"activations": [name], "activation_alpha": [0.3], "activation_beta": [0.6]})
        for name in TWO_PARAMETERS
    ),
    Layer("RNN", attributes={"activations": ["HardSigmoid"]}),
    Layer("LSTM", attributes={"activations": ["HardSigmoid", "Softsign", "ScaledTanh"],
                              "activation_alpha": [0.3, 0.9], "activation_beta": [0.4, 0.7]}),
    Layer("GRU", direction="bidirectional", attributes={"activations": ["hardsigmoid", "Relu", "Sigmoid", "Elu"],
                                                        "activation_alpha": [0.3, 0.5], "activation_beta": [0.4]}),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.label)
def test_forms(layer: Layer) -> None:
    model, feeds = layer.model()
    result = check_import(model, feeds)
    assert operators(result).count("graph.recurrent") == 1
    assert operators(result).count("graph.matmul") == 1

"""Whole models, imported and interpreted, against outputs that onnxruntime computed without optimisation."""

from __future__ import annotations

import pytest

from runtime.graph_interpreter import WeightResolver, run_graph
from tests.graph_level import main_of, relative_l2
from tests.model_zoo import NEEDS_MODELS, load_model, model_names

TOLERANCE = {
    # onnxruntime itself is this far from the same model computed in float64.
    "yolov5s": 3e-5,
    "mobilenet_v1_tf": 2e-5,
    # 16 bits round at other places there: once for each kernel, and by torch for bf16.
    "bert_base_fp16": 3e-3,
    "llama_1b_bf16": 2e-2,
}


@NEEDS_MODELS
@pytest.mark.parametrize("name", model_names())
def test_model(name: str):
    model = load_model(name)
    module = model.imported.module
    results = run_graph(main_of(module), model.inputs, WeightResolver(module, model.imported.weights))
    for actual, expected in zip(results, model.expected, strict=True):
        assert actual.shape == expected.shape
        assert relative_l2(actual, expected) <= TOLERANCE.get(name, 1e-5)

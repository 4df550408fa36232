"""The light models with random weights, against onnxruntime without graph optimisation."""

from __future__ import annotations

import numpy as np
import pytest

from lowering.compiler import CompileOptions, compile_model
from runtime.reference import errors, run_onnxruntime
from runtime.session import Session
from tests.onnx_backend.random_weights import image_for, light_model, randomised

LIGHT_MODELS = (
    *("test_bvlc_alexnet", "test_densenet121", "test_inception_v1", "test_inception_v2", "test_resnet50"),
    *("test_shufflenet", "test_squeezenet", "test_vgg19", "test_zfnet512"),
)
QUICK = "test_shufflenet"
"""The one with the fewest multiplications runs each time."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == QUICK else pytest.mark.nightly) for name in LIGHT_MODELS]
)
def test_light_model_with_random_weights(name: str) -> None:
    original = light_model(name)
    inputs = image_for(original)
    model = randomised(original, inputs)
    (expected,) = run_onnxruntime(model.SerializeToString(), inputs).values()
    # With constant weights every class would be as likely as the others.
    assert len(np.unique(expected)) > 0.5 * expected.size
    assert float(expected.std()) > float(abs(expected.mean()))
    neff = compile_model(model, CompileOptions("trn1", "none")).neff
    assert neff is not None
    (outputs,) = Session(neff).run(inputs).outputs.values()
    assert errors(outputs, expected)["rel_l2_error"] <= 1e-4

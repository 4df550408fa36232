"""Every model beside the clone: each compiles, computes what its stored outputs say, and has its work on the core.

Quick ones run each time, all of them nightly. A second set of inputs, of other shapes, is one more case of a model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lowering.compiler import CompileOptions
from runtime.reference import errors, rounded, rounded_model, run_onnxruntime
from runtime.session import Session
from tests.model_zoo import MODELS
from tests.numerics.models import CAST_TOLERANCE, EXACT_TOLERANCE, Array, compile_for_inputs
from tools.analyze import analyze

QUICK = (
    "ds_cnn_kws",
    "fasttext_bag",
    "wide_deep",
    "dlrm_dynbatch.alt",
    "textcnn",
    "mobilenet_v1_tf",
    "llama_1b_dynaxes.alt",
)
"""Run each time; tests/numerics/test_models.py runs more."""

NARROW = {"llama_1b_bf16": 2e-2, "bert_base_fp16": 3e-3}
"""Models that compute in 16 bits throughout: their expected outputs rounded after other operators than we do."""

LEAST_SHARE = 0.95
"""Share of a model's floating-point operations that cores do."""


def cases() -> list[str]:
    """Names of the models that have inputs; NAME.alt for the second inputs of NAME."""
    found = {path.name.removesuffix(".npz").replace(".inputs", "") for path in MODELS.glob("*.inputs*.npz")}
    return sorted(found)


def zoo() -> pytest.MarkDecorator:
    """The cases as a parameter `case`; what is not quick is for the night."""
    marked = [pytest.param(name, marks=() if name in QUICK else pytest.mark.nightly) for name in cases()]
    return pytest.mark.parametrize("case", marked)


def path_of(case: str) -> Path:
    return MODELS / f"{case.partition('.')[0]}.onnx"


def arrays(case: str, kind: str) -> dict[str, Array]:
    """The stored `inputs` or `outputs` of a case."""
    name, _, second = case.partition(".")
    with np.load(MODELS / ".".join((name, kind, *([second] if second else []), "npz")), allow_pickle=False) as data:
        return {key: data[key] for key in data.files}


def computed(case: str, target: str, auto_cast: str) -> dict[str, Array]:
    inputs = arrays(case, "inputs")
    neff = compile_for_inputs(path_of(case), inputs, target=target, auto_cast=auto_cast).neff
    assert neff is not None
    return Session(neff).run(inputs).outputs


def floors(case: str) -> dict[str, float]:
    """onnxruntime's own error when weights and inputs are rounded to bf16."""
    inputs = {n: rounded(v, "bf16") if v.dtype == np.float32 else v for n, v in arrays(case, "inputs").items()}
    near, expected = run_onnxruntime(rounded_model(path_of(case), "bf16"), inputs), arrays(case, "outputs")
    return {name: errors(near[name], want)["rel_l2_error"] for name, want in expected.items()}


@zoo()
def test_without_casts_on_trn1(case: str) -> None:
    outputs = computed(case, "trn1", "none")
    for name, want in arrays(case, "outputs").items():
        error = errors(outputs[name], want)["rel_l2_error"]
        tolerance = NARROW.get(case, EXACT_TOLERANCE) if want.dtype.kind not in "iub" else 0.0
        assert error <= tolerance, (name, error)


@pytest.mark.parametrize("target", ["inf1", "trn1"])
@zoo()
def test_with_default_casts(case: str, target: str) -> None:
    outputs, expected = computed(case, target, "matmult"), arrays(case, "outputs")
    found = {name: errors(outputs[name], want)["rel_l2_error"] for name, want in expected.items()}
    if all(found[name] <= (0.0 if want.dtype.kind in "iub" else CAST_TOLERANCE) for name, want in expected.items()):
        return
    least = floors(case)
    for name, want in expected.items():
        tolerance = max(CAST_TOLERANCE, 3 * least[name]) if want.dtype.kind not in "iub" else 0.0
        assert found[name] <= tolerance, (name, found[name], least[name])


@zoo()
def test_work_is_on_the_core(case: str) -> None:
    shapes = {name: tuple(value.shape) for name, value in arrays(case, "inputs").items()}
    found = analyze(path_of(case), CompileOptions("trn1", input_shapes=shapes))
    assert found.flop_share >= LEAST_SHARE, [(op.node, op.op, op.reason) for op in found.host_operators]

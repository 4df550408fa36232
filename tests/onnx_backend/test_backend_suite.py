"""ONNX's backend test suite on our backend: a sample in every run, all of it under the mark `nightly`.

A case is expected to pass unless `excluded.txt` names it with a reason, and one that is named must not pass.
"""

import unittest
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lowering.onnx_backend import NeuronBackend, parameters
from neuron_dialects.errors import NeuronError
from tools.backend_suite import (
    CATEGORIES,
    PASSED,
    RANDOM,
    SKIPPED,
    Outcome,
    SuiteBackend,
    excluded,
    run_case,
    selected,
    share_rows,
    suite,
)

SAMPLE = 8
"""Every such case runs in each test run."""
PARTS = 16
"""The nightly run is cut into this many tests, so that several workers share it."""
LIGHT_MODELS = (
    *("test_bvlc_alexnet", "test_densenet121", "test_inception_v1", "test_inception_v2", "test_resnet50"),
    *("test_shufflenet", "test_squeezenet", "test_vgg19", "test_zfnet512"),
)
"""Named here because loading the suite takes seconds, and collecting tests should not."""
SMALL = tuple(category for category in CATEGORIES if category != "Real")


def complaint(outcome: Outcome, reasons: Mapping[tuple[str, str], str]) -> str | None:
    """What is wrong with an outcome, None if it is as expected."""
    reason = reasons.get((outcome.category, outcome.name))
    if outcome.result == PASSED:
        return None if reason is None else f"{outcome.name} passes: take it out of excluded.txt"
    return f"{outcome.name} {outcome.result}: {outcome.reason}" if reason is None else None


def complaints(cases: list[tuple[str, str]]) -> list[str]:
    reasons = excluded()
    run = [case for case in cases if not reasons.get(case, "").startswith(RANDOM)]
    found = [complaint(run_case(category, name), reasons) for category, name in run]
    return [text for text in found if text is not None]


# The sample is what every test run sees of the suite; the nightly run takes what it leaves.
@pytest.mark.parametrize("part", range(4))
def test_sample(part: int):
    assert complaints(selected(SMALL, 0, SAMPLE)[part::4]) == []


# The smallest of the light models stands for them.
def test_squeezenet():
    assert complaints([("Real", "test_squeezenet")]) == []


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(PARTS))
def test_every_case(part: int):
    sample = set(selected(SMALL, 0, SAMPLE))
    assert complaints([case for case in selected(SMALL, part, PARTS) if case not in sample]) == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", LIGHT_MODELS)
def test_light_model(name: str):
    assert complaints([("Real", name)]) == []


def test_every_light_model_is_named():
    assert tuple(suite()["Real"]) == LIGHT_MODELS


# A name in the list that the suite does not have would never be noticed otherwise.
def test_excluded_cases_exist_and_have_reasons():
    known = {(category, name) for category in CATEGORIES for name in suite()[category]}
    assert {case for case in excluded() if case not in known} == set()
    assert [case for case, reason in excluded().items() if not reason.strip()] == []


# The list is kept from both sides: a listed case that passes and an unlisted one that does not are both errors.
def test_complaints():
    passed = Outcome("test_a", "Node", PASSED, "", 0, "", False, "FLOAT")
    skipped = Outcome("test_b", "Node", SKIPPED, "NX-OP-002: no", 0, "", False, "FLOAT")
    assert complaint(passed, {}) is None
    assert complaint(skipped, {("Node", "test_b"): "no kernel"}) is None
    assert complaint(passed, {("Node", "test_a"): "no kernel"}) == "test_a passes: take it out of excluded.txt"
    assert complaint(skipped, {}) == "test_b skipped: NX-OP-002: no"


# Passing on the host counts as passing, but not as on the core.
def test_shares():
    outcomes = [
        Outcome("test_a", "Node", PASSED, "", 0, "", True, "FLOAT INT64"),
        Outcome("test_b", "Node", PASSED, "", 1, "X: no", False, "STRING"),
        Outcome("test_c", "Node", SKIPPED, "no", 0, "", False, "FLOAT"),
    ]
    assert share_rows(outcomes) == [
        ("Node", "3", "2", "1 (33.3%)", "1", "1", "0"),
        ("Node, types that a core holds", "2", "1", "1 (50.0%)", "1", "1", "0"),
    ]


def model_of(op_type: str, inputs: Mapping[str, tuple[int, Sequence[int | str]]]) -> ModelProto:
    node = helper.make_node(op_type, list(inputs), ["y"])
    values = [helper.make_tensor_value_info(name, type_, shape) for name, (type_, shape) in inputs.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", values, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# The shape is an input: the program is compiled for its value, and again when it changes.
def test_values_of_shapes_are_specialised():
    model = model_of("Reshape", {"x": (TensorProto.FLOAT, [2, 3]), "shape": (TensorProto.INT64, [2])})
    rep = NeuronBackend.prepare(model)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for shape in ([3, 2], [6, 1]):
        (y,) = rep.run([x, np.array(shape)])
        assert y.shape == tuple(shape) and y.ravel().tolist() == x.ravel().tolist()
        assert rep.compiled is not None and list(rep.compiled.specialised) == ["shape"]
        assert rep.compiled.host_segments == 0


# A model of nothing but small integers would become a constant: its first input stays one.
def test_not_every_input_is_specialised():
    model = model_of("Add", {"a": (TensorProto.INT64, [2]), "b": (TensorProto.INT64, [2])})
    assert parameters(model, {"a": np.zeros(2, np.int64), "b": np.zeros(2, np.int64)}) == ("b",)


# Inputs of another shape than before are compiled for; numpy scalars are arrays of no dimension.
def test_inputs_by_position_and_by_name():
    model = model_of("Add", {"a": (TensorProto.FLOAT, ["n"]), "b": (TensorProto.FLOAT, [])})
    rep = NeuronBackend.prepare(model)
    assert rep.run([np.ones(3, np.float32), np.float32(2)])[0].tolist() == [3, 3, 3]
    assert rep.run({"a": np.ones(2, np.float32), "b": np.float32(1)})[0].tolist() == [2, 2]


def test_other_devices_and_too_many_inputs_are_refused():
    assert NeuronBackend.supports_device("CPU") and not NeuronBackend.supports_device("CUDA")
    model = model_of("Neg", {"a": (TensorProto.FLOAT, [1])})
    with pytest.raises(NeuronError, match="the only device is CPU"):
        NeuronBackend.prepare(model, "CUDA")
    with pytest.raises(NeuronError, match="2 inputs are given, the model has 1"):
        NeuronBackend.run_model(model, [np.zeros(1, np.float32)] * 2)


# What the compiler refuses is a skipped case for the suite, never one that counts as passed.
def test_refusals_are_skips():
    model = model_of("Neg", {"a": (TensorProto.FLOAT, [1])})
    model.opset_import[0].version = onnx.defs.onnx_opset_version() + 1
    with pytest.raises(unittest.SkipTest, match="NX-ONNX-003"):
        SuiteBackend.prepare(model).run([np.zeros(1, np.float32)])


# A filter of one repeated number is a constant without a weight in the file; the convolution still wants a tensor.
def test_filter_of_one_number():
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["shape"], ["w"], value=numpy_helper.from_array(np.array([0.5], np.float32))
        ),
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 5, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 3, 3])
    shape = numpy_helper.from_array(np.array([2, 3, 3, 3]), "shape")
    graph = helper.make_graph(nodes, "g", [x], [y], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    image = np.arange(75, dtype=np.float32).reshape(1, 3, 5, 5) - 30
    windows = np.lib.stride_tricks.sliding_window_view(image[0], (3, 3), (1, 2))
    expected = np.maximum(0.5 * windows.sum((0, 3, 4)), 0)
    (result,) = NeuronBackend.run_model(model, [image])
    np.testing.assert_allclose(result[0], np.stack([expected] * 2), rtol=1e-6)

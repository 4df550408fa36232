"""How compile time grows with the number of equal layers: no pass may be quadratic in the number of operations."""

from __future__ import annotations

import time

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lowering.compiler import CompileOptions, compile_model
from runtime.reference import run_onnxruntime
from runtime.session import Session

FEATURES = 64
FEW, MANY = 8, 32
LIMIT = 6.5
"""Times as long as FEW layers that MANY may take: 4 where time follows the layers, 16 where it follows their square."""


def layers(count: int) -> ModelProto:
    """`count` times x + relu(norm(x) w + b) on [128, FEATURES], each with weights of its own."""
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Identity", ["x"], ["x0"])]
    weights: dict[str, np.ndarray] = {}
    for n in range(count):
        sizes = {"w": (FEATURES, FEATURES), "b": (FEATURES,), "s": (FEATURES,), "t": (FEATURES,)}
        weights |= {f"{k}{n}": rng.standard_normal(size).astype(np.float32) / 8 for k, size in sizes.items()}
        nodes += [
            helper.make_node("LayerNormalization", [f"x{n}", f"s{n}", f"t{n}"], [f"n{n}"]),
            helper.make_node("Gemm", [f"n{n}", f"w{n}", f"b{n}"], [f"g{n}"]),
            helper.make_node("Relu", [f"g{n}"], [f"r{n}"]),
            helper.make_node("Add", [f"x{n}", f"r{n}"], [f"x{n + 1}"]),
        ]
    shape = [128, FEATURES]
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"x{count}", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def seconds(count: int) -> float:
    """Processor seconds of compiling that many layers, each by itself."""
    model = layers(count)
    began = time.process_time()
    compile_model(model, CompileOptions("trn1", without=("graph-roll-layers",)))
    return time.process_time() - began


# 32 layers against 8: 4 times the work, at most. Other work on the machine makes single measurements longer: the least
# of up to three counts.
def test_time_follows_the_number_of_layers() -> None:
    seconds(1)
    few = min(seconds(FEW) for _ in range(2))
    many = seconds(MANY)
    for _ in range(2):
        if many < LIMIT * few:
            break
        few, many = min(few, seconds(FEW)), min(many, seconds(MANY))
    assert many < LIMIT * few, f"{MANY} layers take {many:.2f} s, {FEW} take {few:.2f} s"


# 32 layers are four times eight, 40 five times: the same code.
@pytest.mark.nightly
def test_equal_layers_are_compiled_once() -> None:
    model = layers(32)
    result = compile_model(model, CompileOptions("trn1", auto_cast="none"))
    more = compile_model(layers(40), CompileOptions("trn1", auto_cast="none"))
    assert result.report["instruction_bytes"] == more.report["instruction_bytes"]
    assert result.neff is not None
    inputs = {"x": np.random.default_rng(1).standard_normal((128, FEATURES), dtype=np.float32)}
    actual = Session(result.neff).run(inputs).outputs["x32"]
    np.testing.assert_allclose(actual, run_onnxruntime(model.SerializeToString(), inputs)["x32"], rtol=1e-3, atol=1e-3)

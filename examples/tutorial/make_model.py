"""`python -m examples.tutorial.make_model`: writes two_layers.onnx, the model that docs/tutorial.md follows.

y = fc2(relu(fc1(x))) for a batch of 8 rows: fc1 takes 64 features to 512, fc2 takes them to 10. The nodes are named as
an exporter would name them. Weights come from a fixed seed, scaled so that values keep their size from layer to layer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MODEL = Path(__file__).with_name("two_layers.onnx")
BATCH, FEATURES, HIDDEN, CLASSES = 8, 64, 512, 10


def two_layers(seed: int = 1) -> onnx.ModelProto:
    """The model with weights of this seed, all float32."""
    rng = np.random.default_rng(seed)
    initializers: list[onnx.TensorProto] = []
    for layer, rows, columns in (("fc1", HIDDEN, FEATURES), ("fc2", CLASSES, HIDDEN)):
        weight = rng.standard_normal((rows, columns)) / np.sqrt(columns)
        bias = rng.standard_normal(rows)
        initializers.append(numpy_helper.from_array(weight.astype(np.float32), f"{layer}.weight"))
        initializers.append(numpy_helper.from_array(bias.astype(np.float32), f"{layer}.bias"))
    nodes = [
        helper.make_node("Gemm", ["x", "fc1.weight", "fc1.bias"], ["hidden"], name="/fc1/Gemm", transB=1),
        helper.make_node("Relu", ["hidden"], ["active"], name="/relu/Relu"),
        helper.make_node("Gemm", ["active", "fc2.weight", "fc2.bias"], ["y"], name="/fc2/Gemm", transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, FEATURES])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [BATCH, CLASSES])
    graph = helper.make_graph(nodes, "two_layers", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tutorial")


def main() -> None:
    """Write the model beside this file."""
    onnx.checker.check_model(two_layers(), full_check=True)
    MODEL.write_bytes(two_layers().SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()

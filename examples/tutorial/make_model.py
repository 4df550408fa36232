"""`python -m examples.tutorial.make_model`: writes the model that docs/tutorial.md follows, and an input for it.

y = fc2(relu(fc1(x))) for a batch of 8 rows: fc1 takes 64 features to 512, fc2 takes them to 10. The nodes are named as
an exporter would name them. Weights and input come from a fixed seed, rounded to multiples of small powers of two, so
that every sum of the model is exact in float32: what the tutorial prints is the same on every computer, whatever the
order in which its libraries add.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MODEL = Path(__file__).with_name("two_layers.onnx")
INPUTS = Path(__file__).with_name("two_layers.inputs.npz")
BATCH, FEATURES, HIDDEN, CLASSES = 8, 64, 512, 10
SEED = 1

Array = NDArray[Any]


def values(seed: int = SEED) -> dict[str, Array]:
    """The weights by their names in the model, and the input `x`, all float32.

    Products of fc1 are multiples of 2^-15 and its sums stay below 8, products of fc2 are multiples of 2^-20 and its
    sums stay below 16: all fit the 24 bits of float32.
    """
    rng = np.random.default_rng(seed)

    def drawn(shape: tuple[int, ...], deviation: float, steps: int) -> Array:
        """Normal numbers of this deviation, rounded to multiples of 1 / steps."""
        return (np.round(rng.standard_normal(shape) * deviation * steps) / steps).astype(np.float32)

    return {
        "fc1.weight": drawn((HIDDEN, FEATURES), FEATURES**-0.5, 1 << 11),
        "fc1.bias": drawn((HIDDEN,), 1.0, 1 << 6),
        "fc2.weight": drawn((CLASSES, HIDDEN), HIDDEN**-0.5, 1 << 5),
        "fc2.bias": drawn((CLASSES,), 1.0, 1 << 6),
        "x": drawn((BATCH, FEATURES), 1.0, 1 << 4),
    }


def two_layers() -> onnx.ModelProto:
    """The model."""
    weights = [numpy_helper.from_array(value, name) for name, value in values().items() if name != "x"]
    nodes = [
        helper.make_node("Gemm", ["x", "fc1.weight", "fc1.bias"], ["hidden"], name="/fc1/Gemm", transB=1),
        helper.make_node("Relu", ["hidden"], ["active"], name="/relu/Relu"),
        helper.make_node("Gemm", ["active", "fc2.weight", "fc2.bias"], ["y"], name="/fc2/Gemm", transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, FEATURES])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [BATCH, CLASSES])
    graph = helper.make_graph(nodes, "two_layers", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tutorial")


def main() -> None:
    """Write model and input beside this file."""
    model = two_layers()
    onnx.checker.check_model(model, full_check=True)
    MODEL.write_bytes(model.SerializeToString(deterministic=True))
    np.savez(INPUTS, x=values()["x"])


if __name__ == "__main__":
    main()

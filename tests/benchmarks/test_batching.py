"""Batches of files of one sample: every sample gives what it gives alone, or the file is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.batching import Unbatched, compare_batch, samples, set_batch
from runtime.reference import run_onnxruntime

BATCH = 4
X = np.arange(1, 7, dtype=np.float32).reshape(1, 6)
RESHAPE = helper.make_node("Reshape", ["x", "shape"], ["r"])
SHAPE = np.array([1, 2, 3])
ROW = np.full((1, 1, 3), 7, np.float32)
# A shape whose -1 is 1, as exporters write it: where(shape == -1, 1, shape).
KEPT = [
    helper.make_node("ConstantOfShape", ["rank"], ["ones"], value=numpy_helper.from_array(np.array([1]))),
    helper.make_node("Mul", ["ones", "minus"], ["unknown"]),
    helper.make_node("Equal", ["wanted", "unknown"], ["is_kept"]),
    helper.make_node("Where", ["is_kept", "ones", "wanted"], ["full"]),
]
CASES: Mapping[str, tuple[list[onnx.NodeProto], Mapping[str, NDArray[np.generic]]]] = {
    # Rows of all samples together, as a layer of rows wants them, and apart again.
    "rows": (
        [
            helper.make_node("Reshape", ["x", "rows"], ["flat"]), helper.make_node("Relu", ["flat"], ["rectified"]),
            helper.make_node("Reshape", ["rectified", "shape"], ["y"]),
        ],
        {"rows": np.array([3, 2]), "shape": SHAPE},
    ),
    "reshape": ([helper.make_node("Reshape", ["x", "shape"], ["y"])], {"shape": SHAPE}),
    # The same constant is also added: there it stays what it is.
    "shared": (
        [
            RESHAPE, helper.make_node("Cast", ["shape"], ["s"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["r", "s"], ["y"]),
        ],
        {"shape": SHAPE},
    ),
    # A constant that is not of the sample keeps its leading 1.
    "weight": (
        [RESHAPE, helper.make_node("Reshape", ["w", "one"], ["s"]), helper.make_node("Add", ["r", "s"], ["y"])],
        {"shape": SHAPE, "w": np.arange(3, dtype=np.float32), "one": np.array([1, 1, 3])},
    ),
    "pieces": (
        [
            helper.make_node("Concat", ["one", "rows", "one"], ["s"], axis=0),
            helper.make_node("Reshape", ["x", "s"], ["y"]),
        ],
        {"one": np.array([1]), "rows": np.array([6])},
    ),
    "joined": ([RESHAPE, helper.make_node("Concat", ["r", "row"], ["y"], axis=1)], {"shape": SHAPE, "row": ROW}),
    "expanded": (
        [
            RESHAPE, *KEPT, helper.make_node("Expand", ["row", "full"], ["rows"]),
            helper.make_node("Concat", ["rows", "r"], ["y"], axis=1),
        ],
        {
            "shape": SHAPE, "row": ROW, "rank": np.array([3]), "minus": np.array(-1),
            "wanted": np.array([1, -1, -1]),
        },
    ),
    # Elements by their place in all samples together: sample * 6 + place.
    "flat": (
        [
            helper.make_node("Flatten", ["x"], ["f"], axis=0), helper.make_node("Reshape", ["f", "all"], ["flat"]),
            helper.make_node("Shape", ["x"], ["size"]), helper.make_node("Gather", ["size", "axis"], ["length"]),
            helper.make_node("Mul", ["sample", "length"], ["start"]),
            helper.make_node("Add", ["places", "start"], ["index"]),
            helper.make_node("Gather", ["flat", "index"], ["y"]),
        ],
        {
            "all": np.array([-1]), "axis": np.array([1]), "sample": np.zeros((1, 1, 1), np.int64),
            "places": np.array([[[5, 0, 3]]]),
        },
    ),
}  # fmt: skip
"""Situation -> nodes from x [1, 6] to y, and constants."""


def write(path: Path, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, NDArray[np.generic]]) -> Path:
    """The model of one sample; y's shape is left open."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


# Wherever the batch is written, every sample of the batched model gives what it gives alone, and samples differ.
@pytest.mark.parametrize("case", CASES)
def test_setting_the_batch(case: str, tmp_path: Path) -> None:
    one, many, x = write(tmp_path / "one.onnx", *CASES[case]), tmp_path / "many.onnx", samples(X, BATCH)
    set_batch(one, many, BATCH)
    compare_batch(one, many, {"x": x})
    y = run_onnxruntime(many, {"x": x})["y"]
    assert len(y) == BATCH
    assert not np.array_equal(y[0], y[1])
    for index in range(BATCH):
        np.testing.assert_array_equal(y[index : index + 1], run_onnxruntime(one, {"x": x[index : index + 1]})["y"])


# A batch that shapes contradict is refused when it is set.
def test_a_batch_that_does_not_fit(tmp_path: Path) -> None:
    nodes = [RESHAPE, helper.make_node("Add", ["r", "c"], ["y"])]
    one = write(tmp_path / "one.onnx", nodes, {"shape": SHAPE, "c": np.zeros((3, 1, 1), np.float32)})
    with pytest.raises(Unbatched, match="one has its batch written into it"):
        set_batch(one, tmp_path / "many.onnx", BATCH)


# Shapes that only a run computes may contradict the batch too.
def test_a_batch_that_does_not_run(tmp_path: Path) -> None:
    one = write(tmp_path / "one.onnx", [RESHAPE, helper.make_node("Relu", ["r"], ["y"])], {"shape": SHAPE})
    with pytest.raises(Unbatched, match="one has its batch written into it: onnxruntime cannot run"):
        compare_batch(one, one, {"x": np.zeros((BATCH, 2, 3), np.float32)})


# Shapes fit, values do not: every sample reads the first one's elements, or all samples are added.
@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        (
            [helper.make_node("Gather", ["x", "zero"], ["first"]), helper.make_node("Add", ["x", "first"], ["y"])],
            {"zero": np.array([0])},
            r"sample 3 of y differs by [0-9.]+ from",
        ),
        (
            [helper.make_node("ReduceSum", ["x", "zero"], ["y"])],
            {"zero": np.array([0])},
            r"y is \[1, 6\] for 4 times \[1, 6\]",
        ),
    ],
)
def test_samples_that_meet(
    nodes: list[onnx.NodeProto], constants: Mapping[str, NDArray[np.generic]], reason: str, tmp_path: Path
) -> None:
    one, many = write(tmp_path / "one.onnx", nodes, constants), tmp_path / "many.onnx"
    set_batch(one, many, BATCH)
    with pytest.raises(Unbatched, match=reason):
        compare_batch(one, many, {"x": samples(X, BATCH)})

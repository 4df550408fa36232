"""Converters of operators that move and resample elements, in the forms that opsets gave them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lowering.onnx_to_graph.interpolation import Axis, cubic_matrix, linear_matrix, nearest_positions
from tests.graph_level import Array
from tests.lowering.onnx_cases import (
    IMAGE,
    Case,
    X,
    case,
    check,
    floats,
    ints,
    listed,
    with_constants,
)

MOVEMENTS = [
    case("Identity", X),
    case("Dropout", X, opset=11),
    case("Dropout", X, opset=13),
    case("Dropout", X, opset=13, outputs=2),
    case("Transpose", X),
    case("Transpose", X, perm=[1, 2, 0]),
    with_constants(case("Reshape", X), at1=listed(0, -1, 2)),
    with_constants(case("Reshape", X), at1=listed(24)),
    with_constants(case("Reshape", floats(0, 3), allowzero=1), at1=listed(3, 0)),
    case("Flatten", X),
    case("Flatten", X, axis=0),
    case("Flatten", X, axis=-1),
    case("Flatten", X, axis=3),
    case("Squeeze", floats(1, 3, 1)),
    case("Squeeze", floats(1, 3, 1), opset=11, axes=[-1]),
    with_constants(case("Squeeze", floats(1, 3, 1)), at1=listed(0, 2)),
    case("Unsqueeze", X, opset=11, axes=[0, -1]),
    with_constants(case("Unsqueeze", X), at1=listed(-1, 0)),
    with_constants(case("Expand", floats(3, 1)), at1=listed(2, 1, 4)),
    with_constants(case("Expand", floats(3, 4)), at1=listed(1)),
    with_constants(case("Tile", X), at1=listed(1, 2, 3)),
    with_constants(case("Tile", X), at1=listed(1, 1, 1)),
    case("DepthToSpace", floats(1, 8, 2, 3), blocksize=2),
    case("DepthToSpace", floats(1, 8, 2, 3), blocksize=2, mode="CRD"),
    case("SpaceToDepth", floats(1, 2, 4, 6), blocksize=2),
    case("Concat", X, floats(2, 5, 4, seed=1), X, axis=1),
    case("Concat", X, axis=-1),
    case("Concat", floats(0, 3), floats(2, 3), axis=0),
    case("Split", floats(6, 4), opset=11, axis=0, outputs=3),
    case("Split", floats(6, 4), opset=11, axis=-1, split=[1, 3], outputs=2),
    with_constants(case("Split", floats(6, 4), opset=13, outputs=2), at1=listed(2, 4)),
    case("Split", floats(7, 4), opset=18, num_outputs=3, outputs=3),
    case("Slice", X, opset=9, starts=[1, 0], ends=[3, -1], axes=[1, 2]),
    case("Slice", X, opset=9, starts=[0, 1], ends=[9, 3]),
    with_constants(case("Slice", X), at1=listed(1), at2=listed(2**62), at3=listed(-1)),
    with_constants(case("Slice", X), at1=listed(-1, 3), at2=listed(-(2**62), 0), at3=listed(1, 2), at4=listed(-1, -2)),
    with_constants(case("Slice", X), at1=listed(2), at2=listed(1), at3=listed(0)),
    case("Pad", X, opset=10, pads=[0, 1, 2, 0, 0, 1], value=1.5),
    case("Pad", X, opset=10, pads=[0, 1, 2, 0, 0, 1], mode="reflect"),
    with_constants(case("Pad", X, opset=13), at1=listed(0, 1, 2, 0, 0, 1), at2=np.float32(-2)),
    # A value that is known only at run time.
    Case("Pad", [X, None, np.array(1.25, np.float32)], {1: listed(0, 1, 2, 0, 0, 1)}, {}, 13),
    Case("Pad", [ints(3, 4), None, np.array(2**24 + 1)], {1: listed(1, -1, 0, 2)}, {}, 13),
    with_constants(case("Pad", X, opset=13, mode="edge"), at1=listed(0, 1, 2, 0, 0, 1)),
    with_constants(case("Pad", X, opset=18), at1=listed(1, 2), at3=listed(-1)),
    with_constants(case("Pad", X, opset=13), at1=listed(0, -1, 2, 0, 0, -1)),
    with_constants(case("Pad", X, opset=19, mode="wrap"), at1=listed(0, 1, 2, 0, 0, 1)),
    with_constants(case("Pad", ints(3), opset=13), at1=listed(1, 0), at2=np.int64(7)),
    with_constants(case("Gather", X, axis=1), at1=listed(2, -1, 0)),
    with_constants(case("Gather", X, axis=1), at1=np.array(-1, np.int64)),
    with_constants(case("Gather", X, axis=-1), at1=np.array([[3]], np.int32)),
    case("Gather", X, ints(2, 2, low=-3, high=3), axis=1),
    with_constants(case("GatherND", X), at1=np.array([[0, 1], [1, -1]], np.int64)),
    with_constants(case("GatherND", X), at1=np.array([[[0, 1, 2]], [[1, -1, -4]]], np.int64)),
    case("Trilu", floats(2, 3, 4)),
    with_constants(case("Trilu", floats(3, 4), upper=0), at1=np.array(1, np.int64)),
]


@pytest.mark.parametrize("made", MOVEMENTS, ids=str)
def test_movement(made: Case) -> None:
    check(made)


# A single constant index is a slice, not a gather; an identity needs no operator at all.
def test_cheap_forms() -> None:
    assert check(with_constants(case("Gather", X, axis=1), at1=np.array(1, np.int64))) == [
        "graph.slice",
        "graph.reshape",
    ]
    assert check(with_constants(case("Slice", X), at1=listed(0), at2=listed(9), at3=listed(1))) == []
    assert check(with_constants(case("Expand", X), at1=listed(1))) == []
    assert check(case("Dropout", X)) == []


def resize(mode: str, coordinates: str, sizes: Array | None = None, scales: Array | None = None, **more: Any) -> Case:
    made = case("Resize", floats(1, 2, 5, 4), mode=mode, coordinate_transformation_mode=coordinates, **more)
    return with_constants(made, at3=sizes) if sizes is not None else with_constants(made, at2=np.asarray(scales))


TWICE = np.array([1, 1, 2, 2], np.float32)
ODD = listed(1, 2, 8, 3)
RESIZES = [
    *(resize("nearest", "asymmetric", sizes=ODD, nearest_mode=mode) for mode in ("floor", "ceil", "round_prefer_ceil")),
    *(resize("nearest", mode, sizes=ODD) for mode in ("half_pixel", "pytorch_half_pixel", "align_corners")),
    *(
        resize("linear", mode, sizes=ODD)
        for mode in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    ),
    *(resize("cubic", mode, scales=TWICE) for mode in ("half_pixel", "align_corners", "asymmetric")),
    resize("cubic", "half_pixel", sizes=ODD, cubic_coeff_a=-0.5, exclude_outside=1),
    resize("linear", "half_pixel", scales=np.array([1, 1, 0.6, 1.7], np.float32)),
    resize("nearest", "asymmetric", scales=TWICE, nearest_mode="floor"),
    with_constants(case("Resize", IMAGE, opset=10, mode="nearest"), at1=TWICE),
    with_constants(case("Resize", IMAGE, opset=10, mode="linear"), at1=TWICE),
    with_constants(case("Upsample", IMAGE, opset=9, mode="nearest"), at1=TWICE),
    with_constants(case("Upsample", IMAGE, opset=9, mode="linear"), at1=TWICE),
    case("Upsample", IMAGE, opset=7, mode="nearest", scales=[1.0, 1.0, 2.0, 3.0]),
    with_constants(case("Resize", floats(1, 2, 5), opset=13, mode="linear"), at2=np.array([1, 1, 2], np.float32)),
    with_constants(
        case("Resize", floats(1, 2, 3, 4, 5), opset=13, mode="linear"), at2=np.array([1, 1, 2, 2, 2], np.float32)
    ),
]


@pytest.mark.parametrize("made", RESIZES, ids=str)
def test_resize(made: Case) -> None:
    check(made)


# Twice as many elements, each repeated: no gather and no product.
def test_nearest_by_a_whole_factor_is_a_broadcast() -> None:
    made = resize("nearest", "asymmetric", scales=TWICE, nearest_mode="floor")
    assert check(made) == ["graph.reshape", "graph.broadcast", "graph.reshape"]


# Interpolation


# Twice the elements at half-pixel centres: (0 + 0.5) / 2 - 0.5 = -0.25, then 0.25, 0.75, 1.25.
def test_linear_interpolation_matrix() -> None:
    expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_allclose(linear_matrix(Axis(2, 4, 2.0), "half_pixel"), expected)


# Weights of every output element add up to one, and resizing to the same size changes nothing.
@pytest.mark.parametrize(
    "mode", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric"]
)
def test_interpolation_matrices(mode: str) -> None:
    for matrix in (linear_matrix, lambda axis, mode: cubic_matrix(axis, mode, -0.75, True)):
        np.testing.assert_allclose(matrix(Axis(5, 9, 9 / 5), mode).sum(1), 1, rtol=1e-6)
        np.testing.assert_allclose(matrix(Axis(4, 4, 1.0), mode), np.eye(4), atol=1e-7)


def test_nearest_positions() -> None:
    axis = Axis(2, 4, 2.0)
    assert nearest_positions(axis, "asymmetric", "floor").tolist() == [0, 0, 1, 1]
    assert nearest_positions(axis, "asymmetric", "ceil").tolist() == [0, 1, 1, 1]
    assert nearest_positions(axis, "half_pixel", "round_prefer_floor").tolist() == [0, 0, 1, 1]

"""Sampling between elements, resizes and Fourier transforms: as onnxruntime, in the graph and on the core."""

from __future__ import annotations

from itertools import product
from typing import Any, cast

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from lowering.onnx_to_graph import import_onnx
from lowering.onnx_to_graph.interpolation import Axis, antialiased_matrix, is_extrapolated, proportional
from lowering.onnx_to_graph.spectral import transform_matrix
from tests.graph_level import Array, assert_close
from tests.lowering.onnx_cases import (
    Case,
    case,
    check,
    floats,
    listed,
    model_and_feeds,
    with_constants,
)
from tests.onnx_models import core_results, onnxruntime_results, results_of

PADDINGS = ("zeros", "border", "reflection")


def grid(*shape: int) -> Array:
    """Coordinates in and around [-1, 1]."""
    return np.random.default_rng(3).uniform(-1.6, 1.6, shape).astype(np.float32)


IMAGE, PLACES = floats(2, 3, 5, 7), grid(2, 4, 3, 2)
VOLUME, SPACES = floats(2, 2, 3, 4, 5), grid(2, 2, 3, 2, 3)

GRIDS = [
    *(
        case("GridSample", IMAGE, PLACES, opset=20, mode=mode, padding_mode=padding, align_corners=aligned)
        for mode, padding, aligned in product(("linear", "nearest", "cubic"), PADDINGS, (0, 1))
    ),
    *(
        case("GridSample", VOLUME, SPACES, opset=20, mode=mode, padding_mode=padding, align_corners=aligned)
        for mode, padding, aligned in (("linear", "zeros", 0), ("linear", "reflection", 1), ("nearest", "border", 0))
    ),
    case("GridSample", IMAGE, PLACES, opset=16),
    case("GridSample", IMAGE, PLACES, opset=16, mode="bicubic", padding_mode="border"),
    # One element along a dimension: aligned corners coincide.
    case("GridSample", floats(1, 2, 1, 4), grid(1, 3, 3, 2), opset=20, padding_mode="border", align_corners=1),
]

BOXES = np.array([[0, 0, 6, 4], [1.5, 2.25, 9, 12], [5, 5, 5.2, 5.1], [-3, -2, 20, 20]], np.float32)
NUMBERS = np.array([0, 1, 1, 0], np.int64)
ROIS = [
    case(
        "RoiAlign", floats(2, 3, 9, 11), BOXES, NUMBERS, opset=16, output_height=3, output_width=2, sampling_ratio=2,
        **attributes,
    )
    for attributes in cast(
        list[dict[str, Any]],
        [{"mode": "avg"},
        {"mode": "avg", "coordinate_transformation_mode": "output_half_pixel", "spatial_scale": 0.5},
        {"mode": "max", "spatial_scale": 0.75}],
    )
]  # fmt: skip

AFFINE = [
    with_constants(case("AffineGrid", floats(2, rank, rank + 1), opset=20, align_corners=aligned), at1=listed(*size))
    for rank, size in ((2, (2, 3, 4, 5)), (3, (2, 1, 2, 3, 4)))
    for aligned in (0, 1)
]


def resized(x: Array, **attributes: Any) -> Case:
    sizes = attributes.pop("sizes", None)
    scales, roi = attributes.pop("scales", None), attributes.pop("roi", [])
    made = case("Resize", x, opset=19, **attributes)
    constants = {"at1": np.array(roi, np.float32)} if roi else {}
    if sizes is not None:
        return with_constants(made, **constants, at3=listed(*sizes))
    return with_constants(made, **constants, at2=np.array(scales, np.float32))


RESIZES = [
    *(
        resized(floats(1, 2, 7, 9), mode=mode, antialias=1, sizes=sizes)
        for mode in ("linear", "cubic")
        for sizes in ((1, 2, 4, 5), (1, 2, 3, 20))
    ),
    resized(floats(1, 2, 7, 9), mode="cubic", antialias=1, scales=(1, 1, 0.6, 0.55), exclude_outside=1),
    *(
        resized(floats(1, 2, 7, 9), mode="linear", keep_aspect_ratio_policy=policy, sizes=(4, 11), axes=[2, 3])
        for policy in ("not_larger", "not_smaller")
    ),
    *(
        resized(
            floats(1, 1, 6, 6),
            mode=mode,
            coordinate_transformation_mode="tf_crop_and_resize",
            extrapolation_value=10.0,
            roi=[0, 0, 0.4, 0.6, 1, 1, 1.2, 1.7],
            sizes=(1, 1, 3, 4),
        )
        for mode in ("linear", "nearest")
    ),
]

ONNXRUNTIME = [*GRIDS, *ROIS, *RESIZES]


@pytest.mark.parametrize("made", ONNXRUNTIME, ids=str)
def test_as_onnxruntime(made: Case) -> None:
    check(made)


DEFORMED = [
    case("DeformConv", floats(2, 4, 6, 5), floats(6, 2, 3, 2, seed=1), 0.7 * floats(2, 24, 3, 4, seed=2),
         floats(6, seed=3), floats(2, 12, 3, 4, seed=4), opset=19, group=2, offset_group=2, strides=[2, 1],
         pads=[1, 0, 0, 1], dilations=[1, 2]),
    case("DeformConv", floats(1, 1, 3, 3), floats(1, 1, 2, 2, seed=1), floats(1, 8, 2, 2, seed=2), opset=19),
]  # fmt: skip


def pairs(*shape: int) -> Array:
    return floats(*shape, seed=7)


DFTS = [
    case("DFT", pairs(2, 6, 5, 1), opset=17, axis=1),
    case("DFT", pairs(2, 6, 5, 2), opset=17, axis=2, inverse=1),
    case("DFT", pairs(2, 7, 1), opset=17, onesided=1),
    with_constants(case("DFT", pairs(2, 6, 1), opset=20, onesided=1), at1=np.array(9, np.int64)),
    with_constants(case("DFT", pairs(2, 6, 2), opset=20), at1=np.array(4, np.int64)),
    with_constants(case("DFT", pairs(3, 6, 4, 2), opset=20), at2=np.array(0, np.int64)),
    case("DFT", pairs(2, 5, 2), opset=20, inverse=1, onesided=1),
]
STFTS = [
    with_constants(
        case("STFT", pairs(2, 33, 1), opset=17), at1=np.array(5), at2=np.hanning(8).astype(np.float32), at3=np.array(8)
    ),
    with_constants(case("STFT", pairs(1, 32, 2), opset=17, onesided=0), at1=np.array(8), at3=np.array(16)),
    Case("STFT", [pairs(2, 20, 1), None, floats(7)], {1: np.array(3)}, {}, 17),
]

COLUMNS = [
    with_constants(
        case("Col2Im", floats(2, 12, 12 if len(image) == 2 else 8), **attributes),
        at1=listed(*image),
        at2=listed(*block),
    )
    for image, block, attributes in cast(
        list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]],
        [
            ((5, 6), (2, 3), {"strides": [1, 2], "dilations": [2, 1], "pads": [0, 1, 1, 0]}),
            ((3, 3, 3), (2, 2, 3), {"pads": [0, 0, 0, 0, 0, 1]}),
        ],
    )
]
NORMS = [
    case("LpPool", floats(1, 2, 7, 6), kernel_shape=[3, 2], p=order, strides=[2, 1], pads=[1, 0, 1, 1])
    for order in (1, 2, 3)
]
EVALUATED = [*COLUMNS, *NORMS, *AFFINE, *DEFORMED, *DFTS, *STFTS]


def evaluated(made: Case) -> tuple[Any, dict[str, Array], list[Array]]:
    """Model, inputs and what the reference evaluator computes: onnxruntime lacks these operators or is not exact."""
    model, feeds = model_and_feeds(made)
    return model, feeds, cast(list[Array], ReferenceEvaluator(model).run(None, feeds))


@pytest.mark.parametrize("made", EVALUATED, ids=str)
def test_as_the_reference(made: Case) -> None:
    model, feeds, (expected,) = evaluated(made)
    result = import_onnx(model)
    assert not result.info.onnx_nodes, result.info.onnx_nodes
    assert_close(results_of(result, feeds)[0], expected, 1e-5)


@pytest.mark.parametrize("made", [*GRIDS[::7], GRIDS[-1], *ROIS[1:], AFFINE[0], *RESIZES[4::3]], ids=str)
def test_on_the_core(made: Case) -> None:
    model, feeds = model_and_feeds(made)
    for have, want in zip(core_results(model, feeds), results_of(import_onnx(model), feeds), strict=True):
        assert_close(have, want, tolerance=1e-5)


@pytest.mark.parametrize("made", [DEFORMED[0], DFTS[1], DFTS[6], *STFTS, *COLUMNS, NORMS[2]], ids=str)
def test_transforms_on_the_core(made: Case) -> None:
    model, feeds, (expected,) = evaluated(made)
    assert_close(core_results(model, feeds)[0], expected, tolerance=1e-5)


# A coordinate that is no number reads an element that exists, or none; its neighbours do not notice.
@pytest.mark.parametrize("padding", PADDINGS)
def test_coordinates_that_are_no_numbers(padding: str) -> None:
    places = PLACES.copy()
    places[0, 1, 1], places[1, 0, 0] = np.nan, np.inf
    model, feeds = model_and_feeds(case("GridSample", IMAGE, places, opset=20, padding_mode=padding))
    plain, _ = model_and_feeds(case("GridSample", IMAGE, PLACES, opset=20, padding_mode=padding))
    expected = onnxruntime_results(plain, feeds | {"x1": PLACES})[0]
    kept = np.ones_like(expected, np.bool_)
    kept[0, :, 1, 1] = kept[1, :, 0, 0] = False
    assert_close(core_results(model, feeds)[0][kept], expected[kept], 1e-5)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (case("RoiAlign", floats(1, 1, 4, 4), BOXES, NUMBERS * 0, opset=16), "depends on the box"),
        (case("DFT", floats(1, 4096, 1), opset=17), "limit 16777216"),
        (case("GridSample", floats(1, 1, 4100, 4100), grid(1, 1, 1, 2), opset=20), "exceed the 16777216"),
    ],
    ids=["adaptive", "long", "large"],
)
def test_left_to_the_host(made: Case, why: str) -> None:
    (left,) = import_onnx(model_and_feeds(made)[0]).info.onnx_nodes
    assert left.op_type == made.op_type and why in left.reason


# Two of one dimension in three: the scale is 0.5 or 2/3, and 3 * 2/3 + 0.5 rounds to 2.
def test_proportional_sizes() -> None:
    assert proportional([4, 3], [2, 2], "not_larger") == (0.5, [2, 2])
    assert proportional([4, 3], [2, 2], "not_smaller") == (2 / 3, [3, 2])


# Halving averages four elements with weights 1 3 3 1 of a triangle that is two elements wide; rows sum to one.
def test_antialiased_rows() -> None:
    matrix = antialiased_matrix(Axis(8, 4, 0.5), "half_pixel", None, False)
    np.testing.assert_allclose(matrix[1, 1:5], np.array([1, 3, 3, 1]) / 8)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)


def test_extrapolated_positions() -> None:
    axis = Axis(5, 3, 0.6, (0.5, 1.5))
    assert is_extrapolated(axis, "tf_crop_and_resize").tolist() == [False, False, True]
    assert not is_extrapolated(axis, "half_pixel").any()


@pytest.mark.parametrize(("given", "length"), [(5, 5), (5, 8), (8, 6)])
def test_transform_matrix(given: int, length: int) -> None:
    x = np.random.default_rng(0).standard_normal(given)
    matrix = transform_matrix(given, 1, length, inverse=False, onesided=True)
    spectrum = np.tensordot(x, matrix[:, 0], 1)
    np.testing.assert_allclose(spectrum[:, 0] + 1j * spectrum[:, 1], np.fft.rfft(x, length), atol=1e-12)
    back = transform_matrix(len(spectrum), 2, length, inverse=True, onesided=True)
    signal = np.tensordot(spectrum, back, ((0, 1), (0, 1)))[:, 0] / length
    np.testing.assert_allclose(signal, np.fft.irfft(np.fft.rfft(x, length), length), atol=1e-12)


# What a file asks for is not computed when no machine would hold it.
def test_sizes_without_end() -> None:
    made = with_constants(case("AffineGrid", floats(1, 2, 3), opset=20), at1=listed(1, 1, 2**14, 2**14))
    (left,) = import_onnx(model_and_feeds(made)[0]).info.onnx_nodes
    assert left.reason == "805306368 elements to be computed at import, limit 67108864"

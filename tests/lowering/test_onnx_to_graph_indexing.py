"""Operators on positions and indices: what onnxruntime computes, in the graph and on the core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from lowering.compiler import CompileOptions, compile_model
from lowering.onnx_to_graph import import_onnx
from neuron_dialects.errors import NeuronError
from runtime.session import Session
from tests.graph_level import Array, assert_close
from tests.lowering.onnx_cases import (
    Case,
    case,
    check,
    floats,
    ints,
    listed,
    model_and_feeds,
    with_constants,
)
from tests.onnx_models import onnxruntime_results, results_of

X = floats(3, 4, 5)
TIES = np.array([[1, 3, 3, 0], [2, 2, -1, 2], [-np.inf, -np.inf, -np.inf, -np.inf]], np.float32)
SMALL = ints(3, 4, 5, dtype=np.int32, low=-3, high=3)

EXTREMES = [
    *(case(name, X, axis=axis) for name in ("ArgMax", "ArgMin") for axis in (0, 1, -1)),
    *(case(name, TIES, axis=1) for name in ("ArgMax", "ArgMin", "Hardmax")),
    *(case(name, TIES, axis=1, select_last_index=1) for name in ("ArgMax", "ArgMin")),
    case("ArgMax", SMALL, axis=1),
    case("ArgMin", ints(4, 7, dtype=np.uint8, low=0), axis=1, select_last_index=1, keepdims=0),
    case("ArgMax", X, axis=2, keepdims=0),
    case("ArgMax", X, opset=11),
    case("Hardmax", X),
    case("Hardmax", X, axis=1),
    case("Hardmax", X, axis=1, opset=11),
]

TOP_K = [
    with_constants(case("TopK", X, outputs=2), at1=listed(3)),
    with_constants(case("TopK", X, outputs=2, axis=1, largest=0), at1=listed(4)),
    with_constants(case("TopK", X, outputs=2, axis=0), at1=listed(1)),
    # Of equal elements the first comes first, even where nothing is worse.
    with_constants(case("TopK", TIES, outputs=2), at1=listed(4)),
    with_constants(case("TopK", TIES, outputs=2, largest=0), at1=listed(3)),
    with_constants(case("TopK", SMALL, outputs=2), at1=listed(5)),
    with_constants(case("TopK", ints(4, 9), outputs=2), at1=listed(8)),
]

ONE_HOT = [
    with_constants(case("OneHot", ints(3, 4, low=-6, high=8)), at1=np.array(6, np.int64), at2=floats(2)),
    with_constants(case("OneHot", ints(3, 4, low=0, high=5), axis=0), at1=listed(5), at2=listed(2, 7)),
    with_constants(case("OneHot", ints(3, 4, low=0, high=5), axis=1), at1=listed(5), at2=np.array([0, 1], np.float32)),
    with_constants(
        case("OneHot", ints(3, low=0, high=5).astype(np.float32)), at1=np.float32(5), at2=np.array([0, 1], np.float32)
    ),
    Case("OneHot", [ints(4, low=0, high=5), None, floats(2)], {1: np.array(5, np.int64)}),
]

EYES = [
    case("EyeLike", floats(3, 4)),
    case("EyeLike", ints(5, 3), k=-1),
    case("EyeLike", floats(3, 3), k=1, dtype=TensorProto.INT64),
]

SUMS = [
    with_constants(case("CumSum", data, exclusive=exclusive, reverse=reverse), at1=np.array(axis, np.int64))
    for data in (X, ints(3, 4, 5))
    for axis in (0, 1, -1)
    for exclusive, reverse in ((0, 0), (1, 0), (0, 1), (1, 1))
] + [
    with_constants(case("CumSum", ints(2, 37, dtype=np.int32)), at1=np.array(1, np.int32)),
    with_constants(case("CumSum", floats(2, 3000)), at1=listed(1)),
    # A list has only one axis, known or not.
    case("CumSum", floats(7), np.array(0, np.int64)),
]


def gathered(indices: Array, axis: int, *, known: bool) -> Case:
    if known:
        return with_constants(case("GatherElements", X, axis=axis), at1=indices)
    return case("GatherElements", X, indices, axis=axis)


PAIRS = np.array([[[0, 1], [2, 3]], [[1, 0], [-1, -2]]], np.int64)
GATHERED = [
    *(
        made
        for known in (False, True)
        for made in (
            gathered(ints(3, 2, 5, low=-4, high=4), 1, known=known),
            gathered(ints(2, 4, 4, low=0, high=3), 0, known=known),
            gathered(ints(3, 4, 7, low=-5, high=5, dtype=np.int32), -1, known=known),
        )
    ),
    case("GatherElements", ints(6), ints(4, low=0, high=6)),
    case("GatherND", X, PAIRS),
    with_constants(case("GatherND", X), at1=PAIRS),
    case("GatherND", X, ints(6, 3, low=0, high=3)),
    case("GatherND", X, ints(3, 2, low=0, high=4), batch_dims=1),
    case("GatherND", X, ints(3, 6, 1, low=-4, high=4), batch_dims=1),
    with_constants(case("GatherND", X, batch_dims=1), at1=ints(3, 6, 1, low=-4, high=4)),
    case("GatherND", X, ints(3, 4, 2, 1, low=0, high=5), batch_dims=2),
]

TRIANGLES = [
    case("Trilu", floats(2, 4, 5), np.array(offset, np.int64), upper=upper) for offset in (0, 2, -1) for upper in (0, 1)
]

COMPRESSED = [
    with_constants(case("Compress", X, axis=1), at1=np.array([True, False, True])),
    with_constants(case("Compress", X), at1=np.array([False, True, True, False, True])),
]

# Operators that other converters, or ONNX's function bodies, already bring to the graph.
COMPOSED = [
    case("Shrink", X, lambd=0.4, bias=0.2),
    case("MeanVarianceNormalization", floats(2, 3, 4, 5)),
    case("IsInf", np.array([0, np.inf, -np.inf, 3], np.float32)),
    case("LRN", floats(2, 6, 3, 3), size=3),
    case("ReduceLogSum", np.abs(X) + np.float32(0.5), axes=[1], opset=13),
]


@pytest.mark.parametrize(
    "made",
    [*EXTREMES, *TOP_K, *ONE_HOT, *EYES, *SUMS, *GATHERED, *TRIANGLES, *COMPRESSED, *COMPOSED],
    ids=str,
)
def test_as_onnxruntime(made: Case) -> None:
    check(made)


# A NaN spoils the comparison, but the position stays one that exists.
def test_position_of_nan_is_in_range() -> None:
    model, feeds = model_and_feeds(case("ArgMax", np.array([[1, np.nan, 3]], np.float32), axis=1))
    assert results_of(import_onnx(model), feeds)[0].item() in range(3)


# More than the core finds one after the other, a number of elements or an axis known only at run time: the host.
@pytest.mark.parametrize(
    "made",
    [
        with_constants(case("TopK", floats(2, 30), outputs=2), at1=listed(9)),
        case("TopK", X, listed(2), outputs=2),
        case("CumSum", X, np.array(1, np.int64)),
        case("OneHot", ints(3, low=0, high=4), np.array(4, np.int64), floats(2)),
        with_constants(case("TopK", ints(0, 5), outputs=2, axis=0), at1=listed(0)),
    ],
    ids=str,
)
def test_left_to_the_host(made: Case) -> None:
    model, _ = model_and_feeds(made)
    assert [node.op_type for node in import_onnx(model).info.onnx_nodes] == [made.op_type]


# A depth that is no number is an error of the model.
def test_depth_that_is_no_number() -> None:
    made = with_constants(case("OneHot", ints(3, low=0, high=4)), at1=np.float32(np.nan), at2=floats(2))
    with pytest.raises(NeuronError, match="input 1 is not one number"):
        import_onnx(model_and_feeds(made)[0])


# Constant indices that name no element are the model's mistake; the host's runtime is left to report it.
@pytest.mark.parametrize("op_type", ["GatherElements", "GatherND"])
def test_constant_index_out_of_range(op_type: str) -> None:
    indices = np.full((3, 4, 2), 5, np.int64)
    model, _ = model_and_feeds(with_constants(case(op_type, X), at1=indices))
    (left,) = import_onnx(model).info.onnx_nodes
    assert "an index is outside the dimensions" in left.reason


ON_CORE: list[Any] = [
    *(EXTREMES[i] for i in (1, 6, 9, 11, 14)),
    *(TOP_K[i] for i in (0, 3, 5, 6)),
    *(ONE_HOT[i] for i in (0, 1)),
    *(SUMS[i] for i in (4, 11, 13, 24)),
    *(GATHERED[i] for i in (0, 2, 5, 7, 8, 10, 11)),
    TRIANGLES[3],
    *COMPRESSED,
    *COMPOSED,
]


@pytest.mark.parametrize("made", ON_CORE, ids=str)
def test_on_the_core(made: Case, tmp_path: Path) -> None:
    model, feeds = model_and_feeds(made)
    onnx.save(model, tmp_path / "model.onnx")
    compiled = compile_model(tmp_path / "model.onnx", CompileOptions(target="trn1", auto_cast="none"))
    assert {row["where"] for row in compiled.report["partition"]} == {"core"}, compiled.report["partition"]
    assert compiled.neff is not None
    outputs = Session(compiled.neff).run(feeds).outputs
    for value, want in zip(model.graph.output, onnxruntime_results(model, feeds), strict=True):
        assert_close(outputs[value.name], want, tolerance=1e-5)

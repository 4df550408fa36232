"""Pooling, on numbers: kernels, strides, padding, dilation, partial windows, one to three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import SSAValue

from lowering.graph_to_tile.pool import Dimension, TapRun, output_tile
from lowering.graph_to_tile.windows import segments
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import BinaryKind, BinaryOp, PoolKind, PoolOp, TransposeOp, UnaryKind, UnaryOp
from tests.graph_level import run_node
from tests.lowering.graph_to_tile.core_kernel import (
    NODE,
    Make,
    assert_near,
    check,
    core_module,
    lowered,
    random,
    resident,
    run_core,
    tile_ops,
)

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
TARGETS = ("inf1", "trn1")


@dataclass(frozen=True)
class Window:
    """Attributes of a pool of an input of `shape`; no padding and no dilation unless given."""

    shape: Sequence[int]
    kernel: Sequence[int]
    strides: Sequence[int]
    pads: Sequence[int] = ()
    dilations: Sequence[int] = ()
    attributes: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        rank = len(self.kernel)
        object.__setattr__(
            self,
            "attributes",
            {
                "kernel": self.kernel,
                "strides": self.strides,
                "pads": self.pads or (0,) * (2 * rank),
                "dilations": self.dilations or (1,) * rank,
            },
        )


def pool(kind: PoolKind, window: Window, **flags: Any) -> Make:
    return lambda x: PoolOp(kind, x, **window.attributes, **flags)


WINDOWS = [
    Window((2, 3, 12, 12), (3, 3), (2, 2), (1, 1, 1, 1)),
    Window((1, 64, 112, 112), (3, 3), (2, 2), (1, 1, 1, 1)),
    Window((1, 130, 7, 7), (7, 7), (1, 1)),
    Window((2, 5, 13, 9), (2, 3), (2, 1), (0, 1, 1, 1), (2, 1)),
    Window((3, 40, 50), (4,), (3,), (1, 2), (2,)),
    Window((1, 200, 13, 13), (5, 5), (1, 1), (2, 2, 2, 2)),
    Window((1, 20, 13, 13), (13, 13), (1, 1), (6, 6, 6, 6)),
    Window((1, 3, 8, 30, 30), (2, 2, 2), (2, 2, 2), (0, 0, 0, 1, 1, 1)),
    Window((1, 4, 5, 7, 6), (3, 2, 3), (1, 2, 1), (1, 0, 1, 1, 1, 0)),
    Window((2, 6, 9000), (3,), (1,), (1, 1)),
    Window((1, 3, 300, 257), (2, 2), (2, 2)),
    Window((1, 4, 9, 9), (1, 1), (2, 2)),
    Window((1, 2, 20, 5000), (3, 3), (2, 2), (1, 1, 1, 1)),
    Window((1, 4, 6, 6), (4, 4), (5, 5), (3, 3, 3, 3)),
    Window((0, 4, 6, 6), (2, 2), (2, 2)),
]


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: "x".join(map(str, w.shape)))
def test_max(window: Window, ceil_mode: bool) -> None:
    for target in TARGETS:
        check(pool(PoolKind.MAX, window, ceil_mode=ceil_mode), random(window.shape), target=target)


@pytest.mark.parametrize("dtype", [BFLOAT16, np.int8, np.uint8])
def test_max_of_other_types(dtype: Any) -> None:
    for window in WINDOWS[:6]:
        check(pool(PoolKind.MAX, window), random(window.shape, dtype))


# Padding never wins, not even over -inf.
def test_padding_does_not_win_over_infinity() -> None:
    window = Window((1, 2, 6, 6), (3, 3), (1, 1), (1, 1, 1, 1))
    x = random(window.shape)
    x[0, 0] = -np.inf
    (result,) = check(pool(PoolKind.MAX, window), x)
    assert np.isneginf(result[0, 0]).all()


@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: "x".join(map(str, w.shape)))
def test_average(window: Window, ceil_mode: bool, count_include_pad: bool) -> None:
    make = pool(PoolKind.AVERAGE, window, ceil_mode=ceil_mode, count_include_pad=count_include_pad)
    for target in TARGETS:
        check(make, random(window.shape), target=target)
    check(make, random(window.shape, BFLOAT16))


# What onnxruntime says, at borders above all.
@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_average_as_onnxruntime_has_it(ceil_mode: bool, count_include_pad: bool) -> None:
    window = Window((2, 3, 14, 11), (3, 4), (2, 3), (1, 2, 1, 1))
    x = random(window.shape)
    attributes = {
        "kernel_shape": window.kernel,
        "strides": window.strides,
        "pads": window.pads,
        "ceil_mode": int(ceil_mode),
        "count_include_pad": int(count_include_pad),
    }
    want = run_node("AveragePool", [x], attributes, opset=22)
    make = pool(PoolKind.AVERAGE, window, ceil_mode=ceil_mode, count_include_pad=count_include_pad)
    assert_near(run_core(make, x)[0], want, 2e-6)


@pytest.mark.parametrize("kind", PoolKind)
@pytest.mark.parametrize("halo", [(), ((0, 0), (1, 1), (1, 2))])
def test_resident_operand_and_result(kind: PoolKind, halo: Sequence[tuple[int, int]]) -> None:
    def layer(x: SSAValue) -> Any:
        y = resident(UnaryOp(UnaryKind.TANH, x), 1)
        z = resident(PoolOp(kind, y, **window.attributes), 1, halo)
        return BinaryOp(BinaryKind.ADD, z, z)

    for window in (
        Window((2, 200, 9, 7), (3, 3), (2, 2), (1, 1, 1, 1)),
        Window((2, 140, 8, 6), (2, 2), (2, 2)),
        Window((1, 100, 9, 7), (2, 3), (1, 1)),
    ):
        for target in TARGETS:
            check(layer, random(window.shape), target=target, engines=True)


# Another dimension than the channels lies on the partitions: the operand must leave the chip, the result cannot stay.
def test_residents_with_other_partitions() -> None:
    window = Window((2, 20, 140, 9), (3, 3), (2, 2))

    def layer(x: SSAValue) -> Any:
        y = resident(UnaryOp(UnaryKind.TANH, x), 2)
        z = resident(PoolOp(PoolKind.MAX, y, **window.attributes), 2)
        return UnaryOp(UnaryKind.EXP, z)

    check(layer, random(window.shape))


def test_a_transposed_window() -> None:
    window = Window((2, 9, 8, 5), (2, 2), (2, 1))
    check(lambda x: PoolOp(PoolKind.AVERAGE, TransposeOp(x, (0, 3, 1, 2)), **window.attributes), random(window.shape))


# Tiles inside the image look alike and are one loop, whatever its height.
def test_code_does_not_grow_with_the_image() -> None:
    def size(height: int) -> int:
        window = Window((1, 64, height, 64), (3, 3), (2, 2), (1, 1, 1, 1))
        module, _ = core_module(pool(PoolKind.AVERAGE, window), [np.zeros(window.shape, np.float32)])
        return len(tile_ops(lowered(module)))

    assert size(8192) == size(1024)


def test_a_window_that_does_not_fit_is_an_error_with_the_figures() -> None:
    window = Window((1, 1, 300, 300), (290, 290), (1, 1))
    module, _ = core_module(pool(PoolKind.MAX, window), [np.zeros(window.shape, np.float32)])
    with pytest.raises(NeuronError) as caught:
        lowered(module)
    assert (caught.value.code, caught.value.node) == ("NX-OP-002", NODE)
    assert "84100 elements" in caught.value.message


# 60 output rows of 3 input rows each at stride 2 read 121 rows of 113: more than 3000 elements, so 12 rows are taken.
def test_tiles_of_output_rows_fit_their_input() -> None:
    rows = Dimension(inputs=120, outputs=60, kernel=3, stride=2, dilation=1, low=1, counted_low=0, counted_high=0)
    columns = Dimension(inputs=112, outputs=56, kernel=3, stride=2, dilation=1, low=1, counted_low=0, counted_high=0)
    tile = output_tile([rows, columns], 3000)
    assert tile == (12, 56)
    assert ((tile[0] - 1) * 2 + 3) * 113 <= 3000


# The window at the border has fewer elements; padding counts only where it is asked to.
def test_counts() -> None:
    bare = Dimension(inputs=5, outputs=5, kernel=3, stride=1, dilation=1, low=1, counted_low=0, counted_high=0)
    padded = Dimension(inputs=5, outputs=5, kernel=3, stride=1, dilation=1, low=1, counted_low=1, counted_high=1)
    assert [bare.count(o) for o in range(5)] == [2, 3, 3, 3, 2]
    assert [padded.count(o) for o in range(5)] == [3, 3, 3, 3, 3]


def test_windows_at_the_border_have_the_taps_that_lie_inside() -> None:
    rows = Dimension(inputs=6, outputs=4, kernel=3, stride=2, dilation=1, low=1, counted_low=0, counted_high=0)
    (segment,) = segments(rows.outputs, 4, rows.stride, rows.reach, rows.low, rows.inputs)
    # Windows -1..1, 1..3, 3..5 and 5..7 of positions 0..5.
    assert rows.tap_runs(segment) == [TapRun(0, 1, 1, 2), TapRun(1, 2, 0, 3), TapRun(3, 1, 0, 1)]

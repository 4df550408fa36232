"""Convolutions whose taps lie on partitions: plans against brute force, kernels against the graph level."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowering.graph_to_tile import conv_taps
from lowering.graph_to_tile.tap_plan import Filter, TapPlan, plan_taps, plans_with_columns
from neuron_dialects.target import load_target
from passes.graph.conv_groups import QUADRANT
from tests.core_kernels import lowered_error
from tests.lowering.graph_to_tile.test_conv import conv

STEM = Filter(3, 64, (7, 7), (2, 2), (1, 1))
filters = st.builds(
    Filter,
    st.integers(1, 6),
    st.just(8),
    st.tuples(st.integers(2, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
)


# Each tap of a filter is multiplied in one product and one place, and reads the input that the filter says: a lane of
# row r and column c holds, at position (y, x) of the tile, what lies r rows and c columns on from (y * stride, x).
@given(filters, st.data())
def test_products_cover_the_window(window: Filter, data: st.DataObject) -> None:
    plans = list(plans_with_columns(window))
    if not plans:
        return
    plan = data.draw(st.sampled_from(plans))
    assert plan.lanes <= 128 and plan.rows * window.channels <= plan.slot and plan.slot % QUADRANT == 0
    covered: list[tuple[int, int]] = []
    for row_on, column_on in plan.offsets:
        for row in range(plan.rows):
            for column in range(plan.columns):
                y, x = row_on * window.stride[0] + row * window.dilation[0], column_on + column * window.dilation[1]
                covered.append((y, x))
                assert y < plan.reach[0] and x < plan.reach[1]
    assert len(set(covered)) == len(covered)
    height, width = window.taps
    wanted = {(r * window.dilation[0], c * window.dilation[1]) for r in range(height) for c in range(width)}
    assert wanted <= set(covered)


# Columns that products of four outputs read are those that are copied.
@given(filters, st.data())
def test_all_that_is_read_is_copied(window: Filter, data: st.DataObject) -> None:
    plans = list(plans_with_columns(window))
    if not plans:
        return
    plan = data.draw(st.sampled_from(plans))
    read = {on + x * window.stride[1] for _, on in plan.offsets for x in range(4)}
    assert read <= set(range(0, plan.read_columns(4) * plan.read_step, plan.read_step))


# 7x7 with stride 2 on three channels: inf1 would load 3.5 times the image for all rows, trn1 has the bandwidth.
def test_columns_are_for_where_loads_limit() -> None:
    on_inf1 = plan_taps(STEM, "bf16", 4, load_target("inf1"))
    assert (on_inf1.rows, on_inf1.columns, on_inf1.lanes) == (4, 4, 3 * 32 + 12)
    assert plan_taps(STEM, "bf16", 4, load_target("trn1")) == TapPlan(STEM, 7, 1, 0)


KERNELS = {
    "stem": ((2, 3, 33, 36), (16, 3, 7, 7), conv([2, 2], [3] * 4, [1, 1])),
    "stride 3": ((1, 4, 20, 31), (8, 4, 5, 5), conv([3, 3], [2] * 4, [1, 1])),
    "dilated": ((1, 3, 21, 20), (8, 3, 3, 5), conv([1, 2], [2, 4, 2, 4], [2, 2])),
    "in groups": ((1, 6, 16, 18), (16, 3, 5, 5), conv([2, 2], [2] * 4, [1, 1], 2)),
    "uneven borders": ((1, 2, 19, 18), (8, 2, 4, 3), conv([1, 1], [0, 2, 3, 0], [1, 1])),
    "rows of several tiles": ((1, 3, 6, 1400), (8, 3, 5, 5), conv([2, 2], [2] * 4, [1, 1])),
}


# Whatever plan is taken, the numbers are those of the graph level.
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("which", [0, 1, -1])
def test_kernels_of_plans(name: str, which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[TapPlan] = []

    def choose(window: Filter, *_: object) -> TapPlan:
        plans = list(plans_with_columns(window))
        taken.append(plans[which * (len(plans) // 2)])
        return taken[-1]

    monkeypatch.setattr(conv_taps, "plan_taps", choose)
    inputs, filters, make = KERNELS[name]
    weights = {"w": (np.random.default_rng(3).standard_normal(filters) / 8).astype(ml_dtypes.bfloat16)}
    assert lowered_error("inf1", [("bf16", inputs)], weights, make) < 4e-3
    assert taken

"""Bands of rows: which rows they need, by enumerating windows; plans that fit and that are worth their halos."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.graph.row_bands import Chain, FeatureMap, Layer, Machine, Rows, RowWindow, Run, plan_bands, rows_of_bands

MACHINE = Machine(capacity=100_000, bytes_per_ns=272.0, start_ns=1000.0)
CONV, POOL, SAME, UP = RowWindow(1, 3, 1), RowWindow(2, 2, 0), RowWindow(), RowWindow(up=2)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 4), st.integers(5, 30), st.data())
def test_the_rows_of_a_window_are_those_that_it_reads(
    stride: int, reach: int, pad: int, size: int, data: st.DataObject
) -> None:
    window = RowWindow(stride, reach, min(pad, reach - 1))
    made = (size + 2 * window.pad - reach) // stride + 1
    first = data.draw(st.integers(0, made - 1))
    end = data.draw(st.integers(first + 1, made))
    read = {o * stride - window.pad + tap for o in range(first, end) for tap in range(reach)}
    inside = {row for row in read if 0 <= row < size}
    if inside:
        assert window.rows(Rows(first, end), size) == Rows(min(inside), max(inside) + 1)
        assert window.padding(Rows(first, end), size) == (max(0, -min(read)), max(0, max(read) + 1 - size))


def chain_of(*windows: RowWindow, rows: int = 64, channels: int = 128, engine_ns: float = 1e4) -> Chain:
    """Layers one behind the other, each reading map i and making map i + 1 of its rows."""
    maps = {0: FeatureMap(2, channels, rows, 64, 2)}
    layers: list[Layer] = []
    for i, window in enumerate(windows):
        rows = rows * window.up // window.stride
        maps[i + 1] = FeatureMap(2, channels, rows, 64, 2)
        layers.append(Layer((i + 1,), ((i, window),), {images: engine_ns for images in (1, 2, 4, 8)}))
    return Chain(layers, maps, frozenset({len(layers)}))


def test_halos_grow_towards_the_inputs_and_end_at_the_image() -> None:
    bands = rows_of_bands(chain_of(CONV, CONV, POOL), 0, 3, 2)
    assert bands == [
        {3: Rows(0, 16), 2: Rows(0, 32), 1: Rows(0, 33), 0: Rows(0, 34)},
        {3: Rows(16, 32), 2: Rows(32, 64), 1: Rows(31, 64), 0: Rows(30, 64)},
    ]


def test_rows_that_are_made_of_parts_of_rows() -> None:
    bands = rows_of_bands(chain_of(SAME, UP), 0, 2, 4)
    assert bands is not None
    assert [band[0] for band in bands] == [Rows(0, 16), Rows(16, 32), Rows(32, 48), Rows(48, 64)]
    # A convolution behind it wants one more row, which is half of one.
    assert rows_of_bands(chain_of(UP, CONV), 0, 2, 4) is None


def test_no_bands_where_rows_do_not_divide_or_a_halo_would_be_given_out() -> None:
    chain = chain_of(CONV, CONV, POOL)
    assert rows_of_bands(chain, 0, 3, 3) is None
    assert rows_of_bands(replace(chain, outside=frozenset({1, 3})), 0, 3, 2) is None
    # The result of the convolution in front of the pool has the rows of the bands.
    assert rows_of_bands(replace(chain, outside=frozenset({2, 3})), 0, 3, 2) is not None


def test_no_bands_that_would_be_made_of_padding_alone() -> None:
    assert rows_of_bands(chain_of(RowWindow(1, 3, 40)), 0, 1, 1) is not None
    assert rows_of_bands(chain_of(RowWindow(1, 3, 40)), 0, 1, 2) is None


def test_a_run_is_cut_as_far_as_it_must_be_to_fit() -> None:
    # A map takes 64 x 64 x 2 bytes x 2 images = 16384; two are live at the second convolution.
    chain = chain_of(CONV, CONV, POOL)
    assert plan_bands(chain, replace(MACHINE, capacity=40_000)) == []
    assert plan_bands(chain, replace(MACHINE, capacity=20_000)) == [Run(0, 3, 1, 1)]
    assert plan_bands(chain, replace(MACHINE, capacity=10_000)) == [Run(0, 3, 1, 2)]


@pytest.mark.parametrize("engine_ns", [1e2, 1e9])
def test_no_bands_where_nothing_fits_or_halos_cost_more_than_the_way_through_dram(engine_ns: float) -> None:
    chain = chain_of(CONV, CONV, CONV, CONV, engine_ns=engine_ns)
    capacity = 100 if engine_ns < 1e9 else 4_000
    assert plan_bands(chain, replace(MACHINE, capacity=capacity)) == []

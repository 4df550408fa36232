"""Views and tensor windows against numpy's strided arrays; sweeps and transfers against counts of elements."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from xdsl.dialects.builtin import IntegerAttr, i64
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region

from lowering.graph_to_tile.builder import KernelBuilder, buffer_type
from lowering.graph_to_tile.tensors import DramTensor, SbufTensor, reshape_strides, row_major, sweep, transfer
from lowering.graph_to_tile.view import Buffer, View
from neuron_dialects.access import Affine
from neuron_dialects.access_ops import AccessOp
from neuron_dialects.isa.limits import MAX_DMA_DIMS
from neuron_dialects.target import load_target
from runtime.program_interpreter import run_function
from tests.graph_level import no_weights

Array = Any


def positions(view: View, variables: dict[int, int] | None = None) -> Array:
    """Element numbers that a view lists, in order; on chip [partitions, elements] of (partition, element)."""
    pattern = view.pattern()
    sequence = np.array(pattern.offset.value(variables or {}))
    for stride, size in pattern.dims:
        sequence = sequence[..., None] + stride * np.arange(size)
    sequence = sequence.reshape(-1)
    if pattern.is_dram:
        return sequence
    lanes = pattern.partition.value(variables or {}) + np.arange(pattern.partitions)
    return np.stack(np.broadcast_arrays(lanes[:, None], sequence[None, :]), -1)


shapes = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@st.composite
def strided(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """A shape and strides: those of a dense tensor, some of them replaced, all of them permuted."""
    shape = draw(st.lists(st.integers(1, 6), max_size=5))
    dense = list(row_major(shape))
    strides = [draw(st.sampled_from([s, s, s, 2 * s, -s, 0])) for s in dense]
    order = draw(st.permutations(range(len(shape)))) if draw(st.booleans()) else range(len(shape))
    return [shape[d] for d in order], [strides[d] for d in order]


@st.composite
def factored(draw: st.DrawFn, total: int) -> list[int]:
    """A shape of `total` elements, with ones anywhere."""
    shape: list[int] = []
    while total > 1:
        factor = draw(st.sampled_from([f for f in range(2, total + 1) if total % f == 0]))
        shape.append(factor)
        total //= factor
    for _ in range(draw(st.integers(0, 2))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return shape


# A reshape without a copy exists exactly where numpy finds one, and has numpy's strides.
@settings(max_examples=400)
@given(strided(), st.data())
def test_reshape_strides(window: tuple[list[int], list[int]], data: st.DataObject):
    shape, strides = window
    new = data.draw(factored(int(np.prod(shape, dtype=int))))
    base = np.zeros(2 * 6**5, np.int8)
    array = as_strided(base[6**5 :], shape, strides)
    found = reshape_strides(shape, strides, new)
    try:
        reshaped = np.reshape(array, new, copy=False)
    except ValueError:
        assert found is None
        return
    assert found is not None
    assert [s for n, s in zip(new, found, strict=True) if n > 1] == [
        s for n, s in zip(new, reshaped.strides, strict=True) if n > 1
    ]


def test_reshape_strides_examples():
    assert reshape_strides((2, 3, 4), (12, 4, 1), (6, 4)) == (4, 1)
    assert reshape_strides((2, 3, 4), (12, 4, 1), (1, 24, 1)) == (0, 1, 0)
    assert reshape_strides((3, 2), (1, 3), (6,)) is None
    assert reshape_strides((), (), (1, 1)) == (0, 0)
    assert reshape_strides((4, 6), (0, 1), (2, 2, 6)) == (0, 0, 1)


@st.composite
def steps(draw: st.DrawFn, view: View, array: Array, lead: int) -> tuple[View, Array]:
    """A random numpy-like operation on a view and on an array whose first `lead` dimensions are the partition."""
    free = array.shape[lead:]
    kind = draw(st.sampled_from(["slice", "at", "permute", "insert", "broadcast", "split", "partition"]))
    d = draw(st.integers(0, len(free) - 1)) if free else 0
    if kind == "slice" and free:
        step = draw(st.sampled_from([1, 1, 2, -1]))
        size = draw(st.integers(1, (free[d] - 1) // abs(step) + 1))
        start = draw(st.integers(0, free[d] - 1 - (size - 1) * abs(step))) + ((size - 1) if step < 0 else 0)
        taken = np.take(array, start + step * np.arange(size), lead + d)
        return view.slice(lead + d, start, size, step), taken
    if kind == "at" and len(free) > 1:
        start = draw(st.integers(0, free[d] - 1))
        return view.at(lead + d, start), np.take(array, start, lead + d)
    if kind == "permute":
        order = draw(st.permutations(range(len(free))))
        return view.permute(order), array.transpose([*range(lead), *(lead + i for i in order)])
    if kind == "insert" and len(free) < 5:
        size = draw(st.integers(1, 3))
        return view.insert(d, size), np.repeat(np.expand_dims(array, lead + d), size, lead + d)
    if kind == "broadcast":
        sizes = [draw(st.integers(1, 3)) if size == 1 else size for size in free]
        return view.broadcast(sizes), np.broadcast_to(array, (*array.shape[:lead], *sizes))
    if kind == "split" and free and free[d] % 2 == 0:
        parts = (2, free[d] // 2)
        shape = (*array.shape[: lead + d], *parts, *array.shape[lead + d + 1 :])
        return view.split(d, parts), array.reshape(shape)
    if kind == "partition" and lead:
        size = draw(st.integers(1, array.shape[0]))
        start = draw(st.integers(0, array.shape[0] - size))
        return view.slice(0, start, size), array[start : start + size]
    return view, array


# Any chain of slices, splits, permutations and repetitions lists the elements that numpy lists; DRAM views.
@settings(max_examples=200)
@given(shapes, st.data())
def test_dram_views(shape: list[int], data: st.DataObject):
    view = Buffer(0, tuple(shape), "f32", "dram").view()
    array = np.arange(np.prod(shape)).reshape(shape)
    for _ in range(4):
        view, array = data.draw(steps(view, array, 0))
        assert view.shape == array.shape
        assert view.free_elements == array.size
        np.testing.assert_array_equal(positions(view), array.reshape(-1))


# The same on chip, where dimension 0 is the partition and the others lie in its row.
@settings(max_examples=200)
@given(st.integers(1, 8), shapes, st.data())
def test_on_chip_views(lanes: int, shape: list[int], data: st.DataObject):
    view = Buffer(0, (lanes, *shape), "f32", "sbuf").view()
    array = np.arange(lanes)[:, None] * 10_000 + np.arange(np.prod(shape))
    array = array.reshape(lanes, *shape)
    for _ in range(4):
        view, array = data.draw(steps(view, array, 1))
        assert view.shape == array.shape
        listed = positions(view)
        np.testing.assert_array_equal(listed[..., 0] * 10_000 + listed[..., 1], array.reshape(array.shape[0], -1))


# Starts that depend on loop variables move a view as their values do.
@given(st.integers(0, 3), st.integers(0, 2))
def test_affine_starts(i: int, j: int):
    view = Buffer(0, (12, 10, 7), "f32", "dram").view()
    moving = view.slice(0, Affine.variable(0, 3), 3).at(1, Affine.of(1, {1: 4}))
    fixed = view.slice(0, 3 * i, 3).at(1, 1 + 4 * j)
    np.testing.assert_array_equal(positions(moving, {0: i, 1: j}), positions(fixed))


def test_flat():
    view = Buffer(0, (128, 4, 6), "f32", "sbuf").view()
    assert view.flat().shape == (128, 24)
    with pytest.raises(ValueError, match="not one run"):
        view.slice(2, 0, 3).flat()


# A column is one element per partition, however often it is repeated.
def test_columns():
    view = Buffer(0, (128, 1), "f32", "sbuf").view()
    assert view.is_column
    assert view.broadcast([512]).is_column
    assert view.broadcast([512]).column.shape == (128, 1)
    assert not Buffer(0, (128, 2), "f32", "sbuf").view().is_column


# Windows on DRAM tensors


@st.composite
def tensor_windows(draw: st.DrawFn) -> tuple[DramTensor, Array]:
    """A window made by numpy's operations, and the element numbers that numpy finds in it."""
    shape = draw(shapes)
    tensor = DramTensor.dense(Buffer(0, tuple(shape), "f32", "dram"))
    array = np.arange(np.prod(shape)).reshape(shape)
    order = draw(st.permutations(range(len(shape))))
    tensor, array = tensor.transpose(order), array.transpose(order)
    cuts: list[tuple[int, int, int]] = []
    for size in array.shape:
        step = draw(st.sampled_from([1, 2, -1]))
        count = draw(st.integers(1, (size - 1) // abs(step) + 1))
        cuts.append(((count - 1) * -step if step < 0 else 0, count, step))
    tensor = tensor.slice(*zip(*cuts, strict=True))
    for axis, (start, count, step) in enumerate(cuts):
        array = np.take(array, start + step * np.arange(count), axis)
    wide = (2, *(3 if size == 1 else size for size in array.shape))
    return (tensor.broadcast(wide), np.broadcast_to(array, wide)) if draw(st.booleans()) else (tensor, array)


@given(tensor_windows())
def test_dram_windows(case: tuple[DramTensor, Array]):
    tensor, array = case
    assert tensor.shape == array.shape
    np.testing.assert_array_equal(positions(tensor.view()), array.reshape(-1))
    if tensor.is_dense:
        first = array.reshape(-1)[0]
        np.testing.assert_array_equal(array.reshape(-1), first + np.arange(array.size))
    order = list(reversed(range(len(array.shape))))
    np.testing.assert_array_equal(positions(tensor.view({}, order)), array.transpose(order).reshape(-1))
    ranges = {0: (array.shape[0] - 1, 1)}
    np.testing.assert_array_equal(positions(tensor.view(ranges)), array[-1:].reshape(-1))


# A resident tensor: tile t of dimension `partition` lies in column t of the buffer, other dimensions behind it.
def test_resident_views():
    shape = SbufTensor.buffer_shape((2, 300, 4, 5), 1)
    assert shape == (128, 3, 2, 4, 5)
    tensor = SbufTensor(Buffer(0, shape, "f32", "sbuf"), (2, 300, 4, 5), 1)
    assert tensor.tiles == 3
    view = tensor.view({1: (256, 44), 0: (1, 1), 3: (2, 3)})
    assert view.shape == (44, 1, 4, 3)
    row = np.arange(3 * 2 * 4 * 5).reshape(3, 2, 4, 5)
    np.testing.assert_array_equal(positions(view)[0, :, 1], row[2, 1:2, :, 2:5].reshape(-1))
    with pytest.raises(ValueError, match="100 is not a multiple of 128"):
        tensor.view({1: (100, 28)})


# A halo belongs to the buffer but not to the tensor, unless a convolution asks for it.
def test_resident_halo():
    halo = ((0, 0), (1, 2), (3, 0))
    shape = SbufTensor.buffer_shape((1, 64, 4, 5), 1, halo)
    assert shape == (64, 1, 1, 7, 8)
    tensor = SbufTensor(Buffer(0, shape, "f32", "sbuf"), (1, 64, 4, 5), 1, halo)
    row = np.arange(7 * 8).reshape(1, 7, 8)
    np.testing.assert_array_equal(positions(tensor.view({}))[0, :, 1], row[:, 1:5, 3:].reshape(-1))
    np.testing.assert_array_equal(positions(tensor.view({}, with_halo=True))[0, :, 1], row.reshape(-1))
    assert tensor.view({2: (0, 3)}, with_halo=True).shape == (64, 1, 3, 8)


# Sweeps


class LoopRecorder(KernelBuilder):
    """A builder that only counts: it gives out loop variables and remembers the trips of the open loops."""

    def __init__(self) -> None:
        super().__init__(Block(), load_target("trn1"))
        self.open: dict[int, int] = {}
        self.number = 0

    @contextmanager
    def loop(self, trips: int) -> Generator[Affine]:
        number, self.number = self.number, self.number + 1
        self.open[number] = trips
        yield Affine.variable(number)
        del self.open[number]


# Every element is in exactly one piece; a piece is within the limits; the partition's starts are multiples of 128.
@settings(max_examples=150)
@given(
    st.lists(st.sampled_from([1, 2, 3, 5, 30, 127, 128, 129, 300]), min_size=1, max_size=4).filter(
        lambda shape: np.prod(shape) <= 50_000
    ),
    st.data(),
)
def test_sweep_covers_everything_once(shape: list[int], data: st.DataObject):
    partition = data.draw(st.integers(0, len(shape) - 1))
    others = st.sampled_from([d for d in range(len(shape)) if d != partition]) if len(shape) > 1 else st.nothing()
    whole = data.draw(st.sets(others))
    least = int(np.prod([shape[d] for d in whole], dtype=int))
    limit = data.draw(st.integers(1, 2000))
    recorder, count = LoopRecorder(), np.zeros(shape, int)

    def body(ranges: dict[int, tuple[Affine, int]]) -> None:
        sizes = [ranges[d][1] if d in ranges else n for d, n in enumerate(shape)]
        assert sizes[partition] <= 128
        assert np.prod([n for d, n in enumerate(sizes) if d != partition]) <= max(limit, least)
        for numbers in product(*(range(trips) for trips in recorder.open.values())):
            variables = dict(zip(recorder.open, numbers, strict=True))
            starts = {d: start.value(variables) for d, (start, _) in ranges.items()}
            assert starts.get(partition, 0) % 128 == 0
            count[tuple(slice(starts.get(d, 0), starts.get(d, 0) + n) for d, n in enumerate(sizes))] += 1

    sweep(recorder, shape, partition, limit, body, tuple(whole))
    assert (count == 1).all()


# Transfers


def round_trip(shape: Sequence[int], order: Sequence[int], dtype: str = "f32") -> list[int]:
    """Load a permuted window, its first dimension on partitions, and store it densely; ranks of the DRAM sides."""
    wide = tuple(shape[d] for d in order)
    types = [buffer_type(tuple(shape), dtype, "dram"), buffer_type(wide, dtype, "dram")]
    block = Block(arg_types=types)
    b = KernelBuilder(block, load_target("trn1"))
    source, destination = (
        DramTensor.dense(b.adopt(value, s, dtype)) for value, s in zip(block.args, (tuple(shape), wide), strict=True)
    )
    tile = source.transpose(order).load(b, 0, {0: (0, wide[0])})
    transfer(b, b.store, destination.view(), tile)
    block.add_op(ReturnOp())
    function = FuncOp("f", (types, []), Region(block))
    function.attributes["neuron.input_count"] = IntegerAttr(1, i64)
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(run_function(function, [x], no_weights)[0], x.transpose(order))
    return [len(p.dims) for op in function.walk() if isinstance(op, AccessOp) for _, p in op.access.data if p.is_dram]


# Up to five dimensions are one DMA; more become loops around DMAs of five.
@pytest.mark.parametrize("rank", [2, 4, 5, 6, 7])
def test_transfer_rank(rank: int):
    shape = [3, 2, 4, 2, 3, 2, 2][:rank]
    ranks = round_trip(shape, list(reversed(range(rank))))
    assert len(ranks) == 2
    assert ranks[0] == min(rank, MAX_DMA_DIMS)
    assert ranks[1] == 1


# Repeated free dimensions are loaded once; a repeated partition dimension fills all of its partitions.
@pytest.mark.parametrize("partition", [0, 1, 2])
def test_load_of_repeated_dimensions(partition: int):
    types = [buffer_type((1, 5), "f32", "dram"), buffer_type((4, 3, 5), "f32", "dram")]
    block = Block(arg_types=types)
    b = KernelBuilder(block, load_target("trn1"))
    source = DramTensor.dense(b.adopt(block.args[0], (1, 5), "f32")).broadcast((4, 3, 5))
    destination = DramTensor.dense(b.adopt(block.args[1], (4, 3, 5), "f32"))
    ranges = {partition: (0, source.shape[partition])}
    loaded = source.load(b, partition, ranges)
    assert loaded.buffer.shape == (source.shape[partition], *(1 if d < 2 else 5 for d in range(3) if d != partition))
    copied, commit = destination.store(b, partition, ranges)
    b.copy(copied, loaded)
    commit()
    block.add_op(ReturnOp())
    function = FuncOp("f", (types, []), Region(block))
    function.attributes["neuron.input_count"] = IntegerAttr(1, i64)
    x = np.arange(5, dtype=np.float32).reshape(1, 5)
    np.testing.assert_array_equal(run_function(function, [x], no_weights)[0], np.broadcast_to(x, (4, 3, 5)))

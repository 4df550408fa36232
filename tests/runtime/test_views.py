import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_dialects.access import AccessPattern, Affine, parse_affine, parse_pattern
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from runtime.views import OperandView, Region, affine_function, view_shape, widened

ROWS, ROW_ELEMENTS = 8, 64


@st.composite
def patterns(draw: st.DrawFn, rows: int) -> AccessPattern:
    """A pattern over variable 0 that stays inside ROWS x ROW_ELEMENTS (or ROWS * ROW_ELEMENTS in DRAM) for values 0 to
    3.
    """
    room = ROW_ELEMENTS if rows else ROWS * ROW_ELEMENTS
    coefficient = draw(st.integers(0, 5))
    dims: list[tuple[int, int]] = []
    low = high = 0
    for _ in range(draw(st.integers(1, 3))):
        size, stride = draw(st.integers(1, 4)), draw(st.integers(-4, 7))
        reach = stride * (size - 1)
        low, high = low + min(0, reach), high + max(0, reach)
        dims.append((stride, size))
    least, most = -low, room - 1 - high - 3 * coefficient
    offset = Affine.of(draw(st.integers(least, most)), {0: coefficient})
    partitions = draw(st.integers(1, rows)) if rows else 0
    partition = Affine(draw(st.integers(0, rows - partitions)) if rows else 0)
    return AccessPattern(partition, partitions, offset, tuple(dims))


def elements(memory: np.ndarray, pattern: AccessPattern, variables: dict[int, int]) -> np.ndarray:
    """What a pattern addresses, one element after the other. `memory`: [rows, row elements], or one row for DRAM."""
    first, offset = pattern.partition.value(variables), pattern.offset.value(variables)
    result = np.empty((max(1, pattern.partitions), *(n for _, n in pattern.dims)), memory.dtype)
    for position in np.ndindex(*result.shape):
        element = offset + sum(i * stride for i, (stride, _) in zip(position[1:], pattern.dims, strict=True))
        result[position] = memory[first + position[0], element]
    return result if pattern.partitions else result[0]


# Views are what indexing element by element gives, for every value of the loop variable, on chip and in DRAM.
@given(data=st.data(), dtype=st.sampled_from(["f32", "bf16", "i8"]), rows=st.sampled_from([0, ROWS]))
def test_views_are_indexing(data: st.DataObject, dtype: str, rows: int):
    pattern = data.draw(patterns(rows))
    values = np.arange(ROWS * ROW_ELEMENTS).astype(dtype_by_name(dtype).numpy)
    flat = values.view(np.uint8)
    row_bytes = flat.size // ROWS if rows else flat.size
    region = Region(flat, 0, rows, row_bytes, row_bytes if rows else 0)
    view = OperandView(region, pattern, dtype, "operand")
    table = values.reshape(ROWS, -1) if rows else values.reshape(1, -1)
    for variable in (0, 3, 1, 3):
        expected = elements(table, pattern, {0: variable})
        got = view([variable])
        assert got.shape == view_shape(pattern)
        assert np.array_equal(got, expected)


# Writing through a view writes the memory: nothing is copied.
def test_views_share_memory():
    array = np.zeros((4, 6), np.float32)
    OperandView(Region.of_array(array), parse_pattern("[1 + 6*$0 : 2 step 2, 2]"), "f32", "x")([2])[...] = 7
    assert array[2].tolist() == [0, 7, 7, 7, 7, 0]


# A buffer inside a larger memory: the pattern is relative to the buffer, the neighbours stay untouched.
def test_view_of_a_placed_buffer():
    memory = np.zeros(4 * 16, np.uint8)
    region = Region(memory, 1 * 16 + 4, 2, 8, 16)
    OperandView(region, parse_pattern("[1:1][0 : 2]"), "f32", "x")([])[...] = 1.5
    assert np.flatnonzero(memory.reshape(4, 16).any(axis=1)).tolist() == [2]
    assert memory.reshape(4, 16)[2, 4:12].view(np.float32).tolist() == [1.5, 1.5]


# One element beyond the row, one partition beyond the buffer, before the start: each is named with figure and limit.
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("[0:2][1 : 4]", "touches bytes 4 to 19 of a partition's row, which has 16"),
        ("[1:2][0 : 4]", "touches partitions 1 to 2, there are 2"),
        ("[0:2][$0 : 4 step -1]", "touches bytes -4 to 11 of a partition's row, which has 16"),
    ],
)
def test_out_of_bounds(pattern: str, message: str):
    view = OperandView(Region.on_chip(2, 16, "buffer a"), parse_pattern(pattern), "f32", "copy: operand dst", "Relu_1")
    with pytest.raises(NeuronError) as caught:
        view([2])
    assert caught.value.code == "NX-RUN-001"
    assert caught.value.message == f"copy: operand dst {message} (buffer a)"
    assert caught.value.node == "Relu_1"


# A partition that depends on a loop: views at the same offset are told apart.
def test_partition_in_a_loop():
    array = np.arange(12, dtype=np.float32)
    view = OperandView(Region(array.view(np.uint8), 0, 3, 16, 16), parse_pattern("[$0:1][0 : 4]"), "f32", "x")
    assert [view([i])[0, 0] for i in (2, 0, 2)] == [8, 0, 8]


@given(st.integers(-9, 9), st.dictionaries(st.integers(0, 3), st.integers(-9, 9)), st.lists(st.integers(), min_size=4))
def test_affine_functions(constant: int, terms: dict[int, int], values: list[int]):
    expression = Affine.of(constant, terms)
    assert affine_function(expression)(values) == expression.value(dict(enumerate(values)))


def test_affine_function_of_text():
    assert affine_function(parse_affine("3 + 2*$1"))([0, 5]) == 13


# The table of a gather is all its rows; one without rows cannot be addressed.
def test_widened_table():
    row = parse_pattern("[4 : 16]")
    assert str(widened("dma_gather", "table", row, {"rows": 10, "row_stride": 32})) == "[4 : 10 step 32, 16]"
    assert widened("dma_gather", "dst", row, {}) is row
    with pytest.raises(NeuronError, match="the table has 0 rows"):
        widened("dma_scatter", "table", row, {})


def test_poison():
    region = Region.on_chip(4, 8)
    region.memory[...] = 0
    Region(region.memory, 8 + 2, 2, 4, 8).poison()
    assert region.memory.reshape(4, 8).sum(axis=1).tolist() == [0, 4 * 255, 4 * 255, 0]
    assert np.isnan(region.memory.reshape(4, 8)[1, 2:6].copy().view(np.float32)).all()

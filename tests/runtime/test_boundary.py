"""The caller's arrays at the boundary: what is converted, what is refused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from runtime.boundary import bind_inputs, converted

SPECS = {"ids": ((2, 3), "i64"), "x": ((4,), "f32")}
GOOD = {"ids": np.zeros((2, 3), np.int64), "x": np.zeros(4, np.float32)}


def test_inputs_come_out_in_the_models_order_and_types() -> None:
    given_arrays = {"x": np.arange(4, dtype=np.float64), "ids": np.ones((2, 3), np.int8)}
    bound = bind_inputs(SPECS, given_arrays)
    assert list(bound) == ["ids", "x"]
    assert [a.dtype for a in bound.values()] == [np.int64, np.float32]
    np.testing.assert_array_equal(bound["x"], [0, 1, 2, 3])


# Columns of a larger array, or big-endian numbers, are as good as any.
def test_inputs_become_contiguous_and_native() -> None:
    wide = np.arange(8, dtype=np.float32).reshape(4, 2)
    column = bind_inputs(SPECS, {**GOOD, "x": wide[:, 1]})["x"]
    assert column.flags.c_contiguous
    np.testing.assert_array_equal(column, [1, 3, 5, 7])
    swapped = bind_inputs(SPECS, {**GOOD, "x": np.arange(4).astype(">f4")})["x"]
    assert swapped.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(swapped, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("inputs", "code", "message", "help_"),
    [
        ({"ids": GOOD["ids"]}, "NX-RUN-011", "input 'x' is missing", "give an array of shape [4]"),
        ({**GOOD, "y": GOOD["x"]}, "NX-RUN-011", "the model has no input 'y'", "inputs: ids, x"),
        (
            {**GOOD, "x": np.zeros((1, 4), np.float32)},
            "NX-RUN-012",
            "input 'x' has shape [1, 4], the model was compiled for [4]",
            "recompile with --input-shape",
        ),
        ({**GOOD, "x": np.zeros((), np.float32)}, "NX-RUN-012", "input 'x' has shape []", "recompile"),
        ({**GOOD, "x": np.array(["a"] * 4)}, "NX-RUN-005", "'x' is given as <U1, the model takes f32", ""),
        ({**GOOD, "x": np.zeros(4, np.complex64)}, "NX-RUN-005", "'x' is given as complex64", ""),
        ({**GOOD, "x": np.zeros(4, "V4")}, "NX-RUN-005", "'x' is given as |V4", ""),
        (
            {**GOOD, "ids": np.zeros((2, 3), np.float32)},
            "NX-RUN-005",
            "'ids' is given as float32, the model takes i64",
            "",
        ),
        ({**GOOD, "ids": np.full((2, 3), 2**63, np.uint64)}, "NX-RUN-010", "'ids' holds 9223372036854775808", ".."),
    ],
)
def test_what_does_not_fit_is_refused(inputs: dict[str, np.ndarray], code: str, message: str, help_: str) -> None:
    with pytest.raises(NeuronError) as caught:
        bind_inputs(SPECS, inputs)
    assert caught.value.code == code
    assert message in caught.value.message
    assert help_ in (caught.value.help or "")


INTEGERS = ("i8", "ui8", "i16", "ui16", "i32", "ui32", "i64", "ui64")


# A conversion keeps every number, or is refused because of one that the type lacks.
@given(st.sampled_from(INTEGERS), st.sampled_from((*INTEGERS, "i1")), st.data())
def test_integers_are_kept_or_refused(source: str, wanted: str, data: st.DataObject) -> None:
    limits = np.iinfo(dtype_by_name(source).numpy)
    edges = [v for v in (0, 1, 2, 127, 128, 255, 256, 2**31 - 1, 2**31, 2**63 - 1) if v <= limits.max]
    number = st.sampled_from([*edges, *(-v for v in edges if -v >= limits.min), limits.min, limits.max])
    values = np.array(data.draw(st.lists(number, max_size=4)), dtype_by_name(source).numpy)
    exact = [int(v) for v in values]
    fits = all(int(np.array(v).astype(dtype_by_name(wanted).numpy)) == v for v in exact)
    if wanted == "i1":
        fits = set(exact) <= {0, 1}
    if fits:
        assert [int(v) for v in converted(values, "x", dtype_by_name(wanted))] == exact
    else:
        with pytest.raises(NeuronError) as caught:
            converted(values, "x", dtype_by_name(wanted))
        assert caught.value.code == "NX-RUN-010"


# int64 becomes int32 only where it fits; the message names the value and the range.
def test_narrowing_names_the_value() -> None:
    with pytest.raises(NeuronError) as caught:
        converted(np.array([5, -(2**31) - 1, 2**40]), "ids", dtype_by_name("i32"))
    assert caught.value.format() == (
        "error[NX-RUN-010]: 'ids' holds -2147483649, which does not fit i32\n"
        "  help: values must lie in -2147483648 .. 2147483647"
    )


# Floats are rounded to the nearest, and to infinity beyond the largest.
def test_floats_are_rounded() -> None:
    values = np.array([1.0, 1.0 + 2.0**-9, 1e300, -np.inf, np.nan])
    rounded = converted(values, "x", dtype_by_name("bf16"))
    assert rounded.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(rounded.astype(np.float64), [1.0, 1.0, np.inf, -np.inf, np.nan])
    back = converted(rounded, "x", dtype_by_name("f32"))
    np.testing.assert_array_equal(back, np.array([1.0, 1.0, np.inf, -np.inf, np.nan], np.float32))


def test_scalars_and_empty_arrays_keep_their_shape() -> None:
    assert converted(np.array(3), "x", dtype_by_name("f32")).shape == ()
    assert converted(np.empty((0, 4), np.int64), "x", dtype_by_name("i32")).shape == (0, 4)


# A run that only simulates time needs no values: they are checked all the same.
def test_inputs_that_are_only_checked() -> None:
    specs = {"x": ((2,), "bf16"), "n": ((1,), "i32")}
    given = {"x": np.ones(2, np.float32), "n": np.array([7], np.int64)}
    bound = bind_inputs(specs, given, convert=False)
    assert all(bound[name] is given[name] for name in specs)
    with pytest.raises(NeuronError, match="NX-RUN-010"):
        bind_inputs(specs, {**given, "n": np.array([2**40], np.int64)}, convert=False)

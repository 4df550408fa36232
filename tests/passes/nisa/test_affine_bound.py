"""Affine bounds: never below the needs, never above the ceiling, and exact where the needs are affine."""

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from passes.nisa.affine_bound import affine_upper_bound


def evaluated(bound: tuple[int, tuple[int, ...]], shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    constant, slopes = bound
    total = np.full(shape, constant, dtype=np.int64)
    for slope, index in zip(slopes, np.indices(shape), strict=True):
        total += slope * index
    return total


# Any needs: the bound reaches them where they are defined and stays below the ceiling everywhere.
@given(st.data())
def test_bounds(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    size = int(np.prod(shape))
    needs = np.array(data.draw(st.lists(st.integers(0, 20), min_size=size, max_size=size))).reshape(shape)
    defined = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size))).reshape(shape)
    defined.flat[data.draw(st.integers(0, size - 1))] = True
    ceiling = int(needs[defined].max()) + data.draw(st.integers(0, 3))
    slopes = data.draw(st.lists(st.integers(0, 3), min_size=len(shape), max_size=len(shape)))
    found = evaluated(affine_upper_bound(needs, defined, ceiling, slopes), shape)
    assert (found >= needs)[defined].all()
    assert (found <= evaluated((ceiling, tuple(slopes)), shape)).all()


# Needs 3 + 2i + 5j: found exactly.
def test_affine_needs_are_met_exactly() -> None:
    needs = evaluated((3, (2, 5)), (4, 3))
    assert affine_upper_bound(needs, np.ones((4, 3), dtype=bool), 100, (0, 0)) == (3, (2, 5))


# Needs 1, 2, 3, 3 (a window clipped at the end): slope 1 asks for 4 at the end, which the ceiling must allow.
def test_a_clipped_window() -> None:
    needs, defined = np.array([1, 2, 3, 3]), np.ones(4, dtype=bool)
    assert affine_upper_bound(needs, defined, 3, (1,)) == (1, (1,))
    assert affine_upper_bound(needs, defined, 3, (0,)) == (3, (0,))

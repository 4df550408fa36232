"""Where one dimension of a model is found in a tensor, and where it moves: plain arithmetic on shapes.

A tensor has the dimension of `size` elements along an axis whose positions are (outer, position, inner), the last
fastest: `inner` elements per position, and as many outer ones as fill the axis. The functions here say where an
operation leaves it, and raise `Mixes` where positions are no longer apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod


class Mixes(Exception):
    """What an operation gives for one position depends on others, or it is not known to depend on one only."""


@dataclass(frozen=True)
class Tracked:
    """The dimension lies along `axis`, with `inner` elements for each position."""

    axis: int
    inner: int = 1

    def along(self, axis: int) -> Tracked:
        """The same on another axis."""
        return Tracked(axis, self.inner)


def reshaped(tracked: Tracked, shape: Sequence[int], result: Sequence[int], size: int) -> Tracked:
    """After a reshape, which keeps the row-major order of elements."""
    stride = tracked.inner * prod(shape[tracked.axis + 1 :])
    behind = 1
    for axis in range(len(result) - 1, -1, -1):
        if stride < behind * result[axis]:
            if stride % behind or result[axis] * behind % (stride * size):
                break
            return Tracked(axis, stride // behind)
        behind *= result[axis]
    raise Mixes("the reshape splits the dimension or merges it with others")


def transposed(tracked: Tracked, permutation: Sequence[int]) -> Tracked:
    """After a transpose."""
    return tracked.along(list(permutation).index(tracked.axis))


def broadcast(tracked: Tracked, rank: int, result_rank: int) -> Tracked:
    """After broadcasting, which aligns the last axes."""
    return tracked.along(tracked.axis + result_rank - rank)


def reduced(tracked: Tracked, axes: Sequence[int], keep_dims: bool) -> Tracked:
    """After a reduction over `axes`."""
    if tracked.axis in axes:
        raise Mixes("it reduces over the dimension")
    return tracked if keep_dims else tracked.along(tracked.axis - sum(axis < tracked.axis for axis in axes))


def kept(tracked: Tracked, forbidden: Sequence[int], what: str) -> Tracked:
    """After an operation that keeps all axes apart but those that are `forbidden`; `what` says what it does there."""
    if tracked.axis in forbidden:
        raise Mixes(f"it {what} the dimension")
    return tracked


def multiplied(tracked: Tracked, rank: int, result_rank: int, *, left: bool, transposed: bool) -> Tracked:
    """After a matrix product, for its left or right operand; `transposed`: the operand's last two axes are swapped."""
    if tracked.axis < rank - 2:
        return broadcast(tracked, rank, result_rank)
    free = rank - 2 if left != transposed else rank - 1
    if tracked.axis != free:
        raise Mixes("it sums products along the dimension")
    return tracked.along(result_rank - 2 if left else result_rank - 1)


def gathered(data: Tracked | None, indices: Tracked | None, axis: int, index_rank: int) -> Tracked:
    """After a gather along `axis`, of which at least one operand has the dimension."""
    if data is None:
        assert indices is not None, "one operand has the dimension"
        return indices.along(axis + indices.axis)
    if indices is not None or data.axis == axis:
        raise Mixes("it picks elements across the dimension")
    return data if data.axis < axis else data.along(data.axis + index_rank - 1)


def scattered(data: Tracked | None, updates: Tracked | None, axis: int, index_rank: int) -> Tracked:
    """After a scatter along `axis` with indices that do not depend on the dimension."""
    if data is None or updates is None or data.axis == axis or axis <= updates.axis < axis + index_rank:
        raise Mixes("it writes elements across the dimension")
    return agreed([data, updates if updates.axis < axis else updates.along(updates.axis - index_rank + 1)])


def agreed(found: Sequence[Tracked]) -> Tracked:
    """Where all operands that have the dimension leave it."""
    if len(set(found)) != 1:
        raise Mixes("it combines all positions of the dimension with each other")
    return found[0]

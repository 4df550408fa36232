"""Cutting an op's access patterns along a common outer dimension until each piece is within the rank limit."""

from collections.abc import Sequence
from math import gcd

from neuron_dialects.access import AccessPattern, Affine, Dims, merge_dims
from neuron_dialects.isa.limits import MAX_DMA_DIMS, MAX_ON_CHIP_DIMS


def needs_split(patterns: Sequence[AccessPattern], is_dma: bool) -> bool:
    """Whether a pattern has more free dims than an instruction takes."""
    limit = MAX_DMA_DIMS if is_dma else MAX_ON_CHIP_DIMS
    return any(len(p.dims) > limit for p in patterns)


def split_outer(dims: Dims, count: int) -> tuple[int, Dims] | None:
    """(stride of the cut, inner dims) when the outermost `count` positions can be peeled off `dims`, else None."""
    stride, size = dims[0]
    if size == count:
        return stride, dims[1:] or ((1, 1),)
    if size % count == 0:
        inner = size // count
        return stride * inner, ((stride, inner), *dims[1:])
    if count % size == 0 and len(dims) > 1:
        deeper = split_outer(dims[1:], count // size)
        if deeper and deeper[0] * (count // size) == stride:
            return deeper
    return None


def cut(patterns: Sequence[AccessPattern], variable: int) -> tuple[int, list[AccessPattern]] | None:
    """Peel a common outer dimension: (trip count, patterns of iteration `$variable`), or None when there is none."""
    longest = max(patterns, key=lambda p: len(p.dims))
    outer = [p.dims[0][1] for p in patterns]
    for trips in dict.fromkeys((longest.dims[0][1], *outer, gcd(*outer))):
        if trips == 1:
            continue
        pieces: list[AccessPattern] = []
        for pattern in patterns:
            found = split_outer(pattern.dims, trips)
            if found is None:
                break
            stride, inner = found
            offset = pattern.offset + Affine.variable(variable, stride)
            pieces.append(AccessPattern(pattern.partition, pattern.partitions, offset, merge_dims(inner)))
        if len(pieces) == len(patterns):
            return trips, pieces
    return None

"""Identities of pools, as rewrite patterns. Each docstring is the identity."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.pattern_rewriter import PatternRewriter

from neuron_dialects.graph import PoolKind, PoolOp, ints, shape_of
from neuron_dialects.graph.attrs import ints_attr
from neuron_dialects.graph.shapes import window_extent
from passes.rewriting import Rewrite, rewrites

LONGEST_CHAIN = 4
"""Pools in front of one that are looked at, each of which may have few taps because of the one before."""


@dataclass(frozen=True)
class Line:
    """One dimension of a pool with a stride of one: `outputs` maxima of `extent` neighbours each, `low` and `high` of
    which may be padding.
    """

    extent: int
    low: int
    high: int
    outputs: int

    @property
    def most_apart(self) -> int:
        """How far apart taps on these maxima may be for no element to be left out between two of them, or beside the
        first or the last one that there is: there, what a tap beyond the end would have added lies in the padding.
        """
        return min(self.extent, self.low + 1, self.high + 1, self.outputs)


def spread_taps(taps: int, line: Line) -> int:
    """The greatest distance between taps, of `taps` neighbours the first, the last and some others, that will do."""
    return max((step for step in range(1, line.most_apart + 1) if (taps - 1) % step == 0), default=1)


def line_of(pool: PoolOp, d: int, depth: int = LONGEST_CHAIN) -> Line | None:
    """A spatial dimension of a max pool whose results are maxima of neighbours; None where they are not."""
    if pool.kind.data is not PoolKind.MAX or ints(pool.strides)[d] != 1:
        return None
    dilation, pads, rank = ints(pool.dilations)[d], ints(pool.pads), len(ints(pool.kernel))
    if dilation > 1:
        before = line_of(inner, d, depth - 1) if isinstance(inner := pool.x.owner, PoolOp) and depth else None
        if before is None or dilation > before.most_apart:
            return None
    extent = window_extent(ints(pool.kernel)[d], dilation)
    return Line(extent, pads[d], pads[rank + d], shape_of(pool.result)[2 + d])


@rewrites(PoolOp)
def max_pool_of_max_pool(op: PoolOp, rewriter: PatternRewriter) -> None:
    """max_pool(max_pool(x)) -> the outer one of fewer, dilated taps, as windows of the inner one overlap"""
    inner = op.x.owner
    if op.kind.data is not PoolKind.MAX or not isinstance(inner, PoolOp):
        return
    kernel, dilations = list(ints(op.kernel)), list(ints(op.dilations))
    for d, taps in enumerate(kernel):
        line = line_of(inner, d) if dilations[d] == 1 and taps > 1 else None
        if line is not None:
            dilations[d] = spread_taps(taps, line)
            kernel[d] = (taps - 1) // dilations[d] + 1
    if tuple(kernel) == ints(op.kernel):
        return
    properties = {**op.properties, "kernel": ints_attr(kernel), "dilations": ints_attr(dilations)}
    rewriter.replace(op, PoolOp.create(operands=[op.x], properties=properties, result_types=[op.result.type]))


POOL_IDENTITIES: tuple[Rewrite, ...] = (max_pool_of_max_pool,)

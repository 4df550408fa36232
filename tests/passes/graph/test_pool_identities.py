"""Taps of pools on maxima of neighbours: every combination of small sizes against sets of elements."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from passes.graph.pool_identities import Line, spread_taps

Maximum = frozenset[int]
"""The elements that something is the maximum of."""


def pooled(values: Sequence[Maximum], taps: int, stride: int, pads: tuple[int, int], dilation: int) -> list[Maximum]:
    """What each result of a pool is the maximum of."""
    low, high = pads
    outputs = (len(values) + low + high - (taps - 1) * dilation - 1) // stride + 1
    found: list[Maximum] = []
    for output in range(outputs):
        places = (output * stride - low + tap * dilation for tap in range(taps))
        found.append(frozenset[int]().union(*(values[place] for place in places if 0 <= place < len(values))))
    return found


# A pool of fewer, dilated taps is made of the same elements as that of all taps, at the borders too.
def test_no_element_is_left_out() -> None:
    spread = 0
    for size, extent in product((1, 2, 4, 6), (1, 2, 3, 5)):
        for inner_pads in product(range(extent), range(extent)):
            if size + sum(inner_pads) < extent:
                continue
            maxima = pooled([frozenset({element}) for element in range(size)], extent, 1, inner_pads, 1)
            line = Line(extent, *inner_pads, len(maxima))
            for taps, stride in product((2, 3, 5), (1, 2)):
                step = spread_taps(taps, line)
                spread += step > 1
                for pads in product((0, taps - 1), (0, taps - 1)):
                    if len(maxima) + sum(pads) >= taps:
                        wanted = pooled(maxima, taps, stride, pads, 1)
                        assert pooled(maxima, (taps - 1) // step + 1, stride, pads, step) == wanted
    assert spread > 100

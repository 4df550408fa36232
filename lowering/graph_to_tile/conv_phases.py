"""Pure arithmetic of convolutions: which input positions and taps yield which outputs, in three spatial dimensions.

One- and two-dimensional convolutions are three-dimensional ones whose other extents are 1. An ordinary convolution is
one `Phase`; a transposed one is a phase, again a plain convolution, for each output position modulo the stride.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil

from lowering.graph_to_tile.windows import Segment, segments

Triple = tuple[int, int, int]
"""(depth, height, width)."""


@dataclass(frozen=True)
class Phase:
    """A plain convolution that yields every `step`-th output from `origin`, in three spatial dimensions.

    Output position o (counted within the phase) reads input o * stride + offset[tap] - pad_low for each of its `taps`
    (tap number in the packed weights, offset). `sizes`: outputs of the phase; `reach`: extent of its window. `beside`:
    tap numbers of further phases that read the same input for other rows, whose channels follow those of this one.
    """

    origin: Triple
    step: Triple
    sizes: Triple
    stride: Triple
    pad_low: Triple
    reach: Triple
    taps: tuple[tuple[int, Triple], ...]
    beside: tuple[tuple[int, ...], ...] = ()

    def segments(self, dimension: int, tile: int, inputs: int) -> list[Segment]:
        """The outputs along a dimension in tiles, which read `inputs` positions."""
        d = dimension
        return segments(self.sizes[d], tile, self.stride[d], self.reach[d], self.pad_low[d], inputs)


def triple(values: Sequence[int], fill: int) -> Triple:
    """Values of 1 to 3 spatial dimensions as (depth, height, width); a 1-d extent is the height: rows tile it."""
    if len(values) == 1:
        return (fill, values[0], fill)
    return (fill, values[0], values[1]) if len(values) == 2 else (values[0], values[1], values[2])


def conv_phase(kernel: Triple, strides: Triple, pads: Triple, dilations: Triple, outputs: Triple) -> Phase:
    """The single phase of an ordinary convolution; `pads` are the low ones."""
    taps = tuple(
        (number, (d * dilations[0], h * dilations[1], w * dilations[2]))
        for number, (d, h, w) in enumerate(product(*(range(n) for n in kernel)))
    )
    reach = tuple((n - 1) * dilation + 1 for n, dilation in zip(kernel, dilations, strict=True))
    return Phase((0, 0, 0), (1, 1, 1), outputs, strides, pads, (reach[0], reach[1], reach[2]), taps)


def transposed_phases(kernel: Triple, strides: Triple, pads: Triple, dilations: Triple, outputs: Triple) -> list[Phase]:
    """The phases of a transposed convolution.

    Output o = i * stride + tap * dilation - pad for input i, so output phase r (o mod stride) uses the taps with
    (r + pad - tap * dilation) divisible by the stride, at input o // stride + (r + pad - tap * dilation) / stride.
    """
    phases: list[Phase] = []
    for origin in product(*(range(min(s, n)) for s, n in zip(strides, outputs, strict=True))):
        per_dim: list[list[tuple[int, int]]] = []
        for d in range(3):
            shifted = [(t, origin[d] + pads[d] - t * dilations[d]) for t in range(kernel[d])]
            per_dim.append([(t, value // strides[d]) for t, value in shifted if value % strides[d] == 0])
        sizes = tuple(ceil((outputs[d] - origin[d]) / strides[d]) for d in range(3))
        lows = tuple(min((v for _, v in taps), default=0) for taps in per_dim)
        highs = tuple(max((v for _, v in taps), default=0) for taps in per_dim)
        taps = tuple(
            (
                (td * kernel[1] + th) * kernel[2] + tw,
                (vd - lows[0], vh - lows[1], vw - lows[2]),
            )
            for (td, vd), (th, vh), (tw, vw) in product(*per_dim)
        )
        reach = tuple(high - low + 1 for low, high in zip(lows, highs, strict=True))
        phases.append(
            Phase(
                (origin[0], origin[1], origin[2]),
                strides,
                (sizes[0], sizes[1], sizes[2]),
                (1, 1, 1),
                (-lows[0], -lows[1], -lows[2]),
                (reach[0], reach[1], reach[2]),
                taps,
            )
        )
    return phases


def rows_beside(phases: Sequence[Phase]) -> list[Phase]:
    """The phases with all rows of a step made at once, as channels beside each other; none where rows overlap, or not
    all phases have as many of them.
    """
    merged: list[Phase] = []
    for phase in phases:
        depth, height, width = phase.origin
        if height:
            continue
        others = [other for other in phases if other.origin[::2] == (depth, width) and other.origin[1]]
        alike = [replace(other, origin=phase.origin, taps=phase.taps) == phase for other in others]
        offsets = [offset for _, offset in phase.taps]
        alike += [[offset for _, offset in other.taps] == offsets for other in others]
        if len(others) + 1 != phase.step[1] or not others or not all(alike):
            return []
        numbers = tuple(tuple(number for number, _ in other.taps) for other in others)
        merged.append(replace(phase, step=(phase.step[0], 1, phase.step[2]), beside=numbers))
    return merged


def phase_rows(phase: Phase, first: int, count: int) -> Phase | None:
    """`count` rows of a phase (as far as there are so many) from row `first`; None where there are none."""
    rows = min(count, phase.sizes[1] - first)
    if rows < 1:
        return None
    depth, height, width = phase.origin
    return replace(
        phase,
        origin=(depth, height + first * phase.step[1], width),
        sizes=(phase.sizes[0], rows, phase.sizes[2]),
        pad_low=(phase.pad_low[0], phase.pad_low[1] - first * phase.stride[1], phase.pad_low[2]),
    )


def spatial_part(values: Triple, n: int) -> tuple[int, ...]:
    """Inverse of `triple`."""
    return (values[1],) if n == 1 else values[3 - n :]


def triple_pairs(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(before, after) of 1 to 3 spatial dimensions as depth, height, width."""
    if len(pairs) == 1:
        return [(0, 0), pairs[0], (0, 0)]
    return [(0, 0), *pairs] if len(pairs) == 2 else list(pairs)


def three_dims(dims: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Spatial dims (stride, size) as depth, height, width."""
    if len(dims) == 1:
        return ((0, 1), dims[0], (0, 1))
    return ((0, 1), *dims) if len(dims) == 2 else tuple(dims)

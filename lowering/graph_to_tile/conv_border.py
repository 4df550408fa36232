"""What is added to the first and the last rows and columns of a convolution's result, while its sums are in PSUM.

`graph-block-pixels` moves sums beside a map far down (`pixel_border.py`). One small product does it for both ends of a
dimension: the numbers of all channels, a row for the first position and one for the last, times an identity matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.conv_pixels import Range
from lowering.graph_to_tile.conv_weights import identity_ops
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import DramTensor
from lowering.graph_to_tile.view import View
from lowering.graph_to_tile.windows import Segment, segments, with_first_apart, with_last_apart
from neuron_dialects.access import Affine
from neuron_dialects.graph import BinaryOp, ConcatOp, ConvOp, ReshapeOp, SliceOp, TransposeOp, shape_of, spec_of
from passes.graph.pixel_border import is_border

HEIGHT, WIDTH = 1, 2
"""Spatial dimensions among depth, height and width."""

ENDS = 2
"""The first and the last position."""


@dataclass(frozen=True)
class Border:
    """For height and width, where something is added: how many positions there are, and what is added to the ends,
    [2, channels] on chip.
    """

    ends: Mapping[int, tuple[int, View]]
    identity: View | None = None

    def apart(self, dimension: int, cut: list[Segment], stride: int) -> list[Segment]:
        """Tiles along a dimension, those at both ends not in a loop."""
        if dimension not in self.ends:
            return cut
        return with_last_apart(with_first_apart(cut, stride), stride)

    def rows(self, b: KernelBuilder, count: int, size: int, body: Callable[[Affine, int], None]) -> None:
        """`body(start, size)` for every tile of `count` rows, those at both ends not in a loop."""
        cut = segments(count, size, 1, 1, 0, count)
        for segment in self.apart(HEIGHT, cut, 1):
            with b.loop(segment.count) as i:
                body(i * segment.size + segment.start, segment.size)

    def add(self, b: KernelBuilder, bank: View, outputs: Range, ranges: Sequence[Range]) -> None:
        """Add what belongs to the depths, rows and columns `ranges` of a bank [outputs, images, d, h, w]."""
        for dimension, (size, weights) in self.ends.items():
            assert self.identity is not None
            start, count = ranges[dimension]
            first = start.is_constant and start.constant == 0
            last = start.is_constant and start.constant + count == size
            at = 1 + dimension
            if first and last:
                reached, ends = bank.slice(at + 1, 0, ENDS, size - 1), self.identity
            elif first:
                reached, ends = bank.slice(at + 1, 0, 1), self.identity.slice(1, 0, 1)
            elif last:
                reached, ends = bank.slice(at + 1, count - 1, 1), self.identity.slice(1, 1, 1)
            else:
                continue
            for place, repeats in enumerate(reached.shape[1:]):
                if place != at:
                    ends = ends.insert(place, repeats)
            b.matmul(reached, weights.slice(1, *outputs), ends, 1)


NONE = Border({})
"""Where nothing is added."""


def take_border(k: Kernel, op: Operation, ops: Sequence[Operation]) -> tuple[Border, Sequence[Operation]]:
    """What is added to the ends, and the operators behind an anchor without these additions, which the group's body
    loses.
    """
    marked = [added for added in ops if is_border(added)]
    if k.chain is not None or not marked or not isinstance(op, ConvOp) or len(shape_of(op.result)) != 4:
        return NONE, ops
    ends: dict[int, tuple[int, View]] = {}
    taken: list[BinaryOp] = []
    for added in marked:
        assert isinstance(added, BinaryOp)
        tensor = k.tensors.get(added.b)
        found = _end_of(added.b, shape_of(op.result))
        if found is None or found in ends or not isinstance(tensor, DramTensor) or tensor.symbol is None:
            continue
        if added.result not in k.destinations and added.a.has_one_use():
            ends[found] = (shape_of(op.result)[1 + found], _on_chip(k, added.b, tensor.symbol, found))
            taken.append(added)
    if not taken:
        return NONE, ops
    for added in reversed(taken):
        added.result.replace_all_uses_with(added.a)
    dtype = spec_of(marked[0].operands[1])[0]
    ones = k.derive(f"identity.{ENDS}.{dtype.name}", [], lambda _: identity_ops(dtype, ENDS))
    identity = k.b.alloc((ENDS, ENDS), dtype.name, "sbuf", 1, "identity").view()
    k.b.load(identity, ones.view())
    return Border(ends, identity), [left for left in ops if left not in taken]


def _end_of(weight: SSAValue, result: Sequence[int]) -> int | None:
    """The dimension along which [channels, rows, 1] or [channels, 1, columns] is added at both ends."""
    channels, rows, columns = shape_of(weight)
    if channels != result[1] or max(rows, columns) < ENDS:
        return None
    return {(result[2], 1): HEIGHT, (1, result[3]): WIDTH}.get((rows, columns))


def _on_chip(k: Kernel, weight: SSAValue, symbol: str, dimension: int) -> View:
    """[2, channels] of the ends of a weight."""
    dtype, (channels, *_) = spec_of(weight)
    ends = k.derive(f"{symbol}.ends", [symbol], lambda v: end_ops(v[0], dimension))
    tile = k.b.alloc((ENDS, channels), dtype.name, "sbuf", 1, "ends").view()
    k.b.load(tile, ends.view())
    return tile


def end_ops(weight: SSAValue, dimension: int) -> list[Operation]:
    """Graph ops from [channels, rows, 1] or [channels, 1, columns] to [2, channels]: the first and last position."""
    shape = shape_of(weight)
    channels, size = shape[0], shape[dimension]
    cuts: list[SliceOp] = []
    for start in (0, size - 1):
        starts = tuple(start if d == dimension else 0 for d in range(3))
        cuts.append(SliceOp(weight, starts=starts, sizes=(channels, 1, 1), steps=(1, 1, 1)))
    both = ConcatOp([cut.result for cut in cuts], 1)
    turned = TransposeOp(both.result, permutation=(1, 0, 2))
    return [*cuts, both, turned, ReshapeOp(turned.result, shape=(ENDS, channels))]

"""Kernel of max and average pooling over one to three spatial dimensions.

Channels (and, in DRAM, images times channels) lie on the partitions. Output positions are cut into tiles; each reads a
block of input positions, which is loaded into a tile with room for its padding. Windows are views of that tile with the
kernel's positions as innermost dimensions, so that a pool is a row reduction per spatial dimension (a window is a
product of ranges), or one for both dimensions of a plane where that reads less. A mean multiplies with the reciprocal
of the number of elements that count; near the borders that number changes, and each stretch of equal numbers is scaled
on its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import inf, prod

import numpy as np

from lowering.graph_to_tile.emitter import Emitter
from lowering.graph_to_tile.iteration import balanced, collapse, overlapping_limit
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.pointwise import require_supported
from lowering.graph_to_tile.row_pairs import pool_pairs
from lowering.graph_to_tile.row_space import agreed_lane, reduce_rows
from lowering.graph_to_tile.tensors import LANES, DramTensor, Ranges, SbufTensor, Tensor, transfer
from lowering.graph_to_tile.view import View
from lowering.graph_to_tile.windows import Segment, segments, tile_extent, with_last_apart
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import PoolKind, PoolOp, ints, shape_of
from neuron_dialects.graph.shapes import window_extent
from neuron_dialects.graph.support import pool_window_limit
from neuron_dialects.neuron import location_name
from passes.graph.row_pairs import halves_rows


@dataclass(frozen=True)
class TapRun:
    """`outputs` positions of a tile from `start`, whose windows have `taps` real elements from tap `first_tap` on."""

    start: int
    outputs: int
    first_tap: int
    taps: int


@dataclass(frozen=True)
class Dimension:
    """One spatial dimension of a pool; `counted_low` and `counted_high` paddings count in a mean."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    dilation: int
    low: int
    counted_low: int
    counted_high: int

    @property
    def reach(self) -> int:
        """Input positions that a window spans."""
        return window_extent(self.kernel, self.dilation)

    def count(self, output: int) -> int:
        """Elements that the window of an output position counts in a mean; 1 where it has none."""
        first = output * self.stride - self.low
        positions = (first + tap * self.dilation for tap in range(self.kernel))
        return max(1, sum(-self.counted_low <= p < self.inputs + self.counted_high for p in positions))

    def tap_runs(self, segment: Segment) -> list[TapRun]:
        """Stretches of outputs of a segment's tile whose windows have the same taps inside of the input."""
        end = segment.extent - segment.high
        runs: list[TapRun] = []
        for output in range(segment.size):
            positions = [output * self.stride + tap * self.dilation for tap in range(self.kernel)]
            inside = [tap for tap, position in enumerate(positions) if segment.low <= position < end]
            first, taps = (inside[0] if inside else 0), len(inside)
            if runs and (runs[-1].first_tap, runs[-1].taps) == (first, taps):
                runs[-1] = replace(runs[-1], outputs=runs[-1].outputs + 1)
            else:
                runs.append(TapRun(output, 1, first, taps))
        return runs

    def count_runs(self, segment: Segment) -> list[tuple[int, int, int]]:
        """(first output within the tile, outputs, count) for stretches of equal counts of a segment's tiles."""
        if segment.count > 1:
            return [(0, segment.size, self.kernel)]
        runs: list[tuple[int, int, int]] = []
        for position in range(segment.size):
            count = self.count(segment.start + position)
            if runs and runs[-1][2] == count:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1, count)
            else:
                runs.append((position, 1, count))
        return runs


def dimensions_of(op: PoolOp) -> list[Dimension]:
    """The spatial dimensions of a pool."""
    kernel, strides, pads, dilations = (ints(attr) for attr in (op.kernel, op.strides, op.pads, op.dilations))
    rank = len(kernel)
    inputs, outputs = shape_of(op.x)[2:], shape_of(op.result)[2:]
    counts = bool(op.count_include_pad)
    return [
        Dimension(
            inputs[d], outputs[d], kernel[d], strides[d], dilations[d], pads[d],
            pads[d] if counts else 0, pads[rank + d] if counts else 0,
        )
        for d in range(rank)
    ]  # fmt: skip


def output_tile(dimensions: Sequence[Dimension], limit: int) -> tuple[int, ...]:
    """Output positions per tile and dimension whose input block has at most `limit` elements, if one window has.

    Outer dimensions are cut first, so that rows of the input stay whole.
    """
    sizes = [d.outputs for d in dimensions]

    def block(position: int) -> int:
        return tile_extent(sizes[position], dimensions[position].stride, dimensions[position].reach)

    for position, d in enumerate(dimensions):
        others = prod(block(p) for p in range(len(sizes)) if p != position)
        if others * block(position) > limit:
            fit = (limit // others - d.reach) // d.stride + 1
            sizes[position] = balanced(d.outputs, max(1, fit))
    return tuple(sizes)


def lower_pool(k: Kernel, op: PoolOp) -> None:
    """Lower `graph.pool`."""
    require_supported(op)
    shape = shape_of(op.x)
    if 0 in shape:
        k.output(op.result)
        return
    if op.x in k.pairs and halves_rows(op):
        pool_pairs(k.b, k.pairs[op.x], k.output(op.result), k.row_budget_elements)
        return
    lane = agreed_lane(k, op.x, op.result, (0, *range(2, len(shape))), range(len(shape)))
    x: Tensor = k.tensor(op.x)
    out: Tensor = k.output(op.result)
    if lane is None:
        assert isinstance(out, DramTensor)
        x, out = merged_images(k.dram(op.x), out)
    dimensions = dimensions_of(op)
    limit = k.row_budget_elements
    window = prod(d.reach for d in dimensions)
    most = pool_window_limit(k.target)
    if window > most:
        raise NeuronError(
            "NX-OP-002",
            f"a pool window spans {window} elements, limit {most}",
            node=location_name(op.location),
            help="run it on the host",
        )
    tile = output_tile(dimensions, overlapping_limit(prod(shape[2:]), limit))
    _Pool(k, op.kind.data, dimensions, tile, x, out).emit()


def merged_images(x: DramTensor, out: DramTensor) -> tuple[DramTensor, DramTensor]:
    """Images and channels as one dimension of channels, where they form one run in both tensors."""
    (images, channels), (merged, strides) = x.shape[:2], collapse(x.shape[:2], [x.strides[:2], out.strides[:2]])
    if len(merged) > 1 or images == 1:
        return x, out

    def view(tensor: DramTensor, stride: int) -> DramTensor:
        shape, walk = (1, images * channels, *tensor.shape[2:]), (0, stride, *tensor.strides[2:])
        return replace(tensor, shape=shape, strides=walk)

    return view(x, strides[0][0]), view(out, strides[1][0])


class _Pool:
    """Emits one pool of `x` [images, channels, inputs...] into `out` [images, channels, outputs...]."""

    def __init__(
        self,
        k: Kernel,
        kind: PoolKind,
        dimensions: Sequence[Dimension],
        tile: Sequence[int],
        x: Tensor,
        out: Tensor,
    ):
        self.b = k.b
        self.e = Emitter(k.b, k.target)
        self.is_max = kind is PoolKind.MAX
        self.dimensions = dimensions
        self.cuts = [
            segments(d.outputs, size, d.stride, d.reach, d.low, d.inputs)
            for d, size in zip(dimensions, tile, strict=True)
        ]
        if isinstance(x, SbufTensor):
            # The last rows wait for what was computed last, which may not stand in a loop with the rest.
            first = next(d for d, cut in enumerate(self.cuts) if len(cut) > 1 or cut[0].count > 1 or d == len(tile) - 1)
            self.cuts[first] = with_last_apart(self.cuts[first], dimensions[first].stride)
        self.x = x
        self.out = out

    # -- loops
    # ------------------------------------------------------------------------------------------------------------

    def emit(self) -> None:
        """All loops: channels in tiles of 128, images, then tiles of output positions."""

        def lanes(start: Affine, size: int) -> None:
            with self.b.loop(self.x.shape[0]) as image:
                for cut in product(*self.cuts):
                    self._tiles(list(cut), {0: (image, 1), 1: (start, size)}, [])

        self.b.tiles(self.x.shape[1], LANES, lanes)

    def _tiles(self, cut: Sequence[Segment], outer: Ranges, starts: list[Affine]) -> None:
        """Loops over the tiles of one segment per dimension."""
        if len(starts) == len(cut):
            self._tile(cut, outer, starts)
            return
        segment = cut[len(starts)]
        with self.b.loop(segment.count) as i:
            self._tiles(cut, outer, [*starts, i * segment.size])

    def _tile(self, cut: Sequence[Segment], outer: Ranges, starts: Sequence[Affine]) -> None:
        """One tile of output positions; `starts` count from the first tile of each segment."""
        reads, writes = dict(outer), dict(outer)
        for d, (segment, start) in enumerate(zip(cut, starts, strict=True)):
            first = segment.input_start + segment.low
            inside = segment.extent - segment.low - segment.high
            reads[2 + d] = (start * self.dimensions[d].stride + first, inside)
            writes[2 + d] = (start + segment.start, segment.size)
        clips = self._clips(cut)
        block = self.x.load(self.b, 1, reads, None, self.b.rotation).at(1, 0) if clips else self._block(cut, reads)
        view, commit = self.out.store(self.b, 1, writes, None, self.b.rotation)
        dst = view.at(1, 0)
        if self.is_max:
            self._reduced(block, cut, "maximum", dst, clips)
        else:
            self._scaled(dst, self._reduced(block, cut, "add", None, clips), cut)
        commit()

    def _clips(self, cut: Sequence[Segment]) -> bool:
        """Whether a resident operand is read where it lies although the tile has padding: each window meets the input.

        What is loaded is loaded between its padding anyway.
        """
        padded = any(segment.low or segment.high for segment in cut)
        runs = [run for d, segment in zip(self.dimensions, cut, strict=True) for run in d.tap_runs(segment)]
        return isinstance(self.x, SbufTensor) and padded and all(run.taps for run in runs)

    # -- input
    # ------------------------------------------------------------------------------------------------------------

    def _block(self, cut: Sequence[Segment], reads: Ranges) -> View:
        """The input block of a tile, [lanes, extents], with its padding."""
        if not any(segment.low or segment.high for segment in cut):
            return self.x.load(self.b, 1, reads, None, self.b.rotation).at(1, 0)
        lanes = reads[1][1]
        block = self.b.alloc((lanes, *(s.extent for s in cut)), self.x.dtype, "sbuf", self.b.rotation).view()
        interior = block
        for d, segment in enumerate(cut):
            inside = segment.extent - segment.low - segment.high
            for start, size in ((0, segment.low), (segment.low + inside, segment.high)):
                if size:
                    self.e.assign(block.slice(1 + d, start, size), self._padding())
            interior = interior.slice(1 + d, segment.low, inside)
        if all(size for _, size in reads.values()):
            self._fill(interior, reads)
        return block

    def _fill(self, interior: View, reads: Ranges) -> None:
        if isinstance(self.x, SbufTensor):
            self.e.assign(interior, self.x.view(reads).at(1, 0))
        else:
            source = self.x.view(reads, [1, 0, *range(2, len(self.x.shape))])
            transfer(self.b, self.b.load, interior.insert(0), source)

    def _padding(self) -> float:
        """What never changes the result."""
        if not self.is_max:
            return 0.0
        dtype = dtype_by_name(self.x.dtype)
        return -inf if dtype.is_float else float(np.iinfo(dtype.numpy).min)

    # -- reduction
    # --------------------------------------------------------------------------------------------------------

    def _windows(self, block: View, d: int, outputs: int) -> View:
        """Spatial dimension d as output positions, and the window's positions as a new innermost dimension."""
        dimension = self.dimensions[d]
        stride, _ = block.dims[d]
        view = block.slice(1 + d, 0, outputs, dimension.stride)
        return replace(view, dims=(*view.dims, (stride * dimension.dilation, dimension.kernel)))

    def _reduced(self, block: View, cut: Sequence[Segment], op: str, dst: View | None, clips: bool) -> View:
        """The reduction of all windows, [lanes, outputs]: into `dst`, or into an f32 tile.

        `clips`: the block has no padding; windows at the border have fewer taps.
        """
        passes: list[Callable[[View, View], None]] = []
        shapes: list[tuple[int, ...]] = []
        sizes = list(block.shape[1:])
        if not clips and self._joint_is_cheaper(cut):
            sizes = [segment.size for segment in cut]
            passes.append(partial(self._joint_pass, op, tuple(sizes)))
            shapes.append(tuple(sizes))
        else:
            for d in reversed(range(len(cut))):
                sizes[d] = cut[d].size
                passes.append(partial(self._clipped_pass if clips else self._pass, op, d, cut[d]))
                shapes.append(tuple(sizes))
        dtype = self.x.dtype if dst is not None else "f32"
        for number, (run, shape) in enumerate(zip(passes, shapes, strict=True)):
            last = number == len(passes) - 1
            target = dst if last else None
            if target is None:
                target = self.b.alloc((block.partitions, *shape), dtype, "sbuf", self.b.rotation).view()
            run(target, block)
            block = target
        return block

    def _clipped_pass(self, op: str, d: int, segment: Segment, dst: View, block: View) -> None:
        """Reduce the windows along one dimension of a block without padding."""
        dimension = self.dimensions[d]
        for run in dimension.tap_runs(segment):
            first = run.start * dimension.stride + run.first_tap * dimension.dilation - segment.low
            view = block.slice(1 + d, first, run.outputs, dimension.stride)
            stride, _ = block.dims[d]
            windows = replace(view, dims=(*view.dims, (stride * dimension.dilation, run.taps)))
            target = dst.slice(1 + d, run.start, run.outputs)
            if run.taps == 1:
                self.e.assign(target, windows.at(len(windows.dims), 0))
            else:
                reduce_rows(self.b, target, windows, op)

    def _pass(self, op: str, d: int, segment: Segment, dst: View, block: View) -> None:
        """Reduce the windows along one dimension."""
        windows = self._windows(block, d, segment.size)
        if self.dimensions[d].kernel == 1:
            self.e.assign(dst, windows.at(len(windows.dims), 0))
        else:
            reduce_rows(self.b, dst, windows, op)

    def _joint_pass(self, op: str, outputs: Sequence[int], dst: View, block: View) -> None:
        """Reduce the windows of all dimensions at once."""
        windows = block
        for d, size in enumerate(outputs):
            windows = self._windows(windows, d, size)
        reduce_rows(self.b, dst, windows, op)

    def _joint_is_cheaper(self, cut: Sequence[Segment]) -> bool:
        """Whether one reduction over the windows of a plane reads no more than one per dimension."""
        if len(cut) != 2:
            return False
        (rows, columns), (kernel_rows, kernel_columns) = cut, [d.kernel for d in self.dimensions]
        joint = rows.size * columns.size * kernel_rows * kernel_columns
        return joint <= rows.extent * columns.size * kernel_columns + rows.size * columns.size * kernel_rows

    def _scaled(self, dst: View, total: View, cut: Sequence[Segment]) -> None:
        """dst = sums divided by the number of elements that count."""
        runs = [d.count_runs(segment) for d, segment in zip(self.dimensions, cut, strict=True)]
        for stretch in product(*runs):
            target, source = dst, total
            for d, (first, size, _) in enumerate(stretch):
                target, source = target.slice(1 + d, first, size), source.slice(1 + d, first, size)
            factor = 1.0 / prod(count for _, _, count in stretch)
            self.e.scalar(target, source, "multiply", factor)


KERNELS = {PoolOp: lower_pool}
"""Kernel template of pooling."""

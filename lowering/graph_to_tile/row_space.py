"""Spaces of rows: which dimensions a reduction or normalisation keeps, which it goes over, and how its rows lie on
chip.

A kernel that reduces dimensions of a tensor wants kept dimensions on the partitions and in loops, and the reduced ones
innermost in its views. `dram_rows` and `resident_rows` make such a space, for tensors in DRAM (whose dimensions may
merge and split) and for resident ones (which fix the partition); `RowSpace` arranges views of pieces as [lanes, kept
dimensions, reduced dimensions] and walks over pieces, whole rows at a time or, where a row is too long for SBUF, in
chunks of one row.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

from xdsl.ir import SSAValue

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.iteration import (
    Access,
    Piece,
    Space,
    Strides,
    balanced,
    choose_lanes,
    chunk_sizes,
    collapse,
    overlapping_limit,
    split,
    traverse,
)
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, row_major
from lowering.graph_to_tile.view import View
from neuron_dialects.access import merge_dims
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.isa.limits import MAX_ON_CHIP_DIMS

Key = TypeVar("Key", bound=Hashable)

ROW_PASSES = 4.0
"""How often a row operator goes over its data, for the choice of lanes."""


@dataclass(frozen=True)
class RowSpace:
    """A space with `reduced` dimensions, none of them on the partitions, and tensors seen from it."""

    space: Space
    reduced: tuple[int, ...]
    accesses: tuple[Access, ...]

    @property
    def kept(self) -> list[int]:
        """The dimensions that are neither reduced nor on the partitions."""
        return [d for d in self.space.free if d not in self.reduced]

    @property
    def row_length(self) -> int:
        """Elements of one row: the product of the reduced dimensions."""
        return prod(self.space.shape[d] for d in self.reduced)

    def arranged(self, view: View) -> View:
        """A view of a piece, with one free dimension per free dimension of the space, as [lanes, kept, reduced]."""
        places = {d: position for position, d in enumerate(self.space.free)}
        return view.permute([places[d] for d in (*self.kept, *self.reduced)])

    def per_row(self, view: View) -> View:
        """As `arranged`, for a tensor with one element per row: [lanes, kept]."""
        view = self.arranged(view)
        for _ in self.reduced:
            view = view.at(1 + len(self.kept), 0)
        return view

    def row_shape(self, piece: Piece) -> tuple[int, ...]:
        """(lanes, kept sizes) of a piece."""
        return tuple(piece[d][1] if d in piece else self.space.shape[d] for d in (self.space.partition, *self.kept))

    def chunks(self, limit: int) -> list[int] | None:
        """Piece sizes with whole rows, of at most about `limit` elements; None where one row is longer."""
        if self.row_length > limit:
            return None
        wanted = max(self.row_length, overlapping_limit(self.space.row_elements, limit))
        return chunk_sizes(self.space.shape, self.space.partition, wanted, self.reduced)

    def each_piece(
        self,
        b: KernelBuilder,
        chunks: Sequence[int],
        loads: Mapping[Key, Access],
        body: Callable[[Piece, dict[Key, View]], None],
    ) -> None:
        """`body(piece, views)` for pieces of whole rows, the views arranged."""

        def arranged_body(piece: Piece, views: dict[Key, View]) -> None:
            body(piece, {key: self.arranged(view) for key, view in views.items()})

        traverse(b, self.space, chunks, {key: (access, None) for key, access in loads.items()}, arranged_body)

    def each_long_row(self, b: KernelBuilder, body: Callable[[Piece], None]) -> None:
        """`body(piece)` for pieces of one row on every lane, which the body walks with `each_chunk`."""
        chunks = [1 if d in self.kept else size for d, size in enumerate(self.space.shape)]
        chunks[self.space.partition] = min(LANES, chunks[self.space.partition])
        traverse(b, self.space, chunks, {}, lambda piece, views: body(piece))

    def each_chunk(self, b: KernelBuilder, piece: Piece, limit: int, body: Callable[[Piece], None]) -> None:
        """`body(piece)` for chunks of at most `limit` elements of the row of a piece."""

        def nest(dims: Sequence[int], piece: Piece, budget: int) -> None:
            if not dims:
                body(piece)
                return
            size = balanced(self.space.shape[dims[0]], max(1, budget // prod(self.space.shape[d] for d in dims[1:])))
            b.tiles(
                self.space.shape[dims[0]],
                size,
                lambda start, count: nest(dims[1:], {**piece, dims[0]: (start, count)}, budget // size),
            )

        nest(self.reduced, piece, limit)

    def load(self, b: KernelBuilder, access: Access, piece: Piece) -> View:
        """One piece of a tensor, arranged and repeated to the piece's sizes."""
        sizes = [piece[d][1] if d in piece else self.space.shape[d] for d in self.space.free]
        view = access.load(b, self.space, piece, None, b.rotation)
        lanes = piece[self.space.partition][1]
        view = view.slice(0, 0, lanes) if view.partitions != lanes else view
        return self.arranged(view.broadcast(sizes))

    def stats(self, b: KernelBuilder, piece: Piece, dtype: str = "f32") -> View:
        """A new tile with one element per row of a piece: [lanes, kept]."""
        lanes, *kept = self.row_shape(piece)
        view = b.alloc((lanes, *(kept or [1])), dtype, "sbuf", b.rotation).view()
        return view if kept else view.at(1, 0)


def agreed_lane(
    k: Kernel, x: SSAValue, out: SSAValue, axes: Collection[int], out_dims: Sequence[int | None]
) -> int | None:
    """The dimension of x on the partitions where x or the result is resident, None where neither is.

    `out_dims[d]` is the result's dimension for x's dimension d. A resident tensor that cannot take part leaves SBUF.
    """
    lane: int | None = None
    if out in k.residents and out not in k.destinations:
        place = k.residents[out][0]
        lane = next((d for d, o in enumerate(out_dims) if o == place and d not in axes), None)
        if lane is None:
            del k.residents[out]
    tensor = k.tensor(x)
    if isinstance(tensor, SbufTensor):
        if lane is None and tensor.partition not in axes:
            return tensor.partition
        if lane != tensor.partition:
            k.dram(x)
    return lane


def resident_rows(shape: Sequence[int], axes: Collection[int], lane: int, accesses: Sequence[Access]) -> RowSpace:
    """The rows of a tensor of `shape` whose dimension `lane` lies on the partitions."""
    return RowSpace(Space(tuple(shape), lane), tuple(sorted(axes)), tuple(accesses))


def dram_rows(
    k: Kernel, shape: Sequence[int], axes: Collection[int], tensors: Sequence[tuple[DramTensor, Strides]]
) -> RowSpace:
    """The rows of tensors in DRAM, each given with its strides over `shape`, 0 where it stands still.

    Dimensions merge where all tensors allow it, and the one on the partitions is split where that is cheaper.
    """
    kept = [1 if d in axes else size for d, size in enumerate(shape)]
    # A tensor that no one loads keeps kept and reduced dimensions apart: it stands still on the reduced ones alone.
    marker = tuple(0 if d in axes else stride for d, stride in enumerate(row_major(kept)))
    merged, strides = collapse(shape, [*(walk for _, walk in tensors), marker])
    lanes_from = [d for d, stride in enumerate(strides[-1]) if stride]
    if lanes_from:
        sizes_bytes = [dtype_by_name(tensor.dtype).size_bytes for tensor, _ in tensors]
        lanes = choose_lanes(merged, strides[:-1], sizes_bytes, lanes_from, k.target, ROW_PASSES)
        partition = lanes.dim
        if lanes.parts != merged[lanes.dim]:
            merged, strides = split(merged, strides, lanes.dim, lanes.parts)
    else:
        merged, strides, partition = (1, *merged), [(0, *walk) for walk in strides], 0
    reduced = tuple(d for d in range(len(merged)) if strides[-1][d] == 0 and d != partition)
    accesses = [Access.dram(tensor, merged, walk) for (tensor, _), walk in zip(tensors, strides, strict=False)]
    return RowSpace(Space(merged, partition), reduced, tuple(accesses))


def each_row(b: KernelBuilder, kept: int, views: Sequence[View], body: Callable[[Sequence[View]], None]) -> None:
    """`body(views)` for every position of the `kept` outer free dimensions of all views, which disappear."""
    if kept == 0:
        body(views)
        return
    with b.loop(views[0].shape[1]) as i:
        each_row(b, kept - 1, [view.at(1, i) for view in views], body)


def repeated_rows(stats: View, like: View) -> View:
    """[lanes, kept] repeated along the reduced dimensions of `like`."""
    for size in like.shape[len(stats.shape) :]:
        stats = stats.insert(len(stats.dims), size)
    return stats


def reduce_rows(b: KernelBuilder, dst: View, src: View, op: str, negate: bool = False) -> None:
    """dst [lanes, kept] = reduction of src [lanes, kept, reduced] over its trailing dimensions.

    Loops over kept dimensions where the engine cannot address all at once; a view that then still has too many is
    reduced innermost dimension first.
    """
    kept = len(dst.dims)
    rank = len(merge_dims(src.dims[kept:])) + (len(merge_dims(src.dims[:kept])) if prod(dst.shape[1:]) > 1 else 0)
    if rank <= MAX_ON_CHIP_DIMS:
        b.reduce(dst, src, op, len(src.dims) - kept, negate)
        return
    outer = [d for d in range(1, 1 + kept) if dst.shape[d] > 1]
    if outer:
        dim = min(outer, key=lambda d: dst.shape[d])
        with b.loop(dst.shape[dim]) as i:
            reduce_rows(b, dst.at(dim, i), src.at(dim, i), op, negate)
        return
    partial = b.alloc(src.shape[:-1], "f32", "sbuf", b.rotation).view()
    reduce_rows(b, partial, src, op)
    reduce_rows(b, dst, partial, op, negate)

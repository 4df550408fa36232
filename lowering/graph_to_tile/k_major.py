"""Matrices with the contracted dimension on partitions, as the tensor engine reads both operands.

    panel[k, k tile, row] = tensor[row, k tile * 128 + k]

Where k lies apart in DRAM, the DMA puts it on partitions; where it is contiguous, rows are loaded as they lie and
turned by the tensor engine.
"""

from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, Tensor, transfer
from lowering.graph_to_tile.turning import turn_rows
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import TransposeOp

FEW_ROWS = 8
"""Up to so many rows are turned by the DMA, element by element; more go through the tensor engine."""

STAGED_BYTES = 16 * 1024
"""Bytes a partition for blocks of rows that wait to be turned, at most four of them and at least two."""

SLABS = 4
"""Slabs of rows that wait on chip to be turned: the DMA runs so far ahead of the tensor engine."""

TRANSFER_BYTES = 128 * 1024
"""k tiles that are smaller are loaded several at once: all DMA engines take 400 ns to start, 110 KB's time."""

Rows = dict[int, tuple[Affine, int]]


class KMajor:
    """A matrix [rows, k] made available as [k on partitions, rows], from wherever and however it lies."""

    def __init__(self, kernel: Kernel, tensor: Tensor, row_dim: int, k_dim: int):
        """`row_dim` and `k_dim` are dimensions of `tensor`; the others are batch dimensions."""
        self.kernel, self.tensor, self.row_dim, self.k_dim = kernel, tensor, row_dim, k_dim
        self.k = tensor.shape[k_dim]

    @property
    def is_direct(self) -> bool:
        """Whether the DMA can load k onto partitions in runs (or has so little to move that runs do not matter)."""
        tensor = self.tensor
        if isinstance(tensor, SbufTensor):
            return False
        return tensor.strides[self.k_dim] != 1 or min(tensor.shape[self.row_dim], self.k) <= FEW_ROWS

    def load(self, panel: View, ranges: Rows, groups: int = 2) -> None:
        """Fill `panel` [128, k tiles, rows] with the rows that `ranges` selects (at most 128 of them unless direct).

        A direct source comes a few k tiles at a time, so that multiplying can start with the first. Others are turned
        in at least so many `groups`, so that one leaves PSUM while the next is turned.
        """
        full, rest = divmod(self.k, LANES)
        if self.is_direct:
            group = -(-TRANSFER_BYTES // (LANES * panel.shape[2] * dtype_by_name(panel.dtype).size_bytes))

            def tiles(start: Affine, count: int) -> None:
                self.load_tiles(panel.slice(1, start, count), ranges, start)

            self.kernel.b.tiles(full, group, tiles)
            if rest:
                self.load_tiles(panel.slice(0, 0, rest).slice(1, full, 1), ranges, Affine(full))
            return
        turn_rows(self.kernel, panel, self.staged(ranges), parts=groups)

    def load_tiles(self, panel: View, ranges: Rows, start: Affine) -> None:
        """Fill `panel` [lanes, k tiles, rows] of a direct source with its k tiles from `start` on, in one transfer."""
        assert isinstance(self.tensor, DramTensor)
        window = self.tensor.view({**ranges, self.k_dim: (start * LANES, panel.partitions)}, [self.k_dim, self.row_dim])
        k_dim, rows = window.dims
        tiles = (LANES * k_dim[0], panel.shape[1])
        source = View(window.buffer, Affine(), 0, window.offset, (k_dim, tiles, rows))
        transfer(self.kernel.b, self.kernel.b.load, panel, source)

    def load_slab(self, panel: View, ranges: Rows, index: Affine) -> None:
        """Fill `panel` [128, row tiles, 128] with k tile `index` of the rows that `ranges` selects, 128 to a tile."""
        assert isinstance(self.tensor, DramTensor)
        kernel, tiles = self.kernel, panel.shape[1]
        window = self.tensor.view({**ranges, self.k_dim: (index * LANES, LANES)}, [self.k_dim, self.row_dim])
        (k_stride, _), (stride, _) = window.dims
        row_tiles, rows, k = (stride * LANES, tiles), (stride, LANES), (k_stride, LANES)
        order = (k, row_tiles, rows) if self.is_direct else (rows, row_tiles, k)
        source = View(window.buffer, Affine(), 0, window.offset, order)
        if self.is_direct:
            transfer(kernel.b, kernel.b.load, panel, source)
            return
        staged = kernel.b.alloc((LANES, tiles, LANES), panel.dtype, "sbuf", SLABS, "rows").view()
        transfer(kernel.b, kernel.b.load, staged, source)
        turned = kernel.b.alloc((LANES, tiles, LANES), panel.dtype, "psum", 2, "turned").view()
        with kernel.b.loop(tiles) as tile:
            kernel.b.transpose(turned.at(1, tile), staged.at(1, tile))
        kernel.b.copy(panel, turned)

    def staged(self, ranges: Rows) -> View:
        """The rows as they lie: [rows, k] on chip."""
        if isinstance(self.tensor, SbufTensor):
            view = self.tensor.view(ranges)
        else:
            row_bytes = self.k * dtype_by_name(self.tensor.dtype).size_bytes
            copies = max(2, min(4, STAGED_BYTES // row_bytes))
            view = self.tensor.load(self.kernel.b, self.row_dim, ranges, copies=copies, name="rows")
        position = self.k_dim - (1 if self.k_dim > self.row_dim else 0)
        for d in reversed(range(len(view.dims))):
            if d != position:
                view = view.at(1 + d, 0)
        return view


def swapped(tensor: DramTensor) -> DramTensor:
    """The same window with its last two dimensions exchanged."""
    rank = len(tensor.shape)
    return tensor.transpose([*range(rank - 2), rank - 1, rank - 2])


def k_major(k: Kernel, tensor: DramTensor) -> DramTensor:
    """[..., rows, K] as [..., K, rows]: a weight is turned at emission, anything else is another window."""
    rank = len(tensor.shape)
    if tensor.symbol is None or not k.is_parameter(tensor):
        return swapped(tensor)
    order = [*range(rank - 2), rank - 1, rank - 2]
    return k.derive(f"{tensor.symbol}.k_major", [tensor.symbol], lambda v: [TransposeOp(v[0], permutation=order)])

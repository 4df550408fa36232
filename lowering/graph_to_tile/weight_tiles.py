"""Tiles of a weight matrix that streams past: groups of them are one transfer of long runs.

A matrix [k, n] that is a constant is packed at emission as [block of columns, lane, k tile, column], so that what one
partition receives of a group of k tiles is one run. Any other matrix is read where it lies, in shorter runs.
"""

from math import ceil

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.conv_weights import is_packable
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, DramTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import MatMulOp, PadMode, PadOp, ReshapeOp, TransposeOp

RUN_BYTES = 4096
"""What one partition receives in one transfer: from here on the DMA engines are as fast as they can be."""


class WeightTiles:
    """The tiles [128, columns] of the second operand of `op`, in blocks of `width` columns.

    `weight`: the same operand as [k, n]. `group`: k tiles that are loaded together. `by_lane`: whether lane p of tile t
    is number p * tiles + t of k (asked for by a first operand that lies in DRAM: a partition then receives neighbours),
    not t * 128 + p; only a packed matrix without a remainder can lie so.
    """

    def __init__(self, k: Kernel, op: MatMulOp, weight: DramTensor, width: int, *, by_lane: bool):
        self.weight, self.width, self.by_lane = weight, width, False
        self.group = max(1, RUN_BYTES // (width * dtype_by_name(weight.dtype).size_bytes))
        self.packed: DramTensor | None = None
        if is_packable(k, op.b):
            source = k.tensor(op.b)
            assert isinstance(source, DramTensor) and source.symbol is not None
            turned = bool(op.transpose_b)
            depth, columns = weight.shape
            self.by_lane = by_lane and depth % LANES == 0
            name = f"{source.symbol}.tiles{width}{'t' if turned else ''}{'l' if self.by_lane else ''}"
            self.packed = k.derive(
                name,
                [source.symbol],
                lambda v: pack_tiles(v[0], depth, columns, width, turned=turned, by_lane=self.by_lane),
            )

    def view(self, first: Affine, number: int, lanes: int, start: Affine, size: int) -> View:
        """DRAM view [lanes, number, size] of k tiles from `first` on; `start` is a multiple of the width."""
        if self.packed is not None:
            block = start.divided(self.width)
            return self.packed.view({0: (block, 1), 1: (0, lanes), 2: (first, number), 3: (0, size)}, [1, 2, 3])
        window = self.weight.view({0: (first * LANES, lanes), 1: (start, size)})
        (stride, _), column = window.dims
        return View(window.buffer, Affine(), 0, window.offset, ((stride, lanes), (stride * LANES, number), column))


def pack_tiles(
    weight: SSAValue, depth: int, columns: int, width: int, *, turned: bool, by_lane: bool
) -> list[Operation]:
    """Graph ops from [k, n] (`turned`: [n, k]) to [block of columns, lane, k tile, column], zeros at the ends.

    `by_lane`: see `WeightTiles`.
    """
    ops: list[Operation] = []

    def add(op: Operation) -> SSAValue:
        ops.append(op)
        return op.results[0]

    tiles, blocks = ceil(depth / LANES), ceil(columns / width)
    matrix = add(TransposeOp(weight, permutation=(1, 0))) if turned else weight
    missing = (tiles * LANES - depth, blocks * width - columns)
    if any(missing):
        matrix = add(PadOp(matrix, low=(0, 0), high=missing, mode=PadMode.CONSTANT, value=0.0))
    lanes_first = (LANES, tiles) if by_lane else (tiles, LANES)
    matrix = add(ReshapeOp(matrix, shape=(*lanes_first, blocks, width)))
    add(TransposeOp(matrix, permutation=(2, 0, 1, 3) if by_lane else (2, 1, 0, 3)))
    return ops
